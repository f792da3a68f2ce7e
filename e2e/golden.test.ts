import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, goldenAbsent, goldenCase, goldenDir, listTree, pushLayout, readListing } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { goldenImage } from "./lib/golden-image.ts";
import { expectNothingLeft, type Stack, startPod, startStack } from "./lib/stack.ts";

if (goldenDir() === undefined) console.log(goldenAbsent);
const busybox = ["/bin/busybox", "/usr/bin/busybox"].find((path) => existsSync(path)) as string;

/** All blobs stored, data in the blobs themselves, blob id = digest of the blob (a ToC case of `create` has another id); formats differ. */
const names = [
  "small-v6-zstd-blake3",
  "small-v6-lz4_block-sha256",
  "small-v6-none-sha256",
  "small-v6-chunk4k",
  "tiny-v6-batch-zstd",
  "layers-v6-merge3",
  "many-v6-23blobs",
  "xattrs-v6",
];

describe.skipIf(goldenDir() === undefined)("an image that the original tool converted, through containerd", () => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await startStack();
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test.each(names)("%s runs, and a container sees exactly what the listing says", async (name) => {
    const golden = goldenCase(name);
    const { blobs } = JSON.parse(readFileSync(join(golden.directory, "output.json"), "utf8")) as { blobs: string[] };
    const image = `${stack.registry.host}/golden/${name.toLowerCase()}:nydus`;
    await pushLayout(await goldenImage(golden, blobs, stack.workspace.path("golden", name)), image);
    // The image has no program: busybox comes from outside.
    const pod = await startPod(stack, image, {
      name: name.replaceAll("_", "-"),
      command: ["/busybox", "sleep", "10000"],
      mounts: { "/busybox": busybox },
    });
    try {
      const listing = readListing(golden);
      const file = listing.find(
        (entry) => entry.type === "file" && entry.size > 0 && typeof entry.path === "string" && /^[\w/.-]+$/.test(entry.path),
      );
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/busybox", "sha256sum", "--", file?.path as string]);
      expect(read.stdout.split(" ")[0], read.stderr).toBe(file?.sha256);
      expect(compareListings(await listTree(lowerOf(pod.containerId)), listing)).toEqual([]);
    } finally {
      await pod.remove();
      await stack.containerd.cri.removeImage(image);
    }
  });

  test("nothing is left when the images are gone", async () => {
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});

/** The FUSE folder under a container's overlay: the last of its lower directories. */
function lowerOf(containerId: string): string {
  const line = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .find((one) => one.includes(`/${containerId}/rootfs `) && one.includes(" - overlay "));
  const lower = /lowerdir=([^,]+)/
    .exec(line ?? "")?.[1]
    ?.split(":")
    .at(-1);
  if (lower === undefined) throw new Error(`no overlay of container ${containerId}: ${line}`);
  return lower;
}

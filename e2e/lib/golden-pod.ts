import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, goldenCase, type ListingEntry, listTree, pushLayout, readListing } from "@nydus-ts/testkit";
import { expect } from "vitest";
import { goldenImage } from "./golden-image.ts";
import { type Stack, startPod } from "./stack.ts";

/** Golden images have no program: busybox comes from outside. */
const busybox = ["/bin/busybox", "/usr/bin/busybox"].find((path) => existsSync(path)) as string;

/** Pushes the image of a golden case, as the original built it, and returns its reference. */
export async function pushGolden(stack: Stack, name: string): Promise<string> {
  const golden = goldenCase(name);
  const { blobs } = JSON.parse(readFileSync(join(golden.directory, "output.json"), "utf8")) as { blobs: string[] };
  const image = `${stack.registry.host}/golden/${name.toLowerCase()}:nydus`;
  await pushLayout(await goldenImage(golden, blobs, stack.workspace.path("golden", name)), image);
  return image;
}

/** A pod of the image, pulled through CRI, sees exactly what the case's listing says: a file read by a program in it, and the whole tree. */
export async function expectGoldenPod(stack: Stack, name: string, image: string): Promise<void> {
  const pod = await startPod(stack, image, {
    name: name.replaceAll("_", "-"),
    command: ["/busybox", "sleep", "10000"],
    mounts: { "/busybox": busybox },
  });
  try {
    const listing = readListing(goldenCase(name));
    const file = someFile(listing);
    const read = await stack.containerd.cri.execSync(pod.containerId, ["/busybox", "sha256sum", "--", file.path as string]);
    expect(read.stdout.split(" ")[0], read.stderr).toBe(file.sha256);
    expect(compareListings(await listTree(lowerOf(pod.containerId)), listing)).toEqual([]);
  } finally {
    await pod.remove();
  }
}

/** `ctr run` with this image reads a file as the listing says; the image must have been pulled in the namespace. */
export async function expectGoldenCtr(stack: Stack, name: string, image: string, namespace = "default"): Promise<void> {
  const file = someFile(readListing(goldenCase(name)));
  const { stdout } = await stack.containerd.ctr(
    [
      ...["run", "--rm", "--net-host", "--snapshotter", "nydus"],
      ...["--mount", `type=bind,src=${busybox},dst=/busybox,options=rbind:ro`],
      ...[image, `ctr-${name}`, "/busybox", "sha256sum", "--", file.path as string],
    ],
    { namespace },
  );
  expect(stdout.split(" ")[0]).toBe(file.sha256);
}

/** A file that a command line can name. */
function someFile(listing: readonly ListingEntry[]): ListingEntry {
  const found = listing.find(
    (entry) => entry.type === "file" && entry.size > 0 && typeof entry.path === "string" && /^[\w/.-]+$/.test(entry.path),
  );
  if (found === undefined) throw new TypeError("the listing has no file that a command line can name");
  return found;
}

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

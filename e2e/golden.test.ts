import { goldenAbsent, goldenDir } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, test } from "vitest";
import { expectGoldenPod, pushGolden } from "./lib/golden-pod.ts";
import { expectNothingLeft, type Stack, startStack } from "./lib/stack.ts";

if (goldenDir() === undefined) console.log(goldenAbsent);

/** All blobs stored, data in the blobs themselves, blob id = digest of the blob (a ToC case of `create` has another id); formats differ. */
const names = [
  "small-v6-zstd-blake3",
  "small-v6-lz4_block-sha256",
  "small-v6-none-sha256",
  "small-v6-chunk4k",
  "tiny-v6-batch-zstd",
  "layers-v6-merge3",
  "small-v5-zstd-blake3",
  "layers-v5-merge3",
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
    const image = await pushGolden(stack, name);
    await expectGoldenPod(stack, name, image);
    await stack.containerd.cri.removeImage(image);
  });

  test("nothing is left when the images are gone", async () => {
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});

import { join } from "node:path";
import { ownBinaries, run } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { convert, imageFiles, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

// users.md row 40: "is my image lazy at all?" has no answer in other snapshotters.
describe("nydusctl explain", () => {
  let stack: Stack;
  let ordinary: string;
  let converted: string;
  const explain = async (name: string): Promise<string> => {
    const args = ["explain", name, "--system-socket", stack.snapshotter.systemSocket];
    return (await run(join(ownBinaries, "nydusctl"), args)).stdout;
  };
  const percent = (text: string): number => Number(/lazily: (\d+) % of/.exec(text)?.[1]);

  beforeAll(async () => {
    stack = await startStack();
    ordinary = await pushApp(stack, "app", imageFiles());
    converted = await convert(ordinary);
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("tells a pulled image, its container and what the container has read apart", async () => {
    await stack.containerd.cri.pullImage(converted);
    const pulled = await explain(converted);
    expect(pulled).toMatch(/^mounted +not yet/m);
    expect(percent(pulled)).toBe(0);
    expect(pulled).toMatch(/nydus-blob +lazy +0\.0 MiB +\d+\.\d MiB +nydus data blob: chunks are fetched when they are read/);
    const pod = await startPod(stack, converted, { name: "explained" });
    await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/bigger"]);
    const running = await explain(pod.containerId);
    expect(running).toMatch(new RegExp(`^image +${converted}$`, "m"));
    expect(running).toMatch(new RegExp(`^mounted +${stack.snapshotter.root}/mnt/`, "m"));
    // 9 of 15 MB were read; the rest is not here.
    expect(percent(running)).toBeGreaterThan(50);
    expect(percent(running)).toBeLessThan(95);
    await pod.remove();
  });

  test("says of an ordinary image that it is unpacked, and why", async () => {
    await stack.containerd.cri.pullImage(ordinary);
    const text = await explain(ordinary);
    expect(text).toMatch(/^served +unpacked on the disk/m);
    expect(text).toMatch(/ordinary +overlay .*the layer carries no nydus annotation: unpacked/);
  });

  test("names the images there are when it does not know one", async () => {
    await expect(explain("127.0.0.1/other:1")).rejects.toThrow(converted);
  });
});

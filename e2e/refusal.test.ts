import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256 } from "./lib/golden-image.ts";
import { convert, expectNothingLeft, imageFiles, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

// users.md row 63: the original says "ready" when its daemon refused the mount, and the container dies later of something else.
describe("nydusd's configuration", () => {
  const files = imageFiles();
  const stacks: Stack[] = [];
  const withConfig = async (nydusdConfig: Record<string, unknown>): Promise<{ stack: Stack; image: string }> => {
    const stack = await startStack({ snapshotter: { nydusdConfig } });
    stacks.push(stack);
    return { stack, image: await convert(await pushApp(stack, "app", files)) };
  };
  afterAll(async () => {
    for (const stack of stacks) await stack[Symbol.asyncDispose]();
  });

  describe("with a value that the daemon refuses", () => {
    let stack: Stack;
    let image: string;
    beforeAll(async () => {
      ({ stack, image } = await withConfig({ iostats_files: "yes" }));
    });

    test("fails the container's creation with the daemon's own words, which name key and value, and leaves nothing", async () => {
      const failure = await startPod(stack, image, { name: "refused" }).then(
        () => "it started",
        (error: Error) => error.message,
      );
      expect(failure).toContain(image);
      expect(failure).toContain("iostats_files");
      expect(failure).toMatch(/expected (a )?boolean/i);
      for (const pod of await stack.containerd.cri.listPodSandboxes()) {
        await stack.containerd.cri.stopPodSandbox(pod);
        await stack.containerd.cri.removePodSandbox(pod);
      }
      for (const one of [image, `${stack.registry.host}/pause:1`]) await stack.containerd.cri.removeImage(one);
      await expectNothingLeft(stack);
    });
  });

  describe("with digest_validate, which the original refuses for version 6", () => {
    test("is taken: the data is verified, and a container reads it", async () => {
      const { stack, image } = await withConfig({ digest_validate: true });
      const pod = await startPod(stack, image, { name: "verified" });
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/big"]);
      expect(read.stdout.split(" ")[0], read.stderr).toBe(sha256(files["data/big"] as Uint8Array));
      await pod.remove();
    });
  });
});

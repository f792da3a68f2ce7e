import { readFileSync } from "node:fs";
import { run } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildPull } from "./lib/go.ts";
import { sha256 } from "./lib/golden-image.ts";
import { convert, expectNothingLeft, fuseMounts, imageFiles, pushApp, type Stack, startStack } from "./lib/stack.ts";

const built = await buildPull();
if ("skip" in built) console.log(`a pull without CRI is skipped: ${built.skip}`);

// Nothing here goes through CRI: no snapshot has the labels that name its image, and containerd itself is asked (spec/containerd.md 3.5).
describe("containerd 1.6 without CRI", () => {
  let stack: Stack;
  let ordinary: string;
  let image: string;
  const files = imageFiles();
  const blobs = () => stack.registry.requests(/\/v2\/ctr\/blobs\/sha256/).filter((request) => request.method === "GET");
  const fetched = () => blobs().reduce((sum, request) => sum + request.bytes, 0);
  const ctrRun = (reference: string, name: string, file: string) =>
    stack.containerd.ctr(["run", "--rm", "--net-host", "--snapshotter", "nydus", reference, name, "/bin/sha256sum", `/${file}`]);

  beforeAll(async () => {
    stack = await startStack();
    ordinary = await pushApp(stack, "ctr", files);
    image = await convert(ordinary);
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("an ordinary image is pulled and run with ctr", async () => {
    await stack.containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "nydus", ordinary]);
    expect((await ctrRun(ordinary, "plain", "data/big")).stdout.split(" ")[0]).toBe(sha256(files["data/big"] as Uint8Array));
    await stack.containerd.ctr(["images", "rm", "--sync", ordinary]);
  });

  test("`ctr images pull` of a nydus image, which unpacks every layer itself, fails with the layer, the image and what to do", async () => {
    const args = ["images", "pull", "--plain-http", "--snapshotter", "nydus", image];
    const { code, stderr } = await stack.containerd.ctr(args, { check: false });
    expect(code).not.toBe(0);
    expect(stderr).toContain(image);
    expect(stderr).toMatch(/layer sha256:[0-9a-f]{64} of .* is data of a nydus image/);
    expect(stderr).toContain("pull with crictl, nerdctl");
    await stack.containerd.ctr(["images", "rm", "--sync", image]);
    expect((await stack.containerd.ctr(["snapshots", "--snapshotter", "nydus", "ls"])).stdout.trim().split("\n")).toHaveLength(1);
  });

  describe.skipIf("skip" in built)("an image pulled by a client that unpacks while it pulls", () => {
    test("comes without its data, and its data layer carries no name of the image", async () => {
      const before = fetched();
      const { path } = built as { path: string };
      await run(path, [stack.containerd.socket, "default", "nydus", image]);
      expect(fetched() - before).toBeLessThan(1_000_000); // the data are 14 MB that do not compress
      const { stdout } = await stack.containerd.ctr(["snapshots", "--snapshotter", "nydus", "ls"]);
      const keys = stdout
        .split("\n")
        .map((line) => line.split(/\s+/)[0] as string)
        .filter((key) => key.startsWith("sha256:"));
      expect(keys).toHaveLength(2);
      for (const key of keys) {
        const info = JSON.parse((await stack.containerd.ctr(["snapshots", "--snapshotter", "nydus", "info", key])).stdout) as {
          Labels: Record<string, string>;
        };
        expect(Object.keys(info.Labels).filter((label) => label.includes("cri."))).toEqual([]);
        expect(info.Labels["containerd.io/snapshot/nydus-mode"]).toBe("lazy");
      }
    });

    test("is run by `ctr run` with one mount, and fetches what is read, no more", async () => {
      const before = fetched();
      const read = (await ctrRun(image, "lazy", "data/big")).stdout;
      expect(read.split(" ")[0]).toBe(sha256(files["data/big"] as Uint8Array));
      const bytes = fetched() - before;
      expect(bytes).toBeGreaterThan(5_000_000);
      expect(bytes).toBeLessThan(5_000_000 + 3 * 1_048_576); // the file, busybox, and chunks around them
      expect(fuseMounts(stack)).toHaveLength(1);
      expect(readFileSync(stack.snapshotter.logFile, "utf8")).toContain(` image=${image} `);
    });

    test("leaves nothing behind when it is removed", async () => {
      await stack.containerd.ctr(["images", "rm", "--sync", image]);
      await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
      await expectNothingLeft(stack);
    });
  });
});

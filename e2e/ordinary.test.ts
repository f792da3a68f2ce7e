import { createHash } from "node:crypto";
import { until } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { imageFiles, loggedOutput, pushApp, type Stack, startPod, startStack } from "./lib/stack.ts";

describe("an ordinary image through the nydus snapshotter", () => {
  let stack: Stack;
  let image: string;
  const files = imageFiles();
  const digest = createHash("sha256")
    .update(files["data/big"] as Uint8Array)
    .digest("hex");

  beforeAll(async () => {
    // In this mode no daemon is started ahead of need.
    stack = await startStack({ snapshotter: { daemonMode: "dedicated" } });
    image = await pushApp(stack, "ordinary", files);
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("containerd lists the plugin as ok", async () => {
    const { stdout } = await stack.containerd.ctr(["plugins", "ls"]);
    expect(stdout.split("\n").find((line) => /\snydus\s/.test(line))).toMatch(/ok\s*$/);
  });

  test("runs in a pod: exec reads its files, the log holds its output, it ends with its own code", async () => {
    const pod = await startPod(stack, image, { name: "ordinary", command: ["/bin/sh", "-c", "echo from the container; sleep 10000"] });
    const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/big"]);
    expect(read.stdout.split(" ")[0]).toBe(digest);
    const write = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sh", "-c", "echo x > /data/new && cat /data/new"]);
    expect(write.stdout).toBe("x\n");
    await until("the log line", () => loggedOutput(pod.logFile) !== "" || undefined);
    expect(loggedOutput(pod.logFile)).toBe("from the container");
    await pod.remove();
  });

  test("runs with ctr", async () => {
    await stack.containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "nydus", image]);
    const { stdout } = await stack.containerd.ctr([
      "run",
      "--rm",
      "--net-host",
      "--snapshotter",
      "nydus",
      image,
      "one",
      "/bin/sha256sum",
      "/data/big",
    ]);
    expect(stdout.split(" ")[0]).toBe(digest);
  });

  test("starts no daemon, since nothing of it is lazy", () => {
    expect(stack.snapshotter.daemons()).toEqual([]);
  });

  test("its files count in the usage that kubelet asks for", async () => {
    // containerd collects every ten seconds; what it collected last may be from before the image was there.
    const used = await until("the image's 14 MB in the usage of the snapshots", async () => {
      const [filesystem] = await stack.containerd.cri.imageFilesystems();
      return filesystem !== undefined && filesystem.usedBytes > 14_000_000 ? filesystem : undefined;
    });
    expect(used.mountpoint).toContain("nydus");
  });
});

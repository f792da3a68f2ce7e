import { createHash } from "node:crypto";
import { until } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readerCommand, readerRuns, stopReader, withoutPageCache } from "./lib/reader.ts";
import { convert, expectNothingLeft, imageFiles, pushApp, type Stack, startPod, startStack, untilConnected } from "./lib/stack.ts";

describe.each(["shared", "dedicated"] as const)("containers go on reading (daemon_mode %s)", (daemonMode) => {
  let stack: Stack;
  let image: string;
  const unread = new Uint8Array(3_000_000).map((_, index) => index * 31 + (index >> 9));
  const files = { ...imageFiles(), "late/file": unread };
  const digest = createHash("sha256").update(unread).digest("hex");

  beforeAll(async () => {
    stack = await startStack({ snapshotter: { daemonMode } });
    image = await convert(await pushApp(stack, "recovery", files));
  });
  afterAll(() => stack?.[Symbol.asyncDispose]());

  test("while the snapshotter is stopped, killed and started again", async () => {
    const pod = await startPod(stack, image, { name: `restart-${daemonMode}`, command: readerCommand });
    using _ = withoutPageCache();
    await readerRuns(stack.containerd, pod.containerId);
    const daemons = stack.snapshotter.daemons();
    await stack.snapshotter.restart("SIGKILL");
    await untilConnected(stack);
    // Orderly restarts, however quick, make containerd's next call wait: the pull below has no second try.
    for (let round = 0; round < 3; round++) await stack.snapshotter.restart("SIGTERM");
    expect(await stopReader(stack.containerd, pod.containerId, pod.logFile)).toMatch(/^rounds \d+$/);
    expect(stack.snapshotter.daemons().map((one) => one.pid)).toEqual(daemons.map((one) => one.pid));
    const second = await startPod(stack, image, { name: `restart-${daemonMode}-2` });
    const read = await stack.containerd.cri.execSync(second.containerId, ["/bin/sha256sum", "/data/small/5"]);
    expect(read.exitCode).toBe(0);
    await second.remove();
    await pod.remove();
  });

  test("while nydusd is killed with SIGKILL: it is back, no read fails, and what was not fetched yet is fetched", async () => {
    const pod = await startPod(stack, image, { name: `kill-${daemonMode}`, command: readerCommand });
    using _ = withoutPageCache();
    await readerRuns(stack.containerd, pod.containerId);
    for (let round = 0; round < 2; round++) {
      const before = stack.snapshotter.daemons().map((one) => one.pid);
      expect(before.length).toBeGreaterThan(0);
      const begin = performance.now();
      for (const pid of before) process.kill(pid, "SIGKILL");
      await until("another daemon", () => {
        const now = stack.snapshotter.daemons().map((one) => one.pid);
        return (now.length >= before.length && !now.some((pid) => before.includes(pid))) || undefined;
      });
      const read = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/data/small/9"]);
      console.log(`${daemonMode}: a read was answered ${Math.round(performance.now() - begin)} ms after SIGKILL`);
      expect(read.exitCode, read.stderr).toBe(0);
    }
    const late = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/late/file"]);
    expect(late.stdout.split(" ")[0], late.stderr).toBe(digest);
    expect(await stopReader(stack.containerd, pod.containerId, pod.logFile)).toMatch(/^rounds \d+$/);
    await pod.remove();
  });

  // systemd, or a person: whoever reads is not to suffer by it.
  test("while somebody ends nydusd with SIGTERM: it is back, no read fails, and what was not fetched yet is fetched", async () => {
    const pod = await startPod(stack, image, { name: `term-${daemonMode}`, command: readerCommand });
    using _ = withoutPageCache();
    await readerRuns(stack.containerd, pod.containerId);
    const before = stack.snapshotter.daemons().map((one) => one.pid);
    const begin = performance.now();
    for (const pid of before) process.kill(pid, "SIGTERM");
    await until("another daemon", () => {
      const now = stack.snapshotter.daemons().map((one) => one.pid);
      return (now.length >= before.length && !now.some((pid) => before.includes(pid))) || undefined;
    });
    const late = await stack.containerd.cri.execSync(pod.containerId, ["/bin/sha256sum", "/late/file"]);
    console.log(`${daemonMode}: a read was answered ${Math.round(performance.now() - begin)} ms after SIGTERM`);
    expect(late.stdout.split(" ")[0], late.stderr).toBe(digest);
    expect(await stopReader(stack.containerd, pod.containerId, pod.logFile)).toMatch(/^rounds \d+$/);
    await pod.remove();
    const next = await startPod(stack, image, { name: `term-${daemonMode}-2` });
    const read = await stack.containerd.cri.execSync(next.containerId, ["/bin/sha256sum", "/late/file"]);
    expect(read.stdout.split(" ")[0], read.stderr).toBe(digest);
    await next.remove();
  });

  test("and nothing is left when the image is removed after all that", async () => {
    await stack.containerd.cri.removeImage(image);
    await stack.containerd.cri.removeImage(`${stack.registry.host}/pause:1`);
    await expectNothingLeft(stack);
  });
});

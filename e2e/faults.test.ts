import { join } from "node:path";
import { type Fault, TestRegistry } from "@nydus-ts/registry-client/testing";
import { busyboxImage, ownBinaries, pushLayout, run } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256 } from "./lib/golden-image.ts";
import { imageFiles, type Stack, startPod, startStack } from "./lib/stack.ts";

/** Every fault gets a file of its own that nobody has read, some chunks long. */
const faults: Readonly<Record<string, Fault>> = {
  "says 401": { status: 401 },
  "says 403": { status: 403 },
  "says 404": { status: 404 },
  "says 429": { status: 429, headers: { "retry-after": "1" } },
  "says 500": { status: 500 },
  "cuts every connection": { resetAfterBytes: 1000 },
  "answers nothing at all": { stallMs: Number.POSITIVE_INFINITY },
  "goes silent in the middle": { stallAfterBytes: 1000 },
  "serves other bytes": { corrupt: true },
  "answers another range": { shiftRange: 4096 },
};
const recovered: Readonly<Record<string, Fault>> = {
  "says 500 twice": { status: 500, times: 2 },
  "says 429 with Retry-After once": { status: 429, headers: { "retry-after": "1" }, times: 1 },
  "cuts two connections": { resetAfterBytes: 1000, times: 2 },
};

const fileOf = (name: string): string => `data/${name.replaceAll(" ", "-")}`;

describe("a registry that misbehaves", () => {
  let stack: Stack;
  let registry: TestRegistry;
  let image: string;
  let container: string;
  const files: Record<string, Uint8Array> = {};
  const blobs = { path: /\/blobs\/sha256/ };

  beforeAll(async () => {
    const content = imageFiles()["data/bigger"] as Uint8Array;
    // Different content everywhere, or files would share chunks.
    [...Object.keys(faults), ...Object.keys(recovered), "good", "mount"].forEach((name, index) => {
      files[fileOf(name)] = content.subarray(index * 600_000, (index + 1) * 600_000);
    });
    registry = await TestRegistry.start();
    stack = await startStack({
      snapshotter: {
        nydusdConfig: {
          // No read-ahead: it would bring the next fault's file along.
          amplify_io: 0,
          device: {
            backend: { type: "registry", config: { timeout: 2, connect_timeout: 2, retry_limit: 2 } },
            cache: { type: "blobcache", config: {} },
          },
        },
      },
    });
    await pushLayout(await busyboxImage(stack.workspace.path("app"), files), `${registry.host}/app:oci`);
    // Small chunks, so that no fault's file comes along with another's.
    const args = ["convert", "--source", `${registry.host}/app:oci`, "--target", `${registry.host}/app:nydus`, "--chunk-size", "0x10000"];
    await run(join(ownBinaries, "nydus-image"), args);
    image = `${registry.host}/app:nydus`;
    container = (await startPod(stack, image, { name: "faults" })).containerId;
    // The programs themselves are lazy too: they are read before the registry fails, so that only the data is missing.
    await stack.containerd.cri.execSync(container, ["/bin/sha256sum", "/bin/busybox", "/bin/sha256sum"], 60);
    expect((await read("good")).exitCode).toBe(0);
  });
  afterAll(async () => {
    registry?.faults.clear();
    await stack?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  const read = (name: string) => stack.containerd.cri.execSync(container, ["/bin/sha256sum", `/${fileOf(name)}`], 60);

  test.each(Object.keys(faults))("%s: the reader gets EIO, the rest is served, and afterwards the file is whole", async (name) => {
    const rule = registry.faults.add(blobs, faults[name] as Fault);
    try {
      const failed = await read(name);
      expect(failed.exitCode).not.toBe(0);
      expect(failed.stderr).toMatch(/I\/O error|Input\/output error/);
      expect(rule.hits()).toBeGreaterThan(0);
      expect((await read("good")).exitCode).toBe(0);
    } finally {
      rule.remove();
    }
    const whole = await read(name);
    expect(whole.stdout.split(" ")[0], whole.stderr).toBe(sha256(files[fileOf(name)] as Uint8Array));
    expect((await read("good")).stdout.split(" ")[0]).toBe(sha256(files[fileOf("good")] as Uint8Array));
  });

  test.each(Object.keys(recovered))("%s: the reader does not notice", async (name) => {
    const rule = registry.faults.add(blobs, recovered[name] as Fault);
    const whole = await read(name);
    rule.remove();
    expect(whole.stdout.split(" ")[0], whole.stderr).toBe(sha256(files[fileOf(name)] as Uint8Array));
    expect(rule.hits()).toBeGreaterThan(0);
  });

  test("a mount that fails fails the call, and the message names the host and the cause", async () => {
    await pushLayout(
      await busyboxImage(stack.workspace.path("other"), { "data/mount": files[fileOf("mount")] as Uint8Array }),
      `${registry.host}/other:oci`,
    );
    await run(join(ownBinaries, "nydus-image"), [
      "convert",
      "--source",
      `${registry.host}/other:oci`,
      "--target",
      `${registry.host}/other:nydus`,
    ]);
    const rule = registry.faults.add({ path: /\/other\/blobs\/sha256/, ranged: true }, { status: 403 });
    const failure = await startPod(stack, `${registry.host}/other:nydus`, { name: "refused" }).catch((error: Error) => error);
    rule.remove();
    expect(failure).toBeInstanceOf(Error);
    expect(String(failure)).toContain(registry.host);
    expect(String(failure)).toContain("403");
    expect((await read("good")).exitCode).toBe(0);
    const pod = await startPod(stack, `${registry.host}/other:nydus`, { name: "accepted" });
    await pod.remove();
  });

  test("no secret and no stack trace is in the snapshotter's log, and every failed read has its line in the daemon's", async () => {
    const logs = (await run("sh", ["-c", `cat ${stack.snapshotter.logFile} $(find ${stack.snapshotter.root}/logs -name nydusd.log)`]))
      .stdout;
    expect(logs).toContain(registry.host);
    expect(logs).not.toMatch(/^\s+at .*\.mjs:\d+/m);
  });
});

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { busyboxImage, mountsUnder, processesOf, until, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { imageFiles } from "./lib/stack.ts";

const quickstart = join(import.meta.dirname, "../quickstart");

describe("./quickstart", () => {
  const workspace = new Workspace("nydus-quick");
  // A cache folder of its own, so that a quickstart somebody left running on this machine is not touched.
  const cache = workspace.path("cache");
  const directory = join(cache, "quickstart");
  let layout: string;
  beforeAll(async () => {
    layout = await busyboxImage(workspace.path("image"), imageFiles());
  });
  afterAll(() => workspace[Symbol.asyncDispose]());

  function start(...args: string[]) {
    const child = spawn(quickstart, args, { env: { ...process.env, NYDUS_TEST_CACHE: cache }, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (part: Buffer) => {
        output += part.toString();
      });
    }
    const ended = new Promise<number>((resolve) => child.on("close", (code) => resolve(code ?? -1)));
    workspace.defer(() => {
      child.kill("SIGTERM");
      return ended.then(() => {});
    });
    return { child, ended, output: () => output };
  }

  const nothingIsLeft = (): void => {
    expect(existsSync(directory)).toBe(false);
    expect(mountsUnder(directory)).toEqual([]);
    expect(processesOf(directory)).toEqual([]);
  };

  test("shows every step, prints the table, and leaves nothing; twice", async () => {
    for (let round = 0; round < 2; round++) {
      const one = start(layout, "--", "/bin/sha256sum", "/data/small/3");
      expect(await one.ended, one.output()).toBe(0);
      expect(one.output()).toMatch(/\[9\/9\]/);
      const [, image, fetched] = /^nydus\s+([\d.]+)\s+([\d.]+)\s/m.exec(one.output()) ?? [];
      expect(Number(fetched)).toBeLessThan(Number(image));
      expect(one.output()).toMatch(/^overlayfs\s+[\d.]+/m);
      nothingIsLeft();
    }
  });

  test("cleans up after Ctrl-C in the middle", async () => {
    const one = start(layout, "--", "/bin/sleep", "1000");
    await until(
      "containerd of the quickstart",
      () => processesOf(directory).some((process) => process.command.startsWith("containerd ")) || undefined,
      60_000,
    );
    one.child.kill("SIGINT");
    expect(await one.ended).toBe(130);
    nothingIsLeft();
  });

  test("cleans up after a failure, and says in one line what failed", async () => {
    const one = start(layout, "--", "/bin/no-such-program");
    expect(await one.ended).toBe(1);
    expect(one.output()).toMatch(/quickstart failed: /);
    nothingIsLeft();
  });

  test("--keep leaves everything running and says how to look at it; --stop ends it", async () => {
    const one = start(layout, "--keep", "--", "/bin/true");
    expect(await one.ended, one.output()).toBe(0);
    expect(one.output()).toContain("./quickstart --stop");
    const mounts = readFileSync("/proc/self/mountinfo", "utf8");
    expect(mounts).toContain(directory);
    expect(processesOf(directory).length).toBeGreaterThan(2);
    const stop = start("--stop");
    expect(await stop.ended).toBe(0);
    nothingIsLeft();
  });

  test("a wrong option prints the usage and exits 2", async () => {
    const one = start("--kepe");
    expect(await one.ended).toBe(2);
    expect(one.output()).toContain("usage: ./quickstart");
  });
});

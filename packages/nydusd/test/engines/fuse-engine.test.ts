import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readSync, truncateSync, writeFileSync } from "node:fs";
import { open as openFile, readdir, readFile, stat, statfs } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { compareListings, goldenAbsent, goldenCase, goldenDir, listTree, readListing } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import type { Engine } from "../../src/engines/engine.ts";
import { cachedBlob, type Fetch, mountOf, Stage } from "./fixtures.ts";

const golden = goldenDir();
if (golden === undefined) console.log(goldenAbsent);

/** The largest file of the case's image, and its digest-checked content by the listing. */
function largestFile(): { readonly path: string; readonly size: number } {
  const files = readListing(goldenCase("small-v6-cachefiles")).filter(({ type }) => type === "file");
  const largest = files.reduce((a, b) => (b.size > a.size ? b : a));
  return { path: String(largest.path), size: largest.size };
}

const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
};

async function exitOf(child: ChildProcess): Promise<number | string | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return child.signalCode ?? child.exitCode;
}

describe.skipIf(golden === undefined)("an image served through FUSE", () => {
  test.for(["shared", "cloned"] as const)(
    "shows what the listing says, with nothing of its data in the cache at first (%s device)",
    async (device) => {
      await using stage = new Stage();
      const entry = goldenCase("small-v6-cachefiles");
      await using blob = cachedBlob(entry, { ready: false });
      const engine = stage.engine({ device });
      await engine.attach(mountOf(entry, [blob]));
      await engine.start();
      expect(compareListings(await listTree(stage.mountpoint, { parallel: 2 }), readListing(entry))).toEqual([]);
      expect(engine.metrics("/")?.fopErrors.every((count) => count === 0)).toBe(true);
      const sizes = readListing(entry).map(({ type, size }) => (type === "file" ? size : 0));
      expect(engine.metrics("/")?.dataRead).toBeGreaterThan(Math.max(...sizes));
      await engine.stop({ unmount: true });
      expect(stage.isMounted()).toBe(false);
    },
  );

  test("the capacity shown is that of the disk with the cache", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: true });
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    const shown = await statfs(stage.mountpoint);
    const disk = await statfs(entry.directory);
    expect(shown.bsize).toBe(4096);
    expect(Math.abs(shown.blocks - (disk.blocks * disk.bsize) / 4096)).toBeLessThan(2);
  });

  test("a fetch that fails is EIO for that reader, one line in the log with inode and blob, and the next read succeeds", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    let fail = true;
    const fetch = async (): Promise<void> => {
      if (fail) throw new Error("registry.example answered 503");
    };
    await using blob = cachedBlob(entry, { ready: false, fetch });
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    const path = join(stage.mountpoint, largestFile().path);
    await expect(readFile(path)).rejects.toMatchObject({ code: "EIO" });
    const line = stage.log.lines.find((text) => text.includes("registry.example answered 503"));
    expect(line).toMatch(/^error \/: .*inode \d+ \[\d+\.\.\d+\), blob [0-9a-f]{64}, chunk \d+ at \d+/);
    fail = false;
    expect((await readFile(path)).length).toBe(largestFile().size);
  });

  test("a bootstrap that points at bytes its chunk does not have gets EIO, not those bytes", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: true });
    for (let chunk = 0; chunk < blob.chunkCount; chunk++) blob.layout[2 * chunk] = (blob.layout[2 * chunk] as number) + 1;
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    await expect(readFile(join(stage.mountpoint, largestFile().path))).rejects.toMatchObject({ code: "EIO" });
  });

  test("where the cache file lost its end, a large read is EIO; once it is whole again, every byte is right", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    const dataFile = join(stage.directory, "data");
    await using blob = cachedBlob(entry, { ready: true, dataFile });
    expect(largestFile().size).toBeGreaterThan(32 * 1024); // from there on replies go through the pipe
    const engine = stage.engine({ threads: 1 });
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    const path = join(stage.mountpoint, largestFile().path);
    const whole = readFileSync(dataFile);
    truncateSync(dataFile, 4096);
    await expect(readFile(path)).rejects.toMatchObject({ code: "EIO" });
    writeFileSync(dataFile, whole);
    expect(compareListings(await listTree(stage.mountpoint, { parallel: 2 }), readListing(entry))).toEqual([]);
  });

  test("a reader that is killed while it waits for data ends at once; one that gets another signal still gets its data", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    const gate = Promise.withResolvers<void>();
    await using blob = cachedBlob(entry, { ready: false, fetch: () => gate.promise });
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    const path = join(stage.mountpoint, largestFile().path);
    const files = readListing(entry).filter(({ type, size }) => type === "file" && size > 0);
    const other = String((files.find(({ path: name }) => name !== largestFile().path) as { path: unknown }).path);
    const killed = spawn("cat", [path], { stdio: "ignore" });
    // A shell that catches the signal, so it is not fatal, and then goes on to read.
    const patient = spawn("sh", ["-c", `trap : USR1; exec 3<"$0"; read -r line <&3; cat <&3 >/dev/null`, join(stage.mountpoint, other)], {
      stdio: "ignore",
    });
    try {
      await until(() => engine.inflight().length >= 2);
      patient.kill("SIGUSR1");
      killed.kill("SIGKILL");
      expect(await exitOf(killed)).toBe("SIGKILL");
      expect(patient.exitCode).toBe(null);
      gate.resolve();
      expect(await exitOf(patient)).toBe(0);
    } finally {
      gate.resolve();
      for (const child of [killed, patient]) child.kill("SIGKILL");
    }
  });

  test("a read of one chunk is answered when that has come, however long the disk takes; another chunk of its batch is no answer", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    const never = new Promise<void>(() => undefined);
    // One page, not the first: the kernel then reads nothing ahead.
    const page = async (stage: Stage): Promise<string> => {
      await using file = await openFile(join(stage.mountpoint, largestFile().path));
      const { bytesRead, buffer } = await file.read(Buffer.alloc(4096), 0, 4096, 8192);
      return buffer.toString("hex", 0, bytesRead);
    };
    await using whole = new Stage();
    await using finished = cachedBlob(entry, { ready: true });
    const other = whole.engine();
    await other.attach(mountOf(entry, [finished]));
    await other.start();
    const expected = await page(whole);
    const fetch: Fetch = ([chunk = 0], onVerified) => {
      const data = Buffer.alloc(blob.layout[2 * chunk + 1] as number);
      onVerified(chunk + 1, data);
      readSync(blob.dataFd, data, 0, data.length, (blob.layout[2 * chunk] as number) * 4096);
      onVerified(chunk, data);
      data.fill(0); // its memory is used again
      return never;
    };
    await using blob = cachedBlob(entry, { ready: false, fetch });
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    expect(await page(stage)).toBe(expected);
  });

  test("the first read of a chunk that is asked about is told once, with what was read in order before it, whatever thread reads it", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: true });
    blob.asked.fill(-1);
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    for (let read = 0; read < 2; read++) {
      await listTree(stage.mountpoint, { parallel: 2 });
      // The kernel asks again for what it forgot.
      execFileSync("sh", ["-c", "echo 1 > /proc/sys/vm/drop_caches"]);
    }
    await until(() => blob.readOnCalls.length > 1);
    await engine.stop({ unmount: true });
    const chunks = blob.readOnCalls.map(([chunk]) => chunk);
    expect(new Set(chunks).size).toBe(chunks.length);
    // A run spans no more than the blob.
    const runs = blob.readOnCalls.map(([, sequentialBytes]) => sequentialBytes);
    const end = Math.max(...chunks.map((chunk) => (blob.layout[2 * chunk] as number) * 4096 + (blob.layout[2 * chunk + 1] as number)));
    expect(Math.max(...runs)).toBeGreaterThan(0);
    expect(Math.max(...runs)).toBeLessThanOrEqual(end);
  });

  test("a stop while readers wait for data ends them with an error, and leaves neither mount nor thread", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: false, fetch: () => new Promise(() => undefined) });
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    const reader = spawn("cat", [join(stage.mountpoint, largestFile().path)], { stdio: "ignore" });
    try {
      await until(() => engine.inflight().length > 0);
      await engine.stop({ unmount: true });
      await engine.stop({ unmount: true });
      expect(await exitOf(reader)).toBe(1);
    } finally {
      reader.kill("SIGKILL");
    }
    expect(stage.isMounted()).toBe(false);
    await engine.ended;
  });
});

describe.skipIf(golden === undefined)("more workers than processors", () => {
  test("serve, follow orders while they rest, and end with the session", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: true });
    const engine = stage.engine({ threads: availableParallelism() + 2 });
    await engine.start();
    for (const path of ["/one", "/two"]) await engine.attach(mountOf(entry, [blob], path));
    expect(compareListings(await listTree(join(stage.mountpoint, "one"), { parallel: 4 }), readListing(entry))).toEqual([]);
    await engine.detach("/one");
    expect((await readFile(join(stage.mountpoint, "two", largestFile().path))).length).toBe(largestFile().size);
    await engine.stop({ unmount: true });
    await engine.ended;
    expect(stage.log.lines.filter((line) => line.startsWith("error"))).toEqual([]);
  });
});

describe.skipIf(golden === undefined)("many images in one mount", () => {
  const twoImages = async (
    stage: Stage,
    run: (engine: Engine, attach: (path: string) => Promise<number>) => Promise<void>,
  ): Promise<void> => {
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: true });
    const engine = stage.engine();
    await engine.start();
    await run(engine, (path) => engine.attach(mountOf(entry, [blob], path)));
    await engine.stop({ unmount: true });
  };

  test("stand in directories that come with them, appear and vanish at once, and share no inode number", async () => {
    await using stage = new Stage();
    await twoImages(stage, async (engine, attach) => {
      const at = (path: string): string => join(stage.mountpoint, path);
      await expect(stat(at("a/1"))).rejects.toMatchObject({ code: "ENOENT" });
      expect(await attach("/a/1")).toBe(1);
      expect(await attach("/2")).toBe(2);
      await expect(attach("/2")).rejects.toMatchObject({ code: "MOUNT_EXISTS" });
      expect((await readdir(stage.mountpoint)).sort()).toEqual(["2", "a"]);
      expect(await readdir(at("a"))).toEqual(["1"]);
      const entry = goldenCase("small-v6-cachefiles");
      expect(compareListings(await listTree(at("a/1"), { parallel: 2 }), readListing(entry))).toEqual([]);
      const { path } = largestFile();
      const [one, two] = [await stat(at(`a/1${path}`)), await stat(at(`2${path}`))];
      expect(one.ino).not.toBe(two.ino);
      expect(one.dev).toBe(two.dev);
      await engine.detach("/2");
      await expect(engine.detach("/2")).rejects.toMatchObject({ code: "MOUNT_NOT_FOUND" });
      await expect(stat(at(`2${path}`))).rejects.toMatchObject({ code: "ENOENT" });
      expect(await readdir(at("2"))).toEqual([]);
      expect(await attach("/2")).toBe(3);
      expect((await readFile(at(`2${path}`))).length).toBe(largestFile().size);
      expect(engine.state().state).toMatchObject({
        mounts: [
          { mountpoint: "/a/1", vfsIndex: 1 },
          { mountpoint: "/2", vfsIndex: 3 },
        ],
        pseudoInodes: [
          { path: "/a", ino: 2 },
          { path: "/a/1", ino: 3 },
          { path: "/2", ino: 4 },
        ],
      });
    });
  });

  test("an image mounted at / later hides the directories, and gives them back when it goes", async () => {
    await using stage = new Stage();
    await twoImages(stage, async (engine, attach) => {
      await attach("/one");
      expect(await readdir(stage.mountpoint)).toEqual(["one"]);
      await attach("/");
      expect((await readFile(join(stage.mountpoint, largestFile().path))).length).toBe(largestFile().size);
      await engine.detach("/");
      expect(await readdir(stage.mountpoint)).toEqual(["one"]);
    });
  });

  test("a damaged bootstrap is refused, or served with errors where it is damaged; the others go on", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    const good = readFileSync(entry.bootstrapFile as string);
    await using blob = cachedBlob(entry, { ready: true });
    const engine = stage.engine();
    await engine.start();
    await engine.attach(mountOf(entry, [blob], "/good"));
    for (let seed = 1; seed <= 40; seed++) {
      const bad = Buffer.from(good);
      // A multiplicative generator: the seed in the failure repeats the damage.
      for (let hit = 0, state = seed; hit < 4; hit++) {
        state = Number((BigInt(state) * 48271n) % 2147483647n);
        bad[1024 + (state % (bad.length - 1024))] = state >> 8;
      }
      const bootstrapFile = join(stage.directory, `bad-${seed}`);
      writeFileSync(bootstrapFile, bad);
      const outcome = await engine.attach(mountOf({ bootstrapFile }, [blob], "/bad")).catch((error: { code: string }) => error.code);
      if (typeof outcome === "string") {
        expect(outcome, `seed ${seed}`).toBe("MOUNT_IMAGE");
        continue;
      }
      await readAll(join(stage.mountpoint, "bad"));
      await engine.detach("/bad");
    }
    expect(stage.isMounted()).toBe(true);
    expect(compareListings(await listTree(join(stage.mountpoint, "good"), { parallel: 2 }), readListing(entry))).toEqual([]);
  });
});

/** Reads every file it can reach, at most 500 names deep in all; errors are fine. */
async function readAll(root: string): Promise<void> {
  const queue = [root];
  for (let count = 0; queue.length > 0 && count < 500; count++) {
    const path = queue.pop() as string;
    try {
      for (const item of await readdir(path, { withFileTypes: true })) {
        const below = join(path, item.name);
        if (item.isDirectory()) queue.push(below);
        else if (item.isFile() && (await stat(below)).size < 1 << 20) await readFile(below);
      }
    } catch {
      // A damaged place; what matters is that the others are served.
    }
  }
}

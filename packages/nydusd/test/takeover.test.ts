import { spawn } from "node:child_process";
import { closeSync, existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { findMount, recvWithFds, sendWithFds, type UnixListener, unixListen } from "@nydus-ts/linux";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { compareListings, goldenAbsent, goldenDir, listTree, readListing, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { chunkBytes, fileBytes, fileOf, lazyImage } from "./lazy-image.ts";
import { copyCase, endOfNydusd, localConfig, registryConfig, startNydusd } from "./support.ts";

const caseName = "small-v6-zstd-blake3";

/** A supervisor as the snapshotter is one: it keeps state and device, and gives them to the next that asks. */
class TestSupervisor implements AsyncDisposable {
  readonly path: string;
  #listener: UnixListener | undefined;
  #saved: { data: Buffer; fds: number[] } | undefined;
  #offering = false;
  #served = Promise.withResolvers<void>();

  constructor(path: string) {
    this.path = path;
  }

  async listen(): Promise<void> {
    this.#listener = await unixListen(this.path, (fd) => void this.#serve(fd));
  }

  /** Runs `ask`, which makes a daemon connect and send. */
  async collect(ask: () => Promise<void>): Promise<void> {
    this.#offering = false;
    await this.#round(ask);
  }

  /** Runs `ask`, which makes a daemon connect and receive. */
  async offer(ask: () => Promise<void>): Promise<void> {
    this.#offering = true;
    await this.#round(ask);
  }

  async #round(ask: () => Promise<void>): Promise<void> {
    this.#served = Promise.withResolvers<void>();
    await Promise.all([ask(), this.#served.promise]);
  }

  async #serve(fd: number): Promise<void> {
    try {
      if (this.#offering) await sendWithFds(fd, this.#saved ?? { data: Buffer.from("nothing"), fds: [] }, { deadlineMs: 5000 });
      else {
        for (const old of this.#saved?.fds ?? []) closeSync(old);
        this.#saved = await recvWithFds(fd, { deadlineMs: 5000, bytesMax: 1 << 26 });
      }
    } finally {
      closeSync(fd);
      this.#served.resolve();
    }
  }

  /** Lets go of what it holds. */
  drop(): void {
    for (const fd of this.#saved?.fds ?? []) closeSync(fd);
    this.#saved = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.drop();
    await this.#listener?.[Symbol.asyncDispose]();
  }
}

/**
 * A reader in a process of its own: a process that has files of a dead daemon's mount open can't start another one (the child closes
 * them before execve, and that waits for the daemon that it is to become).
 */
class Reader {
  readonly #child: ReturnType<typeof spawn>;
  readonly #lines: AsyncIterator<string>;

  constructor(workspace: Workspace, path: string) {
    const script = `
      const { openSync, readSync } = require("node:fs");
      const fd = openSync(process.argv[1], "r");
      console.log("open");
      process.stdin.once("data", () => {
        console.log("reading");
        const buffer = Buffer.alloc(1 << 20);
        let size = 0;
        for (let got = readSync(fd, buffer, 0, buffer.length, null); got > 0; got = readSync(fd, buffer, 0, buffer.length, null)) size += got;
        console.log(String(size));
        process.exit(0);
      });`;
    this.#child = spawn(process.execPath, ["-e", script, path], { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
    workspace.defer(() => void this.#child.kill("SIGKILL"));
  }

  async #line(): Promise<string> {
    const { value } = await this.#lines.next();
    return value as string;
  }

  async opened(): Promise<void> {
    expect(await this.#line()).toBe("open");
  }

  async startReading(): Promise<void> {
    this.#child.stdin!.write("go\n");
    expect(await this.#line()).toBe("reading");
  }

  async size(): Promise<number> {
    return Number(await this.#line());
  }
}

describe.skipIf(goldenDir() === undefined)(`take-over${goldenDir() === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let supervisor: TestSupervisor;

  beforeEach(async () => {
    workspace = new Workspace("nydusd-takeover");
    supervisor = new TestSupervisor(workspace.path("supervisor.sock"));
    await supervisor.listen();
    workspace.defer(() => supervisor[Symbol.asyncDispose]());
  });
  afterEach(() => workspace[Symbol.asyncDispose]());

  const supervised = () => ["fuse", "--id", "d1", "--supervisor", supervisor.path];

  test("a daemon killed by SIGKILL is followed by one that serves the same mount: an open file goes on, the whole listing is right", async () => {
    const { golden, bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const request = { source: bootstrap, fs_type: "rafs", config: localConfig(blobs, cache) };
    const first = await startNydusd(workspace, supervised());
    await first.client.mount("/a", request);
    await first.client.mount("/b/c", request);
    await first.client.umount("/a");
    await first.client.mount("/d", request);
    await supervisor.collect(() => first.client.sendFd());
    const entry = readListing(golden).find((each) => each.type === "file" && each.size > 0)!;
    const reader = new Reader(workspace, join(first.mountpoint, "b/c", String(entry.path)));
    await reader.opened();
    first.program.kill("SIGKILL");
    await first.program.exited;
    await reader.startReading();

    const second = await startNydusd(workspace, [...supervised(), "--upgrade"], { mountpoint: first.mountpoint });
    expect((await second.client.info()).state).toBe("INIT");
    await supervisor.offer(() => second.client.takeover());
    expect((await second.client.info()).state).toBe("READY");
    await second.client.start();
    expect((await second.client.info()).state).toBe("RUNNING");
    expect(await reader.size()).toBe(entry.size);
    for (const place of ["b/c", "d"]) {
      expect(compareListings(await listTree(join(second.mountpoint, place)), readListing(golden))).toEqual([]);
    }
    expect(Object.keys((await second.client.info()).backend_collection ?? {})).toEqual(["/b/c", "/d"]);
    await second.client.mount("/e", request);
    await second.client.umount("/b/c");
    expect(compareListings(await listTree(join(second.mountpoint, "e")), readListing(golden))).toEqual([]);

    // As a supervisor does that wants it to end for good.
    supervisor.drop();
    second.program.kill("SIGTERM");
    expect(await second.program.exited).toBe(0);
    expect(findMount(second.mountpoint)).toBeUndefined();
  });

  test("a daemon told to end by SIGTERM while its supervisor holds the device is followed like a killed one: an open file goes on", async () => {
    const { golden, bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const first = await startNydusd(workspace, supervised());
    await first.client.mount("/a", { source: bootstrap, fs_type: "rafs", config: localConfig(blobs, cache) });
    await supervisor.collect(() => first.client.sendFd());
    const entry = readListing(golden).find((each) => each.type === "file" && each.size > 0)!;
    const reader = new Reader(workspace, join(first.mountpoint, "a", String(entry.path)));
    await reader.opened();
    first.program.kill("SIGTERM");
    expect(await first.program.exited).toBe(0);
    expect(first.log()).toContain("left to a successor");
    await reader.startReading();
    const second = await startNydusd(workspace, [...supervised(), "--upgrade"], { mountpoint: first.mountpoint });
    await supervisor.offer(() => second.client.takeover());
    await second.client.start();
    expect(await reader.size()).toBe(entry.size);
    expect(compareListings(await listTree(join(second.mountpoint, "a")), readListing(golden))).toEqual([]);
  });

  test("a supervisor that took nothing holds nothing: SIGTERM removes the mount", async () => {
    const first = await startNydusd(workspace, supervised());
    first.program.kill("SIGTERM");
    expect(await first.program.exited).toBe(0);
    expect(findMount(first.mountpoint)).toBeUndefined();
  });

  test("a prefetch that SIGKILL cut off is taken up by the successor where the chunk map on disk says", async () => {
    const listed = [0, 4, 8, 12, 16, 20];
    const image = await lazyImage(workspace, { files: 24, prefetch: listed });
    const hold = image.registry.faults.add(
      { path: /blobs/ },
      { hold: async () => (image.ranges().length > 3 ? new Promise(() => {}) : undefined) },
    );
    const cache = image.newCache();
    const first = await startNydusd(workspace, supervised());
    const config = registryConfig(image.registry.host, cache, {
      backend: { timeout: 60 },
      rafs: { fs_prefetch: { enable: true, prefetch_all: false } },
    });
    await first.client.mount("/a", { source: image.bootstrap, fs_type: "rafs", config });
    await supervisor.collect(() => first.client.sendFd());
    const chunkMap = join(cache, `${image.blobId}.blob.data.chunk_map`);
    // Bits are written with the sync that follows the data.
    const durable = async (): Promise<number> => bitsOf((await readFile(chunkMap)).subarray(4096));
    await expect.poll(durable, { timeout: 10_000 }).toBe((3 * fileBytes) / chunkBytes);
    first.program.kill("SIGKILL");
    await first.program.exited;
    hold.remove();
    image.registry.resetCounters();

    const second = await startNydusd(workspace, [...supervised(), "--upgrade"], { mountpoint: first.mountpoint });
    await supervisor.offer(() => second.client.takeover());
    await second.client.start();
    await expect.poll(async () => (await second.client.blobcacheMetrics("/a")).prefetch_state, { timeout: 10_000 }).toBe("done");
    expect(image.ranges()).toHaveLength(listed.length - 3);
    image.registry.resetCounters();
    for (const index of listed) expect(await readFile(join(second.mountpoint, "a", fileOf(index)))).toEqual(image.contents[index]);
    expect(image.ranges()).toEqual([]);
  }, 60_000);

  test("a read that waits for the registry while the daemon is killed is answered by the successor", async () => {
    const { golden, bootstrap, cache, blobs } = await copyCase(workspace, caseName);
    await using registry = await TestRegistry.start();
    for (const blob of readdirSync(blobs)) registry.putBlob(await readFile(join(blobs, blob)), "app");
    const stall = registry.faults.add({ path: /blobs/ }, { stallMs: Number.POSITIVE_INFINITY });
    const first = await startNydusd(workspace, supervised());
    const config = registryConfig(registry.host, cache, { backend: { timeout: 60 } });
    await first.client.mount("/a", { source: bootstrap, fs_type: "rafs", config });
    await supervisor.collect(() => first.client.sendFd());
    const entry = readListing(golden).find((each) => each.type === "file" && each.size > 0)!;
    const reader = new Reader(workspace, join(first.mountpoint, "a", String(entry.path)));
    await reader.opened();
    await reader.startReading();
    await expect.poll(() => stall.hits(), { timeout: 10_000 }).toBeGreaterThan(0);
    first.program.kill("SIGKILL");
    await first.program.exited;
    stall.remove();
    const second = await startNydusd(workspace, [...supervised(), "--upgrade"], { mountpoint: first.mountpoint });
    await supervisor.offer(() => second.client.takeover());
    await second.client.start();
    expect(await reader.size()).toBe(entry.size);
  });

  test("exit leaves the kernel mount for the successor, and the new daemon may have another API socket", async () => {
    const { golden, bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const first = await startNydusd(workspace, supervised());
    await first.client.mount("/a", { source: bootstrap, fs_type: "rafs", config: localConfig(blobs, cache) });
    const second = await startNydusd(workspace, [...supervised(), "--upgrade"], { name: "second", mountpoint: first.mountpoint });
    await supervisor.collect(() => first.client.sendFd());
    await first.client.exit();
    expect(await first.program.exited).toBe(0);
    expect(findMount(first.mountpoint)).toBeDefined();
    await supervisor.offer(() => second.client.takeover());
    await second.client.start();
    expect(compareListings(await listTree(join(second.mountpoint, "a")), readListing(golden))).toEqual([]);
  });

  test("a new process that finds a dead daemon's mount and socket waits for a take-over by itself", async () => {
    const first = await startNydusd(workspace, supervised());
    await supervisor.collect(() => first.client.sendFd());
    first.program.kill("SIGKILL");
    await first.program.exited;
    const second = await startNydusd(workspace, supervised(), { mountpoint: first.mountpoint });
    expect((await second.client.info()).state).toBe("INIT");
    second.program.kill("SIGTERM");
    expect(await second.program.exited).toBe(0);
    expect(findMount(first.mountpoint)).toBeDefined();
  });

  test("without a supervisor nobody holds the device: the dead mount is removed and made anew", async () => {
    const { golden, bootstrap, blobs } = await copyCase(workspace, caseName);
    const args = ["fuse", "-B", bootstrap, "-D", blobs];
    const first = await startNydusd(workspace, args);
    first.program.kill("SIGKILL");
    await first.program.exited;
    expect(existsSync(first.socket)).toBe(true);
    const second = await startNydusd(workspace, args, { mountpoint: first.mountpoint });
    expect(compareListings(await listTree(second.mountpoint), readListing(golden))).toEqual([]);
  });

  test("a supervisor that has nothing, or is not there, is told; the daemon waits on and can try again", async () => {
    const waiting = await startNydusd(workspace, [...supervised(), "--upgrade"]);
    await expect(supervisor.offer(() => waiting.client.takeover())).rejects.toMatchObject({ daemonCode: "TAKEOVER_STATE" });
    expect((await waiting.client.info()).state).toBe("INIT");
    const { exitCode, output } = await endOfNydusd(workspace, ["fuse", "-M", "/tmp", "--supervisor", "/x"]);
    expect(exitCode).toBe(2);
    expect(output).toContain("--id");
  });
});

function bitsOf(bytes: Uint8Array): number {
  let count = 0;
  for (const byte of bytes) for (let rest = byte; rest > 0; rest >>= 1) count += rest & 1;
  return count;
}

import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { type BlobMeta, cacheFileNames, openBootstrap, RafsError, readChunkMap, readMetaFile } from "@nydus-ts/rafs-format";
import { type GoldenCase, goldenAbsent, goldenCases } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { BlobCache, FetchScheduler, localfsBackend } from "../src/index.ts";
import { SimulatedDisk } from "./simulated-disk.ts";

let disk: SimulatedDisk | undefined;
vi.mock(import("../src/file-io.ts"), async (original) => {
  const io = await original();
  // The disk of the moment: each seed has its own.
  return Object.fromEntries(
    Object.keys(io).map((name) => [
      name,
      (...args: never[]) =>
        ((disk === undefined ? io : disk.wrap(io)) as unknown as Record<string, (...args: never[]) => unknown>)[name]!(...args),
    ]),
  ) as unknown as typeof io;
});

const golden: GoldenCase | undefined = goldenCases().find(({ name }) => name === "small-v6-chunk4k");
const seeds = Array.from({ length: 8 }, (_, index) => index + 1);
const drawsPerMoment = 4;

/** mulberry32 */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

describe.skipIf(golden === undefined)(`after a power failure${golden === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  const bootstrap = openBootstrap(readFileSync(golden!.bootstrapFile!));
  const blob = bootstrap.blobs[0]!;
  const digestOf = bootstrap.chunkDigests(0);
  const names = cacheFileNames(blob.id);
  const all = Array.from({ length: blob.chunkCount }, (_, chunk) => chunk);
  const backend = localfsBackend({ dir: golden!.blobDirectory! });
  let folder: string;
  let truth: Uint8Array;
  let meta: BlobMeta;

  const open = (directory: string): Promise<BlobCache> =>
    BlobCache.open({ directory, blob, backend, digestOf, digester: blob.digester, scheduler: new FetchScheduler() });

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "chunk-crash-"));
    const cache = await open(folder);
    await cache.ensure(all, { deadlineMs: 10_000 });
    await cache[Symbol.asyncDispose]();
    truth = readFileSync(join(folder, names.data));
    meta = readMetaFile(readFileSync(join(folder, names.meta)), blob);
  });
  afterAll(async () => {
    await backend[Symbol.asyncDispose]();
    await rm(folder, { recursive: true });
  });

  const chunkOf = (data: Uint8Array, chunk: number): Uint8Array =>
    data.subarray(meta.uncompressedOffset(chunk), meta.uncompressedOffset(chunk) + meta.uncompressedSize(chunk));

  /** A cache used over several runs of a program, now and then after somebody damaged the data file. */
  async function randomRuns(random: () => number, directory: string): Promise<SimulatedDisk> {
    const recorded = new SimulatedDisk();
    disk = recorded;
    try {
      const io = await import("../src/file-io.ts");
      for (let run = 0; run < 4; run++) {
        if (run > 0 && random() < 0.4) {
          const fd = await io.openFd(join(directory, names.data), "r+");
          await io.truncateFile(fd, Math.floor(random() * blob.uncompressedSize));
          await io.syncData(fd);
        }
        const cache = await open(directory);
        for (let step = 0; step < 3; step++) {
          const wanted = all.filter(() => random() < 0.2);
          await cache.ensure(wanted, { deadlineMs: 10_000, sequentialBytes: random() < 0.5 ? 0 : 65_536 });
        }
        await cache[Symbol.asyncDispose]();
      }
    } finally {
      disk = undefined;
    }
    return recorded;
  }

  /** Chunks whose bit is set in the map file, as any program that shares the cache would see it. */
  function setBits(files: ReadonlyMap<string, Uint8Array>, directory: string): number[] {
    const data = files.get(join(directory, names.data));
    const map = files.get(join(directory, names.chunkMap));
    // A data file of another size is thrown away with its map when it is opened.
    if (map === undefined || data === undefined || data.length !== blob.uncompressedSize) return [];
    try {
      const found = readChunkMap(map, blob.chunkCount);
      return found === undefined ? [] : all.filter((chunk) => (found.bitmap[chunk >> 3]! & (0x80 >> (chunk & 7))) !== 0);
    } catch (error) {
      if (error instanceof RafsError) return [];
      throw error;
    }
  }

  test.for(seeds)("a set bit never lies, whatever write the machine dies at (seed %d)", async (seed) => {
    const random = generator(seed);
    const directory = join(folder, `seed-${seed}`);
    await mkdir(directory);
    const recorded = await randomRuns(random, directory);
    let bits = 0;
    const reopened = new Set([0, Math.floor(recorded.length / 3), Math.floor(recorded.length / 2), recorded.length]);
    for (let moment = 0; moment <= recorded.length; moment++) {
      for (let draw = 0; draw < drawsPerMoment; draw++) {
        const files = recorded.afterCrash(moment, random);
        const set = setBits(files, directory);
        bits += set.length;
        const data = files.get(join(directory, names.data)) ?? new Uint8Array(0);
        const lies = set.filter((chunk) => Buffer.compare(chunkOf(data, chunk), chunkOf(truth, chunk)) !== 0);
        expect(lies, `dead after ${moment} of ${recorded.length} calls, draw ${draw}`).toEqual([]);
        if (draw === 0 && reopened.has(moment)) await expectRecovery(files, join(directory, `moment-${moment}`));
      }
    }
    expect(bits, "the runs reached the map file").toBeGreaterThan(20);
  });

  /** What the disk held is put in a folder, and a cache opened there gives every byte. */
  async function expectRecovery(files: ReadonlyMap<string, Uint8Array>, directory: string): Promise<void> {
    await mkdir(directory);
    for (const [path, bytes] of files) await writeFile(join(directory, basename(path)), bytes);
    const cache = await open(directory);
    const target = new Uint8Array(truth.length);
    const segments = all.map((chunk) => ({
      chunk,
      offset: 0,
      length: meta.uncompressedSize(chunk),
      targetOffset: meta.uncompressedOffset(chunk),
    }));
    await cache.readInto(target, segments, { deadlineMs: 10_000 });
    await cache[Symbol.asyncDispose]();
    expect(all.filter((chunk) => Buffer.compare(chunkOf(target, chunk), chunkOf(truth, chunk)) !== 0)).toEqual([]);
  }
});

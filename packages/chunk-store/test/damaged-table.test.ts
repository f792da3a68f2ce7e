import { readFileSync } from "node:fs";
import { copyFile, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlobMeta, type Bootstrap, cacheFileNames, openBootstrap, readMetaFile } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type BlobBackend, BlobCache, FetchScheduler, localfsBackend } from "../src/index.ts";

const absent = goldenDir() === undefined;
const recordBytes = 16;

// The original's cache file, or one that came with the image, has nothing to tell damage by: what it says wrongly is met at its chunks.
describe.skipIf(absent)(`a meta file without proof${absent ? ` (${goldenAbsent})` : ""}`, () => {
  const golden = absent ? undefined : goldenCase("small-v6-cachefiles");
  const bootstrap: Bootstrap = openBootstrap(readBootstrap(golden!));
  const blob = bootstrap.blobs[0]!;
  const names = cacheFileNames(blob.id);
  const truth = readFileSync(join(golden!.blobDirectory!, names.data));
  const file = readFileSync(join(golden!.blobDirectory!, names.meta));
  const meta: BlobMeta = readMetaFile(file, blob);
  const all = Array.from({ length: blob.chunkCount }, (_, chunk) => chunk);
  let directory: string;
  let backend: BlobBackend;
  let warnings: string[];
  /** Reads of the chunk table. */
  let tables: number;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "damaged-table-"));
    backend = localfsBackend({ dir: golden!.blobDirectory! });
    warnings = [];
    tables = 0;
  });
  afterEach(async () => {
    await backend[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  const open = (from = backend): Promise<BlobCache> =>
    BlobCache.open({
      directory,
      blob,
      backend: from,
      digestOf: bootstrap.chunkDigests(0),
      placeOf: bootstrap.recordedChunks(0),
      digester: blob.digester,
      scheduler: new FetchScheduler(),
      onWarning: (line) => warnings.push(line),
      onFetch: ({ what, offset }) => {
        if (what === "meta" && offset === blob.ciOffset) tables++;
      },
    });
  const read = async (cache: BlobCache, chunk: number): Promise<void> => {
    const length = meta.uncompressedSize(chunk);
    const target = new Uint8Array(length);
    await cache.readInto(target, [{ chunk, offset: 0, length, targetOffset: 0 }], { deadlineMs: 10_000 });
    const start = meta.uncompressedOffset(chunk);
    expect(Buffer.compare(target, truth.subarray(start, start + length)), `chunk ${chunk}`).toBe(0);
    // Threads are told the blob's own place.
    expect([cache.layout[2 * chunk], cache.layout[2 * chunk + 1]]).toEqual([start / 4096, length]);
  };
  const damaged = (name: string): { chunks: number[]; bytes: Buffer } => {
    const bytes = Buffer.from(file);
    const { chunks, changes } = damages[name]!;
    for (const apply of changes) apply(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    expect(() => readMetaFile(bytes, blob), "the damage is not seen by its form").not.toThrow();
    return { chunks, bytes };
  };
  const change = (chunk: number, word: number, changed: (value: number) => number) => (view: DataView) => {
    const at = chunk * recordBytes + word * 4;
    view.setUint32(at, changed(view.getUint32(at, true)), true);
  };
  /** Each within the bounds of the blob, so that only the data or the image can tell; `chunks` are what it is wrong about. */
  const damages: Record<string, { chunks: number[]; changes: ((view: DataView) => void)[] }> = {
    "that has a wrong stored offset": { chunks: [3], changes: [change(3, 2, (offset) => offset ^ 1)] },
    "that has a wrong stored size": { chunks: [13], changes: [change(13, 3, (size) => size - 0x1000)] },
    "that has a wrong size": { chunks: [13], changes: [change(13, 1, (size) => size - 0x1000)] },
    // Chunks lie close, so it takes two wrong records to move one unseen.
    "that has a wrong place in the data": {
      chunks: [25, 24],
      changes: [change(24, 1, (size) => ((8192 - 1) << 12) | (size & 0xfff)), change(25, 0, (offset) => offset - 4096)],
    },
  };

  test.each(Object.keys(damages))("%s is fetched anew, once, and every byte is right", async (name) => {
    const { chunks, bytes } = damaged(name);
    await writeFile(join(directory, names.meta), bytes);
    const cache = await open();
    await Promise.all([...chunks, ...chunks, ...all].map((chunk) => read(cache, chunk)));
    expect(tables).toBe(1);
    expect(warnings).toEqual([expect.stringContaining(blob.id)]);
    expect(cache.stats()).toMatchObject({ readyCount: blob.chunkCount });
    await cache[Symbol.asyncDispose]();
    // What is kept now has its proof, and what was written by the wrong table is no chunk's.
    expect(Buffer.compare(await readFile(join(directory, names.meta)), file)).toBe(0);
    expect((await stat(join(directory, names.metaDigest))).size).toBe(64);
    await using again = await open();
    for (const chunk of all) await read(again, chunk);
    expect(tables).toBe(1);
  });

  test.each(Object.keys(damages))("%s: chunks read before the damage was met stay right", async (name) => {
    const { chunks, bytes } = damaged(name);
    await writeFile(join(directory, names.meta), bytes);
    await using cache = await open();
    const others = all.filter((chunk) => !chunks.includes(chunk));
    for (const chunk of others) await read(cache, chunk);
    expect(tables).toBe(0);
    await read(cache, chunks[0]!);
    for (const chunk of all) await read(cache, chunk);
    expect(tables).toBe(1);
  });

  test("that is whole is never fetched, and a blob that is damaged fails as before, after one look at its table", async () => {
    await copyFile(join(golden!.blobDirectory!, names.meta), join(directory, names.meta));
    const place = { start: meta.compressedOffset(4), end: meta.compressedOffset(4) + meta.compressedSize(4) };
    const lying: BlobBackend = {
      kind: "lying",
      size: (...args) => backend.size(...args),
      async read(id, range, options) {
        const bytes = Uint8Array.from(await backend.read(id, range, options));
        for (let at = place.start; at < place.end; at++)
          if (at >= range.offset && at < range.offset + range.length) bytes[at - range.offset]! ^= 0x55;
        return bytes;
      },
      async [Symbol.asyncDispose]() {},
    };
    await using cache = await open(lying);
    await read(cache, 3);
    expect(tables).toBe(0);
    for (let i = 0; i < 2; i++) {
      await expect(cache.ensure([4], { deadlineMs: 10_000 })).rejects.toMatchObject({ name: "ChunkStoreError" });
      expect(tables).toBe(1);
    }
    expect(warnings).toEqual([]);
    await read(cache, 6);
  });
});

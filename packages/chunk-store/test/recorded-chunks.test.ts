import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ChunkRecord, openBootstrap } from "@nydus-ts/rafs-format";
import { type GoldenCase, goldenAbsent, goldenCases } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { BlobCache, localfsBackend } from "../src/index.ts";

const golden: GoldenCase | undefined = goldenCases().find(({ name }) => name === "small-v5-chunk4k");

describe.skipIf(golden === undefined)(`a v5 blob, described by bootstraps${golden === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  const bootstrap = openBootstrap(readFileSync(golden!.bootstrapFile!));
  const blob = bootstrap.blobs[0]!;
  const digestOf = bootstrap.chunkDigests(0);
  const byIndex = new Map([...bootstrap.chunkRecords()].map((record) => [record.chunkIndex, record]));
  const records = [...byIndex.values()].sort((a, b) => a.chunkIndex - b.chunkIndex);
  let directory: string;
  let cache: BlobCache;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "chunk-store-"));
    const backend = localfsBackend({ dir: golden!.blobDirectory! });
    cache = await BlobCache.open({ directory, blob, backend, digestOf, digester: blob.digester });
  });
  afterEach(async () => {
    await cache[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  const changed = (index: number, change: Partial<ChunkRecord>): ChunkRecord => ({ ...byIndex.get(index)!, ...change });

  test("every chunk is fetched, verified by its digest, and lies at its unaligned place", async () => {
    cache.addChunkRecords(records);
    await cache.ensure([...byIndex.keys()], { deadlineMs: 10_000 });
    expect(cache.stats()).toMatchObject({ readyCount: records.length, unverifiedChunks: 0, verifyFailures: 0 });
    const unaligned = records.find(({ uncompressedOffset }) => uncompressedOffset % 4096 !== 0)!;
    expect(cache.layout[2 * unaligned.chunkIndex]).toBe(Math.floor(unaligned.uncompressedOffset / 4096));
  });

  test("a chunk that no image recorded is refused, until an image does; prefetch of everything passes it by", async () => {
    cache.addChunkRecords(records.slice(0, 3));
    const beyond = records[3]!.chunkIndex;
    await expect(cache.ensure([beyond], { deadlineMs: 1000 })).rejects.toMatchObject({ code: "CHUNK_RANGE" });
    await cache.prefetch("all");
    expect(cache.stats().readyCount).toBe(3);
    expect(cache.layout[2 * beyond]).toBe(0xffffffff);
    cache.addChunkRecords(records);
    await cache.ensure([beyond], { deadlineMs: 10_000 });
    expect(cache.stats().readyCount).toBe(4);
  });

  test.each([
    ["another place", { uncompressedOffset: byIndex.get(1)!.uncompressedOffset + 1 }],
    ["another size", { uncompressedSize: byIndex.get(1)!.uncompressedSize - 1 }],
    ["another stored place", { compressedOffset: byIndex.get(1)!.compressedOffset - 1 }],
    ["another digest", { digest: new Uint8Array(32) }],
    ["other flags", { flags: 0 }],
  ] as const)("an image that gives a chunk %s than the image before is refused whole", async (_, change) => {
    cache.addChunkRecords([records[1]!]);
    expect(() => cache.addChunkRecords([records[2]!, changed(1, change)])).toThrow(expect.objectContaining({ code: "CHUNK_META" }));
    await expect(cache.ensure([records[2]!.chunkIndex], { deadlineMs: 1000 })).rejects.toMatchObject({ code: "CHUNK_RANGE" });
  });

  test("a chunk placed over another one is refused: its bytes would be read as the other's", () => {
    cache.addChunkRecords([records[1]!]);
    const over = changed(2, { uncompressedOffset: records[1]!.uncompressedOffset + records[1]!.uncompressedSize - 1 });
    expect(() => cache.addChunkRecords([over])).toThrow(expect.objectContaining({ code: "CHUNK_META" }));
  });

  test.each([
    ["beyond the stored blob", { compressedOffset: blob.compressedSize }],
    ["beyond the blob's data", { uncompressedOffset: blob.uncompressedSize + 4096 }],
    ["without bytes", { uncompressedSize: 0 }],
    ["stored in no bytes", { compressedSize: 0 }],
    ["larger than a chunk can be", { uncompressedSize: 0x1000001 }],
    ["raw with two sizes", { flags: 0, compressedSize: 1 }],
    ["beyond the chunk count", { chunkIndex: blob.chunkCount }],
    ["in a batch", { flags: 9 }],
    ["encrypted", { flags: 5 }],
  ] as const)("a record %s is refused before anything is fetched", (_, change) => {
    expect(() => cache.addChunkRecords([changed(5, change)])).toThrow(expect.objectContaining({ code: "CHUNK_META" }));
  });
});

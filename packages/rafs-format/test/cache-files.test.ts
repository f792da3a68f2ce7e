import { readFileSync } from "node:fs";
import { join } from "node:path";
import { goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import {
  type BlobRecord,
  cacheFileNames,
  chunkMapFileBytes,
  chunkMapHeaderBytes,
  encodeChunkMapHeader,
  encodeMetaFile,
  openBootstrap,
  readChunkMap,
  readMetaFile,
} from "../src/index.ts";
import { type StoredMeta, storedMeta } from "./golden.ts";
import { codeOf, eachFlip } from "./hostile.ts";

const entry = goldenDir() === undefined ? undefined : goldenCase("small-v6-cachefiles");

describe.skipIf(entry === undefined)("cache files left by the original", () => {
  const directory = join(entry?.directory ?? "", "blobs");
  const record = (): BlobRecord => openBootstrap(readBootstrap(entry as NonNullable<typeof entry>)).blobs[0] as BlobRecord;
  const file = (name: string): Buffer => readFileSync(join(directory, name));

  test("the chunk map says that every chunk is there, and our header has the same bytes", () => {
    const blob = record();
    const bytes = file(cacheFileNames(blob.id).chunkMap);
    expect(bytes.length).toBe(chunkMapFileBytes(blob.chunkCount));
    const map = readChunkMap(bytes, blob.chunkCount);
    expect(map?.allReady).toBe(false);
    for (let chunk = 0; chunk < blob.chunkCount; chunk++) {
      expect((map?.bitmap[chunk >> 3] ?? 0) & (0x80 >> (chunk & 7)), `chunk ${chunk}`).not.toBe(0);
    }
    expect(bytes.subarray(0, chunkMapHeaderBytes).equals(encodeChunkMapHeader({ allReady: false }))).toBe(true);
  });

  test("the meta file is what we write from the blob's own chunk info, and opens", () => {
    const blob = record();
    const bytes = file(cacheFileNames(blob.id).meta);
    const { ci, header } = storedMeta(entry as NonNullable<typeof entry>, blob) as StoredMeta;
    expect(bytes.equals(encodeMetaFile(ci, header))).toBe(true);
    expect(readMetaFile(bytes, blob).count).toBe(blob.chunkCount);
    expect(codeOf(() => readMetaFile(bytes.subarray(4096), blob))).toBe("RAFS_CACHE_FILE");
    bytes.fill(0, bytes.length - 4096);
    expect(codeOf(() => readMetaFile(bytes, blob))).toBe("RAFS_META");
  });

  test("a changed byte of a chunk map's header is refused or read as what it says", () => {
    const blob = record();
    const bytes = file(cacheFileNames(blob.id).chunkMap);
    eachFlip(bytes.subarray(0, 16), () => codeOf(() => readChunkMap(bytes, blob.chunkCount)));
  });
});

test("an empty or zeroed chunk map is a new one; one of another size or kind is refused", () => {
  expect(readChunkMap(new Uint8Array(0), 9)).toBeUndefined();
  expect(readChunkMap(new Uint8Array(4096 + 2), 9)).toBeUndefined();
  expect(codeOf(() => readChunkMap(new Uint8Array(4096 + 1), 9))).toBe("RAFS_CACHE_FILE");
  const file = new Uint8Array(4096 + 2);
  file.set(encodeChunkMapHeader({ allReady: true }));
  expect(readChunkMap(file, 9)?.allReady).toBe(true);
  file[8] = 0;
  expect(codeOf(() => readChunkMap(file, 9))).toBe("RAFS_CACHE_FILE");
  file[4] = 0;
  expect(readChunkMap(file, 9)?.allReady).toBe(false);
  file[0] = 0;
  expect(codeOf(() => readChunkMap(file, 9))).toBe("RAFS_CACHE_FILE");
});

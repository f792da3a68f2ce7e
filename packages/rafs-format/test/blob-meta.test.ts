import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type GoldenCase, goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import {
  type BlobMeta,
  type BlobRecord,
  type Bootstrap,
  checkChunkInfoSize,
  hasBlobMeta,
  hasFeature,
  hasMisplacedMeta,
  locateBlobMeta,
  META_HEADER,
  metaTrailerBytes,
  openBlobMeta,
  openBootstrap,
  RafsError,
} from "../src/index.ts";
import { blobFile, type StoredMeta, storedMeta, withBootstrap } from "./golden.ts";
import { codeOf, eachFlip, view } from "./hostile.ts";

/** Blobs whose chunk info the original itself can't use (golden/README.md): chunks outside of the file, chunks without data. */
const unusable: Readonly<Record<string, number>> = { "small-v6-offset": 0, "tiny-v6-optimize": 1 };

describe("blob meta of golden images", () => {
  test.each(withBootstrap(6))("$name: the chunk info agrees with the chunk table, chunk by chunk", (entry) => {
    const bootstrap = openBootstrap(readBootstrap(entry));
    for (const record of bootstrap.blobs) {
      const stored = hasBlobMeta(record) ? storedMeta(entry, record) : undefined;
      if (stored === undefined) continue;
      if (unusable[entry.name] === record.index) {
        expect(codeOf(() => openBlobMeta(stored.ci, stored.header, stored.blob))).toBe("RAFS_META");
        continue;
      }
      const meta = openBlobMeta(stored.ci, stored.header, stored.blob);
      expect(meta.count).toBe(record.chunkCount);
      expectFoundByOffset(meta);
      expectChunkTableAgrees(bootstrap, record, meta);
    }
  });

  test.skipIf(goldenDir() === undefined)("members of a batch share its stored place and lie apart in its output", () => {
    const meta = openStored("tiny-v6-batch-zstd");
    expect(meta.contextCount).toBeGreaterThan(0);
    const seen = new Map<number, number>();
    for (let index = 0; index < meta.count; index++) {
      const batch = meta.batchOf(index);
      expect(meta.zranOf(index)).toBe(-1);
      if (batch < 0) continue;
      const { compressedSize, uncompressedSize } = meta.batchContext(batch);
      expect(meta.compressedOffset(index) + compressedSize).toBeLessThanOrEqual(meta.dataEnd);
      expect(meta.offsetInContext(index)).toBe(seen.get(batch) ?? 0);
      seen.set(batch, meta.offsetInContext(index) + meta.uncompressedSize(index));
      expect(seen.get(batch)).toBeLessThanOrEqual(uncompressedSize);
    }
    for (const [batch, size] of seen) expect(meta.batchContext(batch).uncompressedSize).toBe(size);
  });

  test.skipIf(goldenDir() === undefined)("a zran context names its gzip bytes, its dictionary and its bits", () => {
    const meta = openStored("plain-v6-zran");
    expect(meta.contextCount).toBeGreaterThan(0);
    for (let index = 0; index < meta.count; index++) expect(meta.zranOf(index)).toBeGreaterThanOrEqual(0);
    for (let index = 0; index < meta.contextCount; index++) {
      const context = meta.zranContext(index);
      expect(context.inOffset + context.inLength).toBeLessThanOrEqual(meta.blob.compressedSize);
      expect(context.dictionary.length).toBeLessThanOrEqual(32768);
      expect(context.primeBits).toBeLessThan(8);
    }
    expect(codeOf(() => meta.zranContext(meta.contextCount))).toBe("RAFS_RANGE");
    expect(codeOf(() => meta.batchContext(0))).toBe("RAFS_RANGE");
  });

  test.skipIf(goldenDir() === undefined)(
    "the record that `optimize` leaves is recognised, and the chunk info is found by its trailer",
    () => {
      const entry = goldenCase("small-v6-optimize");
      const [first, second] = openBootstrap(readBootstrap(entry)).blobs as [BlobRecord, BlobRecord];
      expect(hasMisplacedMeta(first)).toBe(false);
      expect(hasMisplacedMeta(second)).toBe(true);
      const bytes = readFileSync(blobFile(entry, second));
      const tail = bytes.subarray(bytes.length - metaTrailerBytes);
      expect(locateBlobMeta(second, tail, bytes.length)).toMatchObject({ ciCompressor: "none", ciOffset: 22413, ciUncompressedSize: 48 });
      expect(codeOf(() => locateBlobMeta(second, tail.subarray(1), bytes.length))).toBe("RAFS_META");
      expect(codeOf(() => locateBlobMeta(second, new Uint8Array(metaTrailerBytes), bytes.length))).toBe("RAFS_META");
      expect(codeOf(() => locateBlobMeta(second, tail, bytes.length + 1))).toBe("RAFS_META");
    },
  );
});

describe.skipIf(goldenDir() === undefined)("hostile blob meta", () => {
  test("damaged golden blobs are refused at open", () => {
    const golden = goldenDir() as string;
    for (const name of ["blob6-header-magic", "blob6-header-entries", "blob6-ci-garbage"]) {
      const directory = join(golden, "bad", name);
      const [record] = openBootstrap(readFileSync(join(directory, "bootstrap"))).blobs as [BlobRecord];
      assert(existsSync(join(directory, "blobs", record.id)));
      const open = (): unknown => {
        const stored = storedMeta({ name, directory, bootstrapFile: join(directory, "bootstrap") } as GoldenCase, record) as StoredMeta;
        return openBlobMeta(stored.ci, stored.header, stored.blob);
      };
      // Garbage in the compressed array fails in the decompressor, which is not ours.
      if (name === "blob6-ci-garbage") expect(open, name).toThrow();
      else expect(codeOf(open), name).toBe("RAFS_META");
    }
  });

  test.each(["small-v6-zstd-blake3", "tiny-v6-batch-zstd", "plain-v6-zran", "small-v6-encrypt"])(
    "%s: any changed byte of header, records and contexts is refused or stays inside the blob",
    (name) => {
      const stored = storedOf(name);
      const headerUsed = stored.header.subarray(0, META_HEADER.reserved);
      eachFlip(headerUsed, () => probeMeta(stored));
      // Dictionaries are opaque bytes: 2 KiB of them are enough to try.
      eachFlip(stored.ci.subarray(0, 24 * stored.blob.chunkCount + 2048), () => probeMeta(stored));
    },
  );

  test("chunk info that is cut or too long is RAFS_META, and an index outside is RAFS_RANGE", () => {
    const { ci, header, blob } = storedOf("small-v6-zstd-blake3");
    for (let length = 0; length < ci.length; length += 8)
      expect(codeOf(() => openBlobMeta(ci.subarray(0, length), header, blob))).toBe("RAFS_META");
    expect(codeOf(() => openBlobMeta(new Uint8Array(ci.length + 1), header, blob))).toBe("RAFS_META");
    expect(codeOf(() => openBlobMeta(ci, header.subarray(1), blob))).toBe("RAFS_META");
    const meta = openBlobMeta(ci, header, blob);
    for (const index of [-1, meta.count, Number.NaN, 2 ** 40]) expect(codeOf(() => meta.uncompressedOffset(index))).toBe("RAFS_RANGE");
  });

  test("chunks that overlap in the uncompressed blob are RAFS_META: one would be written over the other in the cache", () => {
    const { ci, header, blob } = storedOf("small-v6-none-sha256");
    const copy = Uint8Array.from(ci);
    copy.set(ci.subarray(0, 16), 16);
    expect(codeOf(() => openBlobMeta(copy, header, blob))).toBe("RAFS_META");
  });

  test("chunk info larger than the limit is refused before anyone allocates memory", () => {
    const { blob } = storedOf("small-v6-zstd-blake3");
    checkChunkInfoSize(blob);
    expect(codeOf(() => checkChunkInfoSize({ ...blob, ciUncompressedSize: 2 ** 31 + 1 }))).toBe("RAFS_META");
  });
});

function expectFoundByOffset(meta: BlobMeta): void {
  for (let index = 0; index < meta.count; index++) {
    const start = meta.uncompressedOffset(index);
    expect(meta.indexAt(start)).toBe(index);
    expect(meta.indexAt(start + meta.uncompressedSize(index) - 1)).toBe(index);
    expect(meta.indexAt(start + meta.uncompressedSize(index))).not.toBe(index);
  }
}

function expectChunkTableAgrees(bootstrap: Bootstrap, record: BlobRecord, meta: BlobMeta): void {
  for (const chunk of bootstrap.chunkRecords()) {
    if (chunk.blobIndex !== record.index) continue;
    const index = chunk.chunkIndex;
    expect(meta.uncompressedOffset(index)).toBe(chunk.uncompressedOffset);
    expect(meta.uncompressedSize(index)).toBe(chunk.uncompressedSize);
    if (hasFeature(record, "batch") && meta.batchOf(index) >= 0) continue;
    expect(meta.compressedOffset(index)).toBe(chunk.compressedOffset);
    expect(meta.compressedSize(index)).toBe(chunk.compressedSize);
    expect(meta.isCompressed(index)).toBe((chunk.flags & 1) !== 0);
    expect(meta.isEncrypted(index)).toBe((chunk.flags & 4) !== 0);
    if (meta.crc32(index) !== undefined) expect(meta.crc32(index)).toBe(chunk.crc32c);
  }
}

/** Opens a changed meta; if that works, every answer must be inside the blob. */
function probeMeta({ ci, header, blob }: StoredMeta): void {
  let meta: BlobMeta;
  try {
    meta = openBlobMeta(ci, header, blob);
  } catch (error) {
    if (error instanceof RafsError) return;
    throw error;
  }
  for (let index = 0; index < meta.count; index++) {
    assert(meta.uncompressedOffset(index) + meta.uncompressedSize(index) <= blob.uncompressedSize + 4095);
    assert(meta.compressedOffset(index) + meta.compressedSize(index) <= meta.dataEnd);
    if (meta.batchOf(index) >= 0) {
      const batch = meta.batchContext(meta.batchOf(index));
      assert(meta.offsetInContext(index) + meta.uncompressedSize(index) <= batch.uncompressedSize);
      assert(meta.compressedOffset(index) + batch.compressedSize <= meta.dataEnd);
    }
    if (meta.zranOf(index) >= 0) {
      const context = meta.zranContext(meta.zranOf(index));
      assert(meta.offsetInContext(index) + meta.uncompressedSize(index) <= context.outLength);
      assert(context.inOffset + context.inLength <= blob.compressedSize);
    }
  }
}

function storedOf(name: string): StoredMeta {
  const entry = goldenCase(name);
  const [record] = openBootstrap(readBootstrap(entry)).blobs as [BlobRecord];
  const stored = storedMeta(entry, record) as StoredMeta;
  assert(view(stored.ci).byteLength > 0);
  return { ...stored, ci: Uint8Array.from(stored.ci), header: Uint8Array.from(stored.header) };
}

function openStored(name: string): BlobMeta {
  const { ci, header, blob } = storedOf(name);
  return openBlobMeta(ci, header, blob);
}

import type { ChunkRecord } from "./bootstrap.ts";
import { allZero, readU64, viewOf } from "./bytes.ts";
import { RafsError } from "./errors.ts";
import { CHUNK_RECORD } from "./records/blob.ts";

/** Record numbers take 29 bits beside 24 bits of chunk index in one exact `number`. */
const recordBits = 2 ** 29;

/**
 * Decodes the chunk record at `offset`.
 *
 * @throws RafsError RAFS_RANGE (outside the bytes, or a 64-bit field above 2^53 − 1)
 * Source: spec/rafs.md 3.7
 */
export function readChunkRecord(bytes: Uint8Array, offset: number): ChunkRecord {
  if (!(offset >= 0 && offset + CHUNK_RECORD.recordSize <= bytes.length)) {
    throw new RafsError("RAFS_RANGE", `chunk record at ${offset} passes the end ${bytes.length}`);
  }
  const view = viewOf(bytes);
  const u32 = (field: number): number => view.getUint32(offset + field, true);
  const u64 = (field: number, name: string): number => readU64(view, offset + field, `chunk record at ${offset}: ${name}`);
  return {
    digest: bytes.subarray(offset + CHUNK_RECORD.digest, offset + CHUNK_RECORD.digest + 32),
    blobIndex: u32(CHUNK_RECORD.blobIndex),
    chunkIndex: u32(CHUNK_RECORD.chunkIndex),
    flags: u32(CHUNK_RECORD.flags),
    compressedSize: u32(CHUNK_RECORD.compressedSize),
    uncompressedSize: u32(CHUNK_RECORD.uncompressedSize),
    compressedOffset: u64(CHUNK_RECORD.compressedOffset, "compressed offset"),
    uncompressedOffset: u64(CHUNK_RECORD.uncompressedOffset, "uncompressed offset"),
    fileOffset: u64(CHUNK_RECORD.fileOffset, "file offset"),
    crc32c: u32(CHUNK_RECORD.crc32c),
  };
}

/**
 * Chunk records found by blob and chunk index. The records stay where they are; the index costs 8 bytes a record and is built once.
 * The counts a blob claims cost nothing: only records that are there are indexed.
 */
export class ChunkRecordIndex {
  readonly #bytes: Uint8Array;
  readonly #offsetOf: (record: number) => number;
  /** Per blob, ascending: chunk index × 2^29 + record number. */
  readonly #keys: readonly Float64Array[];

  /**
   * @param offsetOf  byte offset of a record by its number below `count`; the records lie inside `bytes`
   * @throws RafsError RAFS_CHUNK when a record names a blob or a chunk that the image does not have
   */
  constructor(bytes: Uint8Array, count: number, offsetOf: (record: number) => number, chunkCounts: readonly number[]) {
    this.#bytes = bytes;
    this.#offsetOf = offsetOf;
    const view = viewOf(bytes);
    const counts = new Array<number>(chunkCounts.length).fill(0);
    for (let record = 0; record < count; record++) {
      const at = offsetOf(record);
      const blob = view.getUint32(at + CHUNK_RECORD.blobIndex, true);
      const chunk = view.getUint32(at + CHUNK_RECORD.chunkIndex, true);
      if (blob >= chunkCounts.length)
        throw new RafsError("RAFS_CHUNK", `chunk record ${record} names blob ${blob} of ${chunkCounts.length}`);
      if (chunk >= (chunkCounts[blob] as number)) {
        throw new RafsError("RAFS_CHUNK", `chunk record ${record} names chunk ${chunk} of blob ${blob}, which has ${chunkCounts[blob]}`);
      }
      counts[blob] = (counts[blob] as number) + 1;
    }
    this.#keys = counts.map((size) => new Float64Array(size));
    const filled = new Array<number>(chunkCounts.length).fill(0);
    for (let record = 0; record < count; record++) {
      const at = offsetOf(record);
      const blob = view.getUint32(at + CHUNK_RECORD.blobIndex, true);
      const keys = this.#keys[blob] as Float64Array;
      keys[(filled[blob] as number)++] = view.getUint32(at + CHUNK_RECORD.chunkIndex, true) * recordBits + record;
    }
    for (const keys of this.#keys) keys.sort();
  }

  /** The record of a chunk. Of several the last one wins, as in the original; with `uncompressedOffset` the last one of that offset. */
  find(blobIndex: number, chunkIndex: number, uncompressedOffset?: number): ChunkRecord | undefined {
    const keys = this.#keys[blobIndex];
    if (keys === undefined) return undefined;
    for (
      let at = lowerBound(keys, (chunkIndex + 1) * recordBits) - 1;
      at >= 0 && Math.floor((keys[at] as number) / recordBits) === chunkIndex;
      at--
    ) {
      const found = readChunkRecord(this.#bytes, this.#offsetOf((keys[at] as number) % recordBits));
      if (uncompressedOffset === undefined || found.uncompressedOffset === uncompressedOffset) return found;
    }
    return undefined;
  }

  /** The digest of a chunk, in place. undefined when no record has one; all zeros means "not recorded" (tarfs, external blobs). */
  digest(blobIndex: number, chunkIndex: number): Uint8Array | undefined {
    const keys = this.#keys[blobIndex];
    if (keys === undefined) return undefined;
    const at = lowerBound(keys, (chunkIndex + 1) * recordBits) - 1;
    if (at < 0 || Math.floor((keys[at] as number) / recordBits) !== chunkIndex) return undefined;
    const record = this.#offsetOf((keys[at] as number) % recordBits) + CHUNK_RECORD.digest;
    const digest = this.#bytes.subarray(record, record + 32);
    return allZero(digest) ? undefined : digest;
  }
}

/** First position whose key is not below `key`. */
function lowerBound(keys: Float64Array, key: number): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] as number) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

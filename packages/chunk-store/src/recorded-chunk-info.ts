import { type BlobRecord, type ChunkRecord, chunkBytesMax, chunkFlags } from "@nydus-ts/rafs-format";
import type { ChunkInfo } from "./chunk-info.ts";
import { ChunkStoreError } from "./errors.ts";

/**
 * Where the chunks of a blob lie, from the chunk records of a bootstrap: for blobs without blob meta, which are those of RAFS v5
 * and external ones. Chunks that no record names have size 0.
 *
 * @param records  of the whole image; those of other blobs are left out
 * @throws ChunkStoreError CHUNK_META (a record that no blob can hold)
 * Source: spec/rafs.md 3.7
 */
export function recordedChunkInfo(blob: BlobRecord, records: Iterable<ChunkRecord>): ChunkInfo {
  const known = new Map<number, ChunkRecord>();
  for (const record of records) {
    if (record.blobIndex !== blob.index) continue;
    checkRecord(blob, record);
    known.set(record.chunkIndex, record);
  }
  return new RecordedChunkInfo(blob, known);
}

function checkRecord(blob: BlobRecord, record: ChunkRecord): void {
  const refuse = (fault: string): never => {
    throw new ChunkStoreError("CHUNK_META", `blob ${blob.id}: the record of chunk ${record.chunkIndex} says ${fault}`);
  };
  const { flags, compressedSize, uncompressedSize, compressedOffset } = record;
  if (uncompressedSize > chunkBytesMax) refuse(`${uncompressedSize} bytes, at most ${chunkBytesMax} are possible`);
  if (compressedSize > 2 * chunkBytesMax) refuse(`${compressedSize} stored bytes`);
  if (blob.compressedSize > 0 && compressedOffset + compressedSize > blob.compressedSize)
    refuse(`its stored bytes end at ${compressedOffset + compressedSize}, the blob at ${blob.compressedSize}`);
  if ((flags & (chunkFlags.batch | chunkFlags.encrypted)) !== 0)
    refuse("it is part of a batch or encrypted, which only blob meta can describe");
}

class RecordedChunkInfo implements ChunkInfo {
  readonly count: number;
  readonly contextCount = 0;
  readonly #blob: BlobRecord;
  readonly #records: ReadonlyMap<number, ChunkRecord>;

  constructor(blob: BlobRecord, records: ReadonlyMap<number, ChunkRecord>) {
    this.#blob = blob;
    this.#records = records;
    this.count = blob.chunkCount;
  }

  uncompressedOffset(index: number): number {
    return this.#records.get(index)?.uncompressedOffset ?? 0;
  }
  uncompressedSize(index: number): number {
    return this.#records.get(index)?.uncompressedSize ?? 0;
  }
  compressedOffset(index: number): number {
    return this.#records.get(index)?.compressedOffset ?? 0;
  }
  compressedSize(index: number): number {
    return this.#records.get(index)?.compressedSize ?? 0;
  }
  isCompressed(index: number): boolean {
    return ((this.#records.get(index)?.flags ?? 0) & chunkFlags.compressed) !== 0;
  }
  isEncrypted(): boolean {
    return false;
  }
  crc32(index: number): number | undefined {
    const record = this.#records.get(index);
    return record !== undefined && (record.flags & chunkFlags.crc32) !== 0 ? record.crc32c : undefined;
  }
  batchOf(): number {
    return -1;
  }
  zranOf(): number {
    return -1;
  }
  offsetInContext(): number {
    return 0;
  }
  batchContext(batch: number): never {
    throw new TypeError(`blob ${this.#blob.id} has no batch ${batch}`);
  }
  zranContext(context: number): never {
    throw new TypeError(`blob ${this.#blob.id} has no zran context ${context}`);
  }
}

import { type BlobRecord, type ChunkRecord, chunkBytesMax, chunkFlags, withoutExtendedTable } from "@nydus-ts/rafs-format";
import type { ChunkInfo } from "./chunk-info.ts";
import { ChunkStoreError } from "./errors.ts";

const alignment = 4096;

/**
 * Where the chunks of a blob lie, from the chunk records of one image: for blobs without blob meta.
 *
 * @param records  of the whole image; those of other blobs are left out
 * @throws ChunkStoreError CHUNK_META (a record that no blob can hold, or two that contradict each other)
 */
export function recordedChunkInfo(blob: BlobRecord, records: Iterable<ChunkRecord>): ChunkInfo {
  const own = [...records].filter(({ blobIndex }) => blobIndex === blob.index);
  const info = new RecordedChunks(withRecordedSizes(blob, own));
  info.add(own);
  return info;
}

/**
 * The blob with the sizes its records imply, if it has none: v5 images without extended blob table record no sizes.
 * Source: spec/rafs.md 3.5
 */
export function withRecordedSizes(blob: BlobRecord, records: readonly ChunkRecord[]): BlobRecord {
  if (blob.features !== withoutExtendedTable) return blob;
  let chunkCount = 0;
  let compressedSize = 0;
  let uncompressedSize = 0;
  for (const record of records) {
    chunkCount = Math.max(chunkCount, record.chunkIndex + 1);
    compressedSize = Math.max(compressedSize, record.compressedOffset + record.compressedSize);
    uncompressedSize = Math.max(uncompressedSize, record.uncompressedOffset + record.uncompressedSize);
  }
  return { ...blob, chunkCount, compressedSize, uncompressedSize };
}

/**
 * Chunk info of a blob without blob meta (RAFS v5, external): what the bootstraps that use the blob record of its chunks. Each image
 * knows the chunks it uses, so records are added with every image, and a chunk no image has spoken of has no place yet (offset −1).
 *
 * Images are hostile to each other: two that differ about a chunk, or a chunk over the place of another, would let one write where the
 * other reads; the later one is refused. Source: spec/rafs.md 3.7
 */
export class RecordedChunks implements ChunkInfo {
  readonly count: number;
  readonly contextCount = 0;
  readonly #blob: BlobRecord;
  readonly #records = new Map<number, ChunkRecord>();

  constructor(blob: BlobRecord) {
    this.#blob = blob;
    this.count = blob.chunkCount;
  }

  /**
   * Adds what one image records, all or nothing. Records of other blobs must not be among it.
   *
   * @returns indexes of the chunks that were not known before
   * @throws ChunkStoreError CHUNK_META
   */
  add(records: Iterable<ChunkRecord>): number[] {
    const added = new Map<number, ChunkRecord>();
    for (const record of records) {
      const known = this.#records.get(record.chunkIndex) ?? added.get(record.chunkIndex);
      if (known === undefined) added.set(record.chunkIndex, this.#checked(record));
      else if (!samePlace(known, record))
        throw this.#refused(record, "is described in two ways; give the images different cache directories");
    }
    if (added.size > 0) this.#checkOverlap(added);
    for (const [chunk, record] of added) this.#records.set(chunk, record);
    return [...added.keys()];
  }

  has(index: number): boolean {
    return this.#records.has(index);
  }

  uncompressedOffset(index: number): number {
    return this.#records.get(index)?.uncompressedOffset ?? -1;
  }

  uncompressedSize(index: number): number {
    return this.#records.get(index)?.uncompressedSize ?? 0;
  }

  compressedOffset(index: number): number {
    return this.#records.get(index)?.compressedOffset ?? -1;
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

  batchContext(): never {
    throw new TypeError("a blob without blob meta has no batches");
  }

  zranContext(): never {
    throw new TypeError("a blob without blob meta has no zran contexts");
  }

  /** Bounds of buffers and file: a record must not ask for more memory than a chunk has, nor for a place outside of the blob. */
  #checked(record: ChunkRecord): ChunkRecord {
    const { compressedOffset, compressedSize, uncompressedOffset, uncompressedSize, flags } = record;
    const { compressedSize: storedEnd, uncompressedSize: dataEnd } = this.#blob;
    if (record.chunkIndex >= this.count) throw this.#refused(record, `is beyond the ${this.count} chunks of the blob`);
    if (uncompressedSize === 0 || uncompressedSize > chunkBytesMax) throw this.#refused(record, `has ${uncompressedSize} bytes`);
    if (compressedSize === 0 || compressedSize > chunkBytesMax) throw this.#refused(record, `is stored in ${compressedSize} bytes`);
    if ((flags & chunkFlags.compressed) === 0 && compressedSize !== uncompressedSize) throw this.#refused(record, "is raw, with two sizes");
    if ((flags & (chunkFlags.batch | chunkFlags.encrypted)) !== 0)
      throw this.#refused(record, "is part of a batch or encrypted, which only blob meta can describe");
    if (compressedOffset + compressedSize > storedEnd) throw this.#refused(record, `passes the end ${storedEnd} of the stored blob`);
    if (uncompressedOffset + uncompressedSize > Math.ceil(dataEnd / alignment) * alignment)
      throw this.#refused(record, `passes the end ${dataEnd} of the blob's data`);
    return record;
  }

  #checkOverlap(added: ReadonlyMap<number, ChunkRecord>): void {
    const all = [...this.#records.values(), ...added.values()].sort((a, b) => a.uncompressedOffset - b.uncompressedOffset);
    all.forEach((record, index) => {
      const before = all[index - 1];
      if (before === undefined || before.uncompressedOffset + before.uncompressedSize <= record.uncompressedOffset) return;
      throw this.#refused(record, `lies over chunk ${before.chunkIndex}`);
    });
  }

  #refused({ chunkIndex }: ChunkRecord, fault: string): ChunkStoreError {
    return new ChunkStoreError("CHUNK_META", `blob ${this.#blob.id}: chunk ${chunkIndex} ${fault}`);
  }
}

function samePlace(a: ChunkRecord, b: ChunkRecord): boolean {
  return (
    a.uncompressedOffset === b.uncompressedOffset &&
    a.uncompressedSize === b.uncompressedSize &&
    a.compressedOffset === b.compressedOffset &&
    a.compressedSize === b.compressedSize &&
    a.flags === b.flags &&
    a.crc32c === b.crc32c &&
    Buffer.compare(a.digest, b.digest) === 0
  );
}

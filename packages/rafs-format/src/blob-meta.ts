import { type BlobRecord, hasFeature } from "./blob-record.ts";
import { readU64, roundUp, viewOf } from "./bytes.ts";
import { chunkInfoV2Flags } from "./constants.ts";
import { RafsError } from "./errors.ts";
import { chunkBytesMax, chunkInfoBytesMax, zranDictionaryBytesMax } from "./limits.ts";
import { checkMetaHeader, type MetaHeader, readMetaHeader } from "./meta-header.ts";
import { BATCH_CONTEXT, CHUNK_INFO_V1, CHUNK_INFO_V2, TAR_HEADER, ZRAN_CONTEXT } from "./records/blob.ts";

/** A group of small chunks stored as one item. Source: spec/rafs.md 5.4 */
export interface BatchContext {
  /** Stored bytes, from the compressed offset of any member. */
  readonly compressedSize: number;
  /** Bytes of the decoded batch. It is compressed if and only if both sizes differ. */
  readonly uncompressedSize: number;
}

/** A point from which a gzip file can be decoded. Source: spec/rafs.md 5.5 */
export interface ZranContext {
  readonly inOffset: number;
  readonly inLength: number;
  /** In the uncompressed tar. */
  readonly outOffset: number;
  readonly outLength: number;
  /** Preset dictionary, at most 32768 bytes, in place. */
  readonly dictionary: Uint8Array;
  /** The top `primeBits` bits of this byte come before the first input byte. */
  readonly primeByte: number;
  readonly primeBits: number;
}

/**
 * The chunk info of a blob, read in place. Everything is checked when it is opened: ranges inside the blob, uncompressed ranges in
 * order and apart, flags that fit the blob, contexts in bounds. So the accessors only need an index below `count`.
 *
 * Source: spec/rafs.md 5, 10
 */
export class BlobMeta {
  readonly blob: BlobRecord;
  readonly header: MetaHeader;
  /** Number of chunks. */
  readonly count: number;
  /** 24-byte records with flags, instead of 16-byte ones. */
  readonly isV2: boolean;
  /** First byte of the blob that holds no chunk data. */
  readonly dataEnd: number;
  readonly #ci: Uint8Array;
  readonly #view: DataView;
  readonly #step: number;

  /** @throws RafsError RAFS_META, RAFS_RANGE */
  constructor(ci: Uint8Array, header: Uint8Array, blob: BlobRecord) {
    this.header = readMetaHeader(header);
    checkMetaHeader(this.header, blob);
    this.blob = blob;
    this.isV2 = hasFeature(blob, "chunkInfoV2");
    this.count = this.header.ciEntries;
    this.#ci = ci;
    this.#view = viewOf(ci);
    this.#step = this.isV2 ? CHUNK_INFO_V2.recordSize : CHUNK_INFO_V1.recordSize;
    if (ci.length !== blob.ciUncompressedSize)
      throw this.#refuse(`chunk info of ${ci.length} bytes, the blob table says ${blob.ciUncompressedSize}`);
    if (this.count * this.#step > ci.length) throw this.#refuse(`${this.count} records do not fit into ${ci.length} bytes`);
    this.dataEnd = dataEndOf(blob);
    if (this.dataEnd < 0) throw this.#refuse(`chunk info at ${blob.ciOffset} leaves no room for a tar header`);
    this.#checkContexts();
    this.#checkRecords();
  }

  uncompressedOffset(index: number): number {
    const at = this.#at(index);
    const low = this.#view.getUint32(at, true);
    if (this.isV2) return low * 4096;
    return ((low & 0xfffff000) >>> 0) + (this.#view.getUint32(at + 4, true) & 0xfff) * 4294967296;
  }

  uncompressedSize(index: number): number {
    const at = this.#at(index);
    const high = this.#view.getUint32(at + 4, true);
    if (this.isV2) return (high & 0xffffff) + 1;
    return ((high >>> 12) | (((this.#view.getUint32(at, true) >>> 8) & 0xf) << 20)) + 1;
  }

  /** Of the stored chunk; of a batch member that of the batch; of a zran chunk where its gzip bytes begin. */
  compressedOffset(index: number): number {
    const at = this.#at(index) + 8;
    return this.#view.getUint32(at, true) + (this.#view.getUint32(at + 4, true) & 0xff) * 4294967296;
  }

  /** Of the stored chunk; 0 for batch members; of a zran chunk the gzip bytes used for it. */
  compressedSize(index: number): number {
    const high = this.#view.getUint32(this.#at(index) + 12, true);
    return this.isV2 ? high >>> 8 : ((high >>> 12) | (((high >>> 8) & 0xf) << 20)) + 1;
  }

  /** V1 has no flag: there a chunk is compressed if its sizes differ. */
  isCompressed(index: number): boolean {
    if (this.isV2) return (this.#flags(index) & chunkInfoV2Flags.compressed) !== 0;
    return this.compressedSize(index) !== this.uncompressedSize(index);
  }

  isEncrypted(index: number): boolean {
    return this.isV2 && (this.#flags(index) & chunkInfoV2Flags.encrypted) !== 0;
  }

  /** CRC-32C of the uncompressed data; undefined where none is recorded. */
  crc32(index: number): number | undefined {
    if (!this.isV2 || (this.#flags(index) & chunkInfoV2Flags.crc32) === 0) return undefined;
    return this.#view.getUint32(this.#at(index) + 16, true);
  }

  /** Index of the batch the chunk is a member of, −1 if of none. */
  batchOf(index: number): number {
    return this.isV2 && (this.#flags(index) & chunkInfoV2Flags.batch) !== 0 ? this.#view.getUint32(this.#at(index) + 20, true) : -1;
  }

  /** Index of the zran context the chunk is decoded with, −1 if of none. */
  zranOf(index: number): number {
    return this.isV2 && (this.#flags(index) & chunkInfoV2Flags.zran) !== 0 ? this.#view.getUint32(this.#at(index) + 20, true) : -1;
  }

  /** Where the chunk begins in the output of its batch or zran context. */
  offsetInContext(index: number): number {
    return this.#view.getUint32(this.#at(index) + 16, true);
  }

  /** Batches or zran contexts of the blob; 0 for other blobs. */
  get contextCount(): number {
    return this.header.contextCount;
  }

  batchContext(batch: number): BatchContext {
    const at = this.#contextAt(batch, "batch");
    return {
      compressedSize: this.#view.getUint32(at + BATCH_CONTEXT.compressedSize, true),
      uncompressedSize: this.#view.getUint32(at + BATCH_CONTEXT.uncompressedSize, true),
    };
  }

  zranContext(context: number): ZranContext {
    const at = this.#contextAt(context, "zran");
    const view = this.#view;
    const dictionary = this.#dictionaries() + readU64(view, at + ZRAN_CONTEXT.dictionaryOffset, "zran context: dictionary");
    return {
      inOffset: readU64(view, at + ZRAN_CONTEXT.inOffset, "zran context: input offset"),
      inLength: view.getUint32(at + ZRAN_CONTEXT.inLength, true),
      outOffset: readU64(view, at + ZRAN_CONTEXT.outOffset, "zran context: output offset"),
      outLength: view.getUint32(at + ZRAN_CONTEXT.outLength, true),
      dictionary: this.#ci.subarray(dictionary, dictionary + view.getUint32(at + ZRAN_CONTEXT.dictionarySize, true)),
      primeByte: view.getUint8(at + ZRAN_CONTEXT.primeByte),
      primeBits: view.getUint8(at + ZRAN_CONTEXT.primeBits),
    };
  }

  /** The chunk whose uncompressed range holds `offset`; −1 in the padding between chunks and past the end. */
  indexAt(offset: number): number {
    let low = 0;
    let high = this.count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const start = this.uncompressedOffset(middle);
      if (offset < start) high = middle - 1;
      else if (offset >= start + this.uncompressedSize(middle)) low = middle + 1;
      else return middle;
    }
    return -1;
  }

  #at(index: number): number {
    if (!(index >= 0 && index < this.count))
      throw new RafsError("RAFS_RANGE", `blob ${this.blob.id}: no chunk ${index}, it has ${this.count}`);
    return index * this.#step;
  }

  #flags(index: number): number {
    return this.#view.getUint32(this.#at(index) + 4, true) >>> 24;
  }

  #contextAt(index: number, feature: "batch" | "zran"): number {
    if (!hasFeature(this.blob, feature) || !(index >= 0 && index < this.header.contextCount)) {
      throw new RafsError("RAFS_RANGE", `blob ${this.blob.id}: no ${feature} context ${index}`);
    }
    return this.header.contextOffset + index * ZRAN_CONTEXT.recordSize;
  }

  #dictionaries(): number {
    return this.header.contextOffset + this.header.contextCount * ZRAN_CONTEXT.recordSize;
  }

  #checkContexts(): void {
    const { header, blob } = this;
    const zran = hasFeature(blob, "zran");
    const batch = hasFeature(blob, "batch");
    if (!zran && !batch) {
      if (header.contextCount !== 0) throw this.#refuse(`${header.contextCount} contexts in a blob without BATCH and ZRAN`);
      return;
    }
    if (zran && batch) throw this.#refuse("BATCH and ZRAN together");
    if (header.contextCount === 0) return;
    const array = this.count * this.#step;
    const size = header.contextCount * ZRAN_CONTEXT.recordSize;
    if (header.contextOffset !== array) throw this.#refuse(`contexts at ${header.contextOffset}, the records end at ${array}`);
    if (size > header.contextSize) throw this.#refuse(`${header.contextCount} contexts do not fit into ${header.contextSize} bytes`);
    if (array + header.contextSize > this.#ci.length)
      throw this.#refuse(`contexts of ${header.contextSize} bytes pass the end of the chunk info`);
    if (header.contextCount > this.count) throw this.#refuse(`${header.contextCount} contexts for ${this.count} chunks`);
    for (let index = 0; index < header.contextCount; index++) {
      if (zran) this.#checkZran(index, header.contextSize - size);
      else if (this.batchContext(index).uncompressedSize > chunkBytesMax)
        throw this.#refuse(`batch ${index} is larger than ${chunkBytesMax} bytes`);
    }
  }

  #checkZran(index: number, dictionaryBytes: number): void {
    const at = this.#contextAt(index, "zran");
    const dictionarySize = this.#view.getUint32(at + ZRAN_CONTEXT.dictionarySize, true);
    const dictionaryOffset = readU64(this.#view, at + ZRAN_CONTEXT.dictionaryOffset, `zran context ${index}: dictionary`);
    if (dictionarySize > zranDictionaryBytesMax || dictionaryOffset + dictionarySize > dictionaryBytes) {
      throw this.#refuse(
        `zran context ${index}: dictionary [${dictionaryOffset}..+${dictionarySize}) passes its area of ${dictionaryBytes} bytes or 32768`,
      );
    }
    const context = this.zranContext(index);
    if (context.inOffset + context.inLength > this.blob.compressedSize)
      throw this.#refuse(`zran context ${index}: input passes the end of the blob`);
    if (context.outLength > chunkBytesMax)
      throw this.#refuse(`zran context ${index}: output of ${context.outLength} bytes, at most ${chunkBytesMax}`);
    if (context.primeBits > 7) throw this.#refuse(`zran context ${index}: ${context.primeBits} bits of one byte`);
  }

  #checkRecords(): void {
    const uncompressedEnd = roundUp(this.blob.uncompressedSize, 4096);
    const storedAnyhow = hasFeature(this.blob, "separate");
    let end = 0;
    for (let index = 0; index < this.count; index++) {
      const offset = this.uncompressedOffset(index);
      const size = this.uncompressedSize(index);
      if (offset < end) throw this.#refuse(`chunk ${index} at ${offset} begins before the one before it ends at ${end}`);
      end = offset + size;
      if (end > uncompressedEnd) throw this.#refuse(`chunk ${index} ends at ${end}, the uncompressed blob at ${uncompressedEnd}`);
      const stored = this.compressedSize(index);
      if (this.compressedOffset(index) + stored > this.dataEnd)
        throw this.#refuse(`chunk ${index} passes the end of the stored data at ${this.dataEnd}`);
      if (this.isV2) this.#checkV2(index, size, stored, storedAnyhow);
    }
  }

  #checkV2(index: number, size: number, stored: number, storedAnyhow: boolean): void {
    const flags = this.#flags(index);
    const zran = (flags & chunkInfoV2Flags.zran) !== 0;
    const batch = (flags & chunkInfoV2Flags.batch) !== 0;
    if (zran && batch) throw this.#refuse(`chunk ${index} is both of a batch and of a zran context`);
    if (stored === 0 && !batch && !storedAnyhow) throw this.#refuse(`chunk ${index} has no stored bytes`);
    const plain = (flags & (chunkInfoV2Flags.compressed | chunkInfoV2Flags.encrypted)) === 0;
    if (plain && !batch && stored !== size) throw this.#refuse(`raw chunk ${index} of ${size} bytes is stored in ${stored}`);
    if ((flags & chunkInfoV2Flags.encrypted) !== 0 && this.blob.cipherKey === undefined)
      throw this.#refuse(`chunk ${index} is encrypted, the blob has no key`);
    if (zran || batch) {
      const feature = zran ? "zran" : "batch";
      if (!hasFeature(this.blob, feature)) throw this.#refuse(`chunk ${index} has flag ${feature}, the blob has not`);
      const context = zran ? this.zranOf(index) : this.batchOf(index);
      if (context >= this.header.contextCount)
        throw this.#refuse(`chunk ${index} names ${feature} context ${context} of ${this.header.contextCount}`);
      this.#checkInContext(index, context, size, zran);
    } else if ((flags & chunkInfoV2Flags.crc32) !== 0 && this.crc32(index) === 0)
      throw this.#refuse(`chunk ${index} has flag HAS_CRC32 and no CRC`);
  }

  #checkInContext(index: number, context: number, size: number, zran: boolean): void {
    const at = this.header.contextOffset + context * ZRAN_CONTEXT.recordSize;
    const output = this.#view.getUint32(at + (zran ? ZRAN_CONTEXT.outLength : BATCH_CONTEXT.uncompressedSize), true);
    if (this.offsetInContext(index) + size > output)
      throw this.#refuse(`chunk ${index} passes the ${output} bytes of its context ${context}`);
    if (zran) return;
    const stored = this.#view.getUint32(at + BATCH_CONTEXT.compressedSize, true);
    if (stored === 0 || this.compressedOffset(index) + stored > this.dataEnd)
      throw this.#refuse(`batch ${context} of chunk ${index} passes the stored data`);
    if (this.compressedSize(index) > output) throw this.#refuse(`chunk ${index} is stored in more bytes than its batch has`);
  }

  #refuse(fault: string): RafsError {
    return new RafsError("RAFS_META", `blob ${this.blob.id}: ${fault}`);
  }
}

/**
 * Opens the chunk info of a blob and checks all of it.
 *
 * @param ci  the uncompressed, decrypted chunk info: records, then contexts, then dictionaries; used in place
 * @param header  the decrypted 4096-byte header that follows the stored chunk info
 * @param blob  its record in the bootstrap (from `locateBlobMeta` when `hasMisplacedMeta`)
 * @throws RafsError RAFS_META, RAFS_RANGE
 */
export function openBlobMeta(ci: Uint8Array, header: Uint8Array, blob: BlobRecord): BlobMeta {
  return new BlobMeta(ci, header, blob);
}

/** Refuses sizes of chunk info that nobody should allocate memory for. Call it before fetching. @throws RafsError RAFS_META */
export function checkChunkInfoSize(blob: BlobRecord): void {
  if (blob.ciUncompressedSize > chunkInfoBytesMax) {
    throw new RafsError("RAFS_META", `blob ${blob.id}: chunk info of ${blob.ciUncompressedSize} bytes, at most ${chunkInfoBytesMax}`);
  }
}

function dataEndOf(blob: BlobRecord): number {
  if (hasFeature(blob, "separate")) return blob.compressedSize;
  return hasFeature(blob, "hasTarHeader") ? blob.ciOffset - TAR_HEADER.recordSize : blob.ciOffset;
}

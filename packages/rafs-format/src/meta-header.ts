import { type BlobRecord, hasFeature } from "./blob-record.ts";
import { readU64, viewOf } from "./bytes.ts";
import { blobFeatures, type Compressor, compressors, metaMagic, sectionNames } from "./constants.ts";
import { RafsError } from "./errors.ts";
import { META_HEADER, TAR_HEADER } from "./records/blob.ts";
import { readTarHeader } from "./tar-header.ts";

/** The header of blob meta, decoded. */
export interface MetaHeader {
  readonly features: number;
  readonly ciCompressor: Compressor;
  readonly ciEntries: number;
  readonly ciOffset: number;
  readonly ciCompressedSize: number;
  readonly ciUncompressedSize: number;
  readonly contextOffset: number;
  /** Contexts and dictionaries. */
  readonly contextSize: number;
  readonly contextCount: number;
}

/** Bytes of the header of blob meta; it is stored right after the chunk info. */
export const metaHeaderBytes = META_HEADER.recordSize;

/** Bytes at the end of a blob that `locateBlobMeta` needs. */
export const metaTrailerBytes = META_HEADER.recordSize + TAR_HEADER.recordSize;

/**
 * Decodes a header of blob meta.
 *
 * @param header  4096 bytes, decrypted
 * @throws RafsError RAFS_META
 * Source: spec/rafs.md 5.1
 */
export function readMetaHeader(header: Uint8Array): MetaHeader {
  if (header.length !== META_HEADER.recordSize) throw new RafsError("RAFS_META", `meta header of ${header.length} bytes, must be 4096`);
  const view = viewOf(header);
  const u32 = (field: number): number => view.getUint32(field, true);
  const u64 = (field: number, name: string): number => readU64(view, field, `meta header: ${name}`);
  if (u32(META_HEADER.magic) !== metaMagic || u32(META_HEADER.magic2) !== metaMagic) {
    throw new RafsError(
      "RAFS_META",
      `meta header: magic is ${u32(META_HEADER.magic).toString(16)} and ${u32(META_HEADER.magic2).toString(16)}, must be b10bb10b`,
    );
  }
  const ciCompressor = compressors[u32(META_HEADER.ciCompressor)];
  if (ciCompressor === undefined) throw new RafsError("RAFS_META", `meta header: unknown compressor ${u32(META_HEADER.ciCompressor)}`);
  return {
    features: u32(META_HEADER.features),
    ciCompressor,
    ciEntries: u32(META_HEADER.ciEntries),
    ciOffset: u64(META_HEADER.ciOffset, "offset"),
    ciCompressedSize: u64(META_HEADER.ciCompressedSize, "compressed size"),
    ciUncompressedSize: u64(META_HEADER.ciUncompressedSize, "size"),
    contextOffset: u64(META_HEADER.contextOffset, "offset of the contexts"),
    contextSize: u64(META_HEADER.contextSize, "size of the contexts"),
    contextCount: u32(META_HEADER.contextCount),
  };
}

/** Compares a header with the blob table, field by field; features are not compared (merge drops bits). @throws RafsError RAFS_META */
export function checkMetaHeader(header: MetaHeader, blob: BlobRecord): void {
  const equal = (name: string, found: unknown, wanted: unknown): void => {
    if (found !== wanted)
      throw new RafsError("RAFS_META", `blob ${blob.id}: meta header: ${name} is ${found}, the blob table says ${wanted}`);
  };
  equal("compressor", header.ciCompressor, blob.ciCompressor);
  if (!hasFeature(blob, "chunkDictGenerated")) equal("entry count", header.ciEntries, blob.chunkCount);
  equal("offset", header.ciOffset, blob.ciOffset);
  equal("compressed size", header.ciCompressedSize, blob.ciCompressedSize);
  equal("size", header.ciUncompressedSize, blob.ciUncompressedSize);
}

/**
 * Finds the chunk info of a blob by the tar header `blob.meta` that ends it, for records that `hasMisplacedMeta`.
 *
 * @param tail  the last `metaTrailerBytes` of the blob
 * @param blobSize  of the stored blob, in bytes
 * @returns the record with the real place and compressor of the chunk info
 * @throws RafsError RAFS_META, RAFS_TAR_HEADER
 */
export function locateBlobMeta(blob: BlobRecord, tail: Uint8Array, blobSize: number): BlobRecord {
  if (tail.length < metaTrailerBytes || blobSize < metaTrailerBytes)
    throw new RafsError("RAFS_META", `blob ${blob.id}: too short to end in blob meta`);
  const trailer = readTarHeader(tail.subarray(tail.length - TAR_HEADER.recordSize));
  if (trailer === undefined || trailer.name !== sectionNames.meta)
    throw new RafsError("RAFS_META", `blob ${blob.id} does not end in a tar header blob.meta`);
  const header = readMetaHeader(tail.subarray(tail.length - metaTrailerBytes, tail.length - TAR_HEADER.recordSize));
  const offset = blobSize - TAR_HEADER.recordSize - trailer.size;
  if (header.ciOffset !== offset || header.ciCompressedSize + META_HEADER.recordSize !== trailer.size) {
    throw new RafsError("RAFS_META", `blob ${blob.id}: meta header and tar header disagree about the chunk info at ${offset}`);
  }
  if (header.ciEntries !== blob.chunkCount)
    throw new RafsError(
      "RAFS_META",
      `blob ${blob.id}: ${header.ciEntries} chunks in the meta header, ${blob.chunkCount} in the blob table`,
    );
  return {
    ...blob,
    features: blob.features | blobFeatures.hasTarHeader,
    ciCompressor: header.ciCompressor,
    ciOffset: header.ciOffset,
    ciCompressedSize: header.ciCompressedSize,
    ciUncompressedSize: header.ciUncompressedSize,
  };
}

import type { BlobRecord } from "../blob-record.ts";
import { ciphers, compressors, digesters } from "../constants.ts";
import type { BlobEntry } from "./tree.ts";

/** The row of a blob table as it was read, to be written again. */
export function blobEntry(record: BlobRecord): BlobEntry {
  return {
    id: record.id,
    chunkSize: record.chunkSize,
    chunkCount: record.chunkCount,
    compressor: compressors.indexOf(record.compressor),
    digester: digesters.indexOf(record.digester),
    features: record.features,
    compressedSize: record.compressedSize,
    uncompressedSize: record.uncompressedSize,
    ciCompressor: compressors.indexOf(record.ciCompressor),
    ciOffset: record.ciOffset,
    ciCompressedSize: record.ciCompressedSize,
    ciUncompressedSize: record.ciUncompressedSize,
    tocSize: record.tocSize,
    tocDigest: record.tocDigest ?? new Uint8Array(32),
    metaDigest: record.cipherKey ?? record.metaDigest ?? new Uint8Array(32),
    metaSize: record.metaSize,
    cipher: ciphers.indexOf(record.cipher),
    cipherIv: record.cipherIv ?? new Uint8Array(16),
    prefetchBytes: record.prefetchSize,
  };
}

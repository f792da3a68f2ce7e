import type { BatchContext, ZranContext } from "@nydus-ts/rafs-format";

/**
 * Where the chunks of one blob lie and how they are stored, by chunk index. `BlobMeta` of `@nydus-ts/rafs-format` is one.
 * `RecordedChunks` is one for blobs without blob meta.
 */
export interface ChunkInfo {
  readonly count: number;
  uncompressedOffset(index: number): number;
  uncompressedSize(index: number): number;
  compressedOffset(index: number): number;
  compressedSize(index: number): number;
  isCompressed(index: number): boolean;
  isEncrypted(index: number): boolean;
  /** CRC-32C of the uncompressed data, if recorded. */
  crc32(index: number): number | undefined;
  /** −1 for a chunk that is no member of a batch. */
  batchOf(index: number): number;
  /** −1 for a chunk that is not decoded with a zran context. */
  zranOf(index: number): number;
  offsetInContext(index: number): number;
  readonly contextCount: number;
  batchContext(batch: number): BatchContext;
  zranContext(context: number): ZranContext;
}

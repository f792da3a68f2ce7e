export type { BlobBackend, BlobReadOptions, ByteRange, ReadPriority } from "./backend.ts";
export { type LocalfsOptions, localfsBackend } from "./backends/localfs.ts";
export { BlobCache } from "./blob-cache.ts";
export type {
  BlobCacheOptions,
  BlobCacheStats,
  ChunkSegment,
  EnsureOptions,
  FetchEvent,
  PrefetchOptions,
} from "./blob-cache-options.ts";
export type { ChunkInfo } from "./chunk-info.ts";
export { ChunkReader, type ChunkReaderOptions } from "./chunk-reader.ts";
export { decompress } from "./codecs/decompress.ts";
export { decryptXts } from "./codecs/xts.ts";
export { decodeZran } from "./codecs/zran.ts";
export { digestBytes } from "./digest.ts";
export { ChunkStoreError, type ChunkStoreErrorCode } from "./errors.ts";
export { recordedChunkInfo, withRecordedSizes } from "./recorded-chunks.ts";
export { FetchScheduler } from "./scheduler.ts";

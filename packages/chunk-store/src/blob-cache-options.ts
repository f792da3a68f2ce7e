import type { BlobRecord, ChunkRecord, Digester } from "@nydus-ts/rafs-format";
import type { BlobBackend, ReadPriority } from "./backend.ts";
import type { FetchScheduler } from "./scheduler.ts";

/** Bytes of the uncompressed blob. */
export interface ChunkPlace {
  readonly uncompressedOffset: number;
  readonly uncompressedSize: number;
}

export interface BlobCacheOptions {
  /** Existing folder of the cache files; images that share a blob share them. */
  readonly directory: string;
  /** With the effective id (`effectiveBlobId`): it names the cache files and the blob at the back end. */
  readonly blob: BlobRecord;
  /** What the cache files are called instead of the blob's id, for a blob whose chunks lie elsewhere than other images of this folder say. */
  readonly cacheName?: string | undefined;
  readonly backend: BlobBackend;
  /** Digest of a chunk's uncompressed data by chunk index; undefined where none is known (then CRC or the blob's digest array). */
  readonly digestOf?: ((chunkIndex: number) => Uint8Array | undefined) | undefined;
  readonly digester: Digester;
  /**
   * Where a bootstrap says that a chunk lies; undefined where none does. A table that came without proof (the original's cache file, or one
   * that came with the image) and contradicts it is fetched anew.
   */
  readonly placeOf?: ((chunkIndex: number) => ChunkPlace | undefined) | undefined;
  /**
   * Check digests before a chunk is stored, and of a chunk from an earlier run when it is first read. Without it only lengths and recorded
   * CRCs are checked. Default true.
   */
  readonly validate?: boolean;
  /** Stored bytes fetched beyond what was asked for, when access is sequential; 0 = never. Default 1 MiB. */
  readonly amplifyBytesMax?: number;
  /** Stored bytes of one merged request that nobody waits for, unless a single chunk is larger. Default 2 MiB. */
  readonly prefetchRequestBytesMax?: number;
  /** The blob that holds the chunk info of a SEPARATE blob (`metaBlobId`); default: as the record says. */
  readonly metaBlobId?: string | undefined;
  /**
   * What the bootstrap records of this blob's chunks, for blobs without blob meta (v5, external); others ignore it. More can be added
   * later, see `addChunkRecords`.
   */
  readonly chunkRecords?: Iterable<ChunkRecord> | undefined;
  /** Called after each request to the back end, also a failed one. Must not throw. */
  readonly onFetch?: ((event: FetchEvent) => void) | undefined;
  /** One line for the log: the disk did not keep what was written. Must not throw. */
  readonly onWarning?: ((line: string) => void) | undefined;
  /** Bounds of work in flight; default one for the process. */
  readonly scheduler?: FetchScheduler | undefined;
}

/** One request to the back end. */
export interface FetchEvent {
  readonly blobId: string;
  readonly what: "chunks" | "meta" | "digests";
  readonly priority: ReadPriority;
  /** Of the stored blob. */
  readonly offset: number;
  readonly length: number;
  readonly chunkCount: number;
  readonly durationMs: number;
  readonly error?: Error;
}

export interface EnsureOptions {
  /** For the whole call, waiting for a slot, retries and all hosts included; at least 1. */
  readonly deadlineMs: number;
  /** Ends this caller's wait only: the fetch goes on, for others or for the next read. */
  readonly signal?: AbortSignal | undefined;
  /** Default demand. */
  readonly priority?: ReadPriority;
  /**
   * How many bytes up to this read the reader has read in order, when the caller knows. Widens the fetch to as much again, at most
   * `amplifyBytesMax`. Without it the cache looks for runs of chunk indexes itself.
   */
  readonly sequentialBytes?: number;
  /**
   * Gets the data of chunks that are fetched for this call, verified, before they are in the cache file: a reader need not wait for the
   * disk. The memory is used again after the call. Not called for chunks that were ready, or are in memory since the disk refused them.
   * Must not throw.
   */
  readonly onVerified?: (chunk: number, data: Uint8Array) => void;
}

/** A piece of one chunk, and where its bytes go. */
export interface ChunkSegment {
  readonly chunk: number;
  /** First byte within the uncompressed chunk. */
  readonly offset: number;
  readonly length: number;
  readonly targetOffset: number;
}

export interface PrefetchOptions {
  readonly signal?: AbortSignal | undefined;
  /** Stored bytes a second; 0 or absent: no limit. */
  readonly bandwidth?: number | undefined;
}

/** Counters since the cache was opened; names and meanings after spec/nydusd.md 17.3. Bytes are bytes of the stored blob unless named otherwise. */
export interface BlobCacheStats {
  readonly chunkCount: number;
  /** Chunks in the cache now, those of an earlier run that nobody has read yet included. */
  readonly readyCount: number;
  /** Calls of `ensure` and `readInto`. */
  readonly total: number;
  /** Calls that found all chunks ready (`partial_hits`). */
  readonly hits: number;
  /** Chunks made ready (`entries_count`). */
  readonly entriesCount: number;
  readonly fetchRequests: number;
  readonly fetchErrors: number;
  /** Stored bytes received, by who waited. `widened` is what sequential access added to demand. */
  readonly demandBytes: number;
  readonly widenedBytes: number;
  readonly prefetchBytes: number;
  /** What of `prefetchBytes` has been read since: their quotient says how well a prefetch list fits. */
  readonly prefetchUsedBytes: number;
  readonly metaBytes: number;
  readonly prefetchRequests: number;
  /** Chunks given to `prefetch` that were not ready (`prefetch_unmerged_chunks`). */
  readonly prefetchChunks: number;
  /** Prefetch calls that are running (`prefetch_workers`). */
  readonly prefetchActive: number;
  readonly prefetchMillis: number;
  /** Unix time in ms; 0 = never. */
  readonly prefetchBeginMs: number;
  readonly prefetchEndMs: number;
  /** Decoded bytes not yet written (`buffered_backend_size`). */
  readonly bufferedBytes: number;
  /** Chunks or contexts whose bytes were refused. */
  readonly verifyFailures: number;
  /** Chunks stored without any digest or CRC to compare with. */
  readonly unverifiedChunks: number;
  /** Chunks that could not be written, e.g. because the disk is full, and were handed out from memory. */
  readonly unstoredChunks: number;
  /** Chunks of an earlier run that were not what they should be, and are fetched again. */
  readonly damagedChunks: number;
  readonly inFlight: number;
}

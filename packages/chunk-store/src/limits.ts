import assert from "node:assert/strict";
import { chunkBytesMax } from "@nydus-ts/rafs-format";

/** Requests in flight over all blobs of a scheduler. Beyond it they wait: demand first, then read-ahead, then prefetch. */
export const requestsInFlightMax = 128;

/**
 * Requests in flight for one blob: a blob whose host stalls holds a quarter of the slots, the others go on. As many as a host is asked at
 * once, and more than a program starting up has unrelated misses (20 to 30): at 20 ms each they must not add up. Beyond it they wait.
 */
export const requestsPerBlobMax = 32;

/**
 * Prefetch requests in flight while nobody waits for data; with demand running it is `prefetchBesideDemandMax`. A reader that comes meets
 * what each has under way.
 */
export const prefetchInFlightMax = 6;

/** Prefetch requests that may go on beside demand. New ones wait until demand is idle. */
export const prefetchBesideDemandMax = 0;

/** Prefetch that got no request for so long, in ms, may send one beside demand: else a busy container would keep it from ever ending. */
export const prefetchStarvedMs = 1000;

/** How long demand must be idle before prefetch goes on, in ms: a container's reads come in bursts with pauses of this order. */
export const demandIdleMs = 20;

/** Stored bytes in flight over all requests; each also has its decoded chunks. One request is always let through. Beyond it they wait. */
export const bytesInFlightMax = 128 * 1024 * 1024;

/** Stored bytes of one merged request, unless a single chunk is larger. More would keep the first waiter from its data. */
export const demandRequestBytesMax = 1024 * 1024;
export const prefetchRequestBytesDefault = 2 * 1024 * 1024;

/** Unwanted stored bytes between two wanted chunks that are fetched along to save a request. 4 KiB cost 0.2 ms at 200 Mbit/s. */
export const gapBytesMax = 4096;

/** Waiting and running fetches of one blob. Calls beyond it are refused with CHUNK_BACKEND. */
export const fetchesPerBlobMax = 65536;

/** Chunks one prefetch call puts into the queue at a time; the rest stays a list of numbers. */
export const prefetchWindowChunks = 256;

/** Default of `amplifyBytesMax`. */
export const amplifyBytesDefault = 1024 * 1024;

/** Chunks read in order before a read counts as sequential, and the stored bytes of the first widening. */
export const sequentialChunksMin = 3;
export const firstWidenBytes = 128 * 1024;

/**
 * A reader that has come so far in order, in bytes, reads a large file or a whole tree: from then on half of what it has read is fetched
 * ahead of it, at most so many times `amplifyBytesMax` and so many decoded bytes. At 20 ms a request it would else wait for each.
 */
export const longRunBytesMin = 4 * 1024 * 1024;
export const longRunAmplifyTimes = 8;
export const longRunAheadBytesMax = 8 * 1024 * 1024;

/**
 * Read-ahead that may travel in the request of a reader, in stored bytes: it delays the reader by 1.3 ms at 200 Mbit/s, where a request of its
 * own needs a connection more.
 */
export const aheadWithDemandBytesMax = 32 * 1024;

/** Stored bytes one call of `BlobCache.fetchAhead` may ask for. */
export const fetchAheadBytesMax = 2 * 1024 * 1024;

/** Sequences watched at a time in one blob; the one not seen for longest is forgotten. */
export const sequencesMax = 16;

/** Deadline of a fetch nobody waits for: prefetch, read-ahead. */
export const backgroundDeadlineMs = 60_000;

/** How often a chunk is fetched anew when its bytes were not right. */
export const verifyRetriesMax = 1;

/** What an earlier run left behind a chunk that is verified for a reader, and is verified along with it. */
export const verifyAheadChunks = 128;
export const verifyAheadBytes = 8 * 1024 * 1024;

/** Bytes that a meta blob may hold beside chunk info, header and 32 bytes a chunk: tar headers and ToC. A larger one is not fetched whole. */
export const metaBlobOthersMax = 128 * 1024;

/** Written chunks wait at most this long, or for this many bytes, until they are synced and their bits persisted. A kill costs fetching them again. */
export const syncDelayMs = 500;
export const syncBytesMax = 32 * 1024 * 1024;

/** Items of one request that are decoded and written at a time: one in a thread while another is written. Those behind them wait. */
export const landingsPerRequestMax = 2;

/** Items decoded on the event loop; larger ones go to a thread while other work is in flight. 64 KiB are 0.07 ms of zstd. */
export const decodeInlineBytesMax = 64 * 1024;

/** Chunks that could not be written are kept in memory up to this size, so that pieces of one chunk don't fetch it again each. */
export const unstoredBytesMax = 32 * 1024 * 1024;

/** A chunk in memory is offered to the disk again after this time, in ms, when somebody reads it. */
export const unstoredRetryMs = 1000;

/** Decoded batches and zran outputs that a `ChunkReader` keeps for the next chunk of them. */
export const decodedContextBytesMax = 64 * 1024 * 1024;

/** Longest wait of closing, in ms, for fetches and the last sync. Fetches that take longer keep the files open until they end. */
export const closeDeadlineMs = 5000;

assert(prefetchInFlightMax + requestsPerBlobMax < requestsInFlightMax, "prefetch and one stalled blob leave slots for demand");
assert(bytesInFlightMax >= chunkBytesMax, "the largest chunk fits");

import type { BlobCacheStats } from "@nydus-ts/chunk-store";
import type { BlobcacheMetricsAnswer } from "@nydus-ts/nydus-api";
import type { Image, PrefetchState } from "../images/image.ts";

/** Counters of the blob caches that these images use, each cache once. Source: spec/nydusd.md 17.3; the last but one four are ours. */
export function blobcacheAnswer(images: readonly Image[]): BlobcacheMetricsAnswer {
  const handles = images.flatMap((image) => image.blobs);
  const caches = [...new Set(handles.map(({ cache }) => cache))];
  const stats = caches.map((cache) => cache.stats());
  const sum = (key: keyof BlobCacheStats): number => stats.reduce((total, each) => total + each[key], 0);
  const begins = stats.map((each) => each.prefetchBeginMs).filter((ms) => ms > 0);
  const begin = begins.length === 0 ? 0 : Math.min(...begins);
  const end = Math.max(0, ...stats.map((each) => each.prefetchEndMs));
  return {
    underlying_files: handles.map(({ use }) => `${use.cacheName}.blob.data`).filter((name, index, all) => all.indexOf(name) === index),
    store_path: handles[0]?.directory ?? "",
    partial_hits: sum("hits"),
    // Chunks are read from the cache file in place; there is no second, slower way to count.
    whole_hits: 0,
    total: sum("total"),
    entries_count: sum("entriesCount"),
    prefetch_data_amount: sum("prefetchBytes"),
    prefetch_requests_count: sum("prefetchRequests"),
    prefetch_workers: sum("prefetchActive"),
    prefetch_unmerged_chunks: sum("prefetchChunks"),
    prefetch_cumulative_time_millis: Math.round(sum("prefetchMillis")),
    prefetch_begin_time_secs: Math.floor(begin / 1000),
    prefetch_begin_time_millis: Math.floor(begin % 1000),
    prefetch_end_time_secs: Math.floor(end / 1000),
    prefetch_end_time_millis: Math.floor(end % 1000),
    buffered_backend_size: sum("bufferedBytes"),
    prefetch_used_data_amount: sum("prefetchUsedBytes"),
    prefetch_state: prefetchState(images),
    chunks: sum("chunkCount"),
    chunks_ready: sum("readyCount"),
    data_all_ready: stats.every((each) => each.readyCount === each.chunkCount),
  };
}

/** The state that needs attention most. */
function prefetchState(images: readonly Image[]): PrefetchState {
  const states = images.map((image) => image.prefetchState);
  return (["running", "ended early", "done"] as const).find((state) => states.includes(state)) ?? "off";
}

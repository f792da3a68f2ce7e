import type { BackendMetricsAnswer, BlobcacheMetricsAnswer, FsMetricsAnswer } from "@nydus-ts/nydus-api";
import { float, line, quotient, row } from "./numbers.ts";

const mib = 1024 * 1024;
const sizeLabels = ["<1K", "1K~", "4K~", "16K~", "64K~", "128K~", "512K~", "1M~"];
/** The daemon's real classes; the original prints others (spec/nydusctl.md 6, row 5). */
const latencyLabels = ["<200us", "~1ms", "~20ms", "~50ms", "~500ms", "~1s", "~2s", "2s~"];
const operationLabels = [
  ["Getattr", "Readlink", "Open", "Release", "Read", "Statfs", "Getxattr", "Listxattr"],
  ["Opendir", "Lookup", "Readdir", "Readdirplus", "Access", "Forget", "BatchForget"],
];

const text = (lines: readonly string[]): string => `${lines.join("\n")}\n`;

/** Source of the layouts: spec/nydusctl.md 4.3. */
export function cacheText(metrics: BlobcacheMetricsAnswer): string {
  const column = 28;
  const { prefetch_data_amount: amount, prefetch_requests_count: requests } = metrics;
  const begin = metrics.prefetch_begin_time_secs + metrics.prefetch_begin_time_millis / 1000;
  const end = metrics.prefetch_end_time_secs + metrics.prefetch_end_time_millis / 1000;
  // While a prefetch runs the end is still 0, or that of an earlier one.
  const duration = begin > 0 && end >= begin ? end - begin : Number.NaN;
  return text([
    "",
    line("Partial Hits:", metrics.partial_hits, column),
    line("Whole Hits:", metrics.whole_hits, column),
    line("Total Read:", metrics.total, column),
    line("Directory:", JSON.stringify(metrics.store_path), column),
    line("Files:", JSON.stringify(metrics.underlying_files), column),
    line("Persister Buffer:", metrics.buffered_backend_size, column),
    "",
    line("Prefetch Workers:", metrics.prefetch_workers, column),
    line("Prefetch Amount:", `${amount} = ${float(amount / 1024)} KB`, column),
    line("Prefetch Requests:", requests, column),
    line("Prefetch Average Size:", `${quotient(amount, requests)} Bytes`, column),
    line("Prefetch Duration:", `${float(duration)} Seconds`, column),
    line("Prefetch Bandwidth:", `${float(amount / mib / duration)} MB/S`, column),
    line("Prefetch Request Latency:", `${float(metrics.prefetch_cumulative_time_millis / requests / 1000)} Seconds`, column),
    line("Prefetch Unmerged:", metrics.prefetch_unmerged_chunks, column),
  ]);
}

export function backendText(metrics: BackendMetricsAnswer): string {
  const { read_amount_total: amount, read_count_block_size_dist: counts, read_cumulative_latency_millis_dist: latencies } = metrics;
  const average = latencies.map((latency, index) => quotient(latency, counts[index] ?? 0));
  return text([
    "",
    line("Backend Type:", JSON.stringify(metrics.backend_type), 20),
    line("Read Amount:", `${amount} Bytes (${float(amount / mib)} MB)`, 20),
    line("Read Count:", metrics.read_count, 20),
    line("Read Errors:", metrics.read_errors, 20),
    "",
    row("Block Sizes:", sizeLabels, 25),
    row("Average Latency(millis):", average, 25),
    "",
    row("Block Sizes:", sizeLabels, 25),
    row("Request Count:", counts, 25),
  ]);
}

export interface BackendDelta {
  readonly bandwidthKib: number;
  readonly averageBytes: number;
  readonly averageMs: number;
  readonly latencyBySize: readonly number[];
}

/** What happened between two readings; a restarted daemon, whose counters are lower, gives 0. */
export function backendDelta(before: BackendMetricsAnswer, after: BackendMetricsAnswer, seconds: number): BackendDelta {
  const grown = (a: number, b: number): number => Math.max(0, b - a);
  const bytes = grown(before.read_amount_total, after.read_amount_total);
  const count = grown(before.read_count, after.read_count);
  const ms = grown(before.read_cumulative_latency_millis_total, after.read_cumulative_latency_millis_total);
  const latencyBySize = sizeLabels.map((_, index) =>
    quotient(
      grown(before.read_cumulative_latency_millis_dist[index] ?? 0, after.read_cumulative_latency_millis_dist[index] ?? 0),
      grown(before.read_count_block_size_dist[index] ?? 0, after.read_count_block_size_dist[index] ?? 0),
    ),
  );
  return {
    bandwidthKib: quotient(bytes, seconds * 1024),
    averageBytes: quotient(bytes, count),
    averageMs: quotient(ms, count),
    latencyBySize,
  };
}

export function backendDeltaText(delta: BackendDelta): string {
  return text([
    "",
    ">>> >>> >>> >>> >>>",
    line("Backend Read Bandwidth:", `${delta.bandwidthKib} KB/S`, 28),
    line("Backend Average IO Size:", `${delta.averageBytes} Bytes`, 28),
    line("Backend Average Latency:", `${delta.averageMs} millis`, 28),
    "",
    "Block Sizes/millis:",
    row("", sizeLabels, 0),
    row("", delta.latencyBySize, 0),
    "<<< <<< <<< <<< <<<",
  ]);
}

export function fsText(metrics: FsMetricsAnswer): string {
  const hits = metrics.fop_hits;
  let index = 0;
  const operations = operationLabels.map((labels) => labels.map((label) => `${label}(${hits[index++] ?? 0})`).join(" "));
  return text([
    "",
    row("Read Latency:", latencyLabels, 16),
    row("Reads Count:", metrics.read_latency_dist, 16),
    "",
    `Read Errors: ${metrics.fop_errors[4] ?? 0}`,
    `Read Data: ${metrics.data_read}Bytes (${Math.floor(metrics.data_read / mib)}MB)`,
    "",
    "FOP Counters:",
    ...operations,
  ]);
}

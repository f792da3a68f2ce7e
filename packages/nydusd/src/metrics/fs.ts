import { type FsMetricsAnswer, fileOperations } from "@nydus-ts/nydus-api";
import type { FsMetrics } from "../engines/engine.ts";

const readIndex = fileOperations.indexOf("read");
const openIndex = fileOperations.indexOf("open");

/** Counters of one mount as the API shows them; per-file counters are not kept. Source: spec/nydusd.md 17.1. */
export function fsMetricsAnswer(mountpoint: string, metrics: FsMetrics): FsMetricsAnswer {
  const latency = new Array<number>(fileOperations.length).fill(0);
  latency[readIndex] = metrics.readCumulativeLatencyUs;
  return {
    files_account_enabled: false,
    access_pattern_enabled: false,
    record_latest_read_files_enabled: false,
    measure_latency: true,
    id: mountpoint,
    nr_opens: metrics.fopHits[openIndex] ?? 0,
    data_read: metrics.dataRead,
    block_count_read: [...metrics.blockCountRead],
    fop_hits: [...metrics.fopHits],
    fop_errors: [...metrics.fopErrors],
    fop_cumulative_latency_total: latency,
    read_latency_dist: [...metrics.readLatencyDist],
  };
}

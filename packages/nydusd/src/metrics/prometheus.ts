import { type BackendMetricsAnswer, type BlobcacheMetricsAnswer, fileOperations } from "@nydus-ts/nydus-api";

import type { Engine } from "../engines/engine.ts";
import type { ImageBackend } from "../images/backends.ts";
import type { Image } from "../images/image.ts";
import { blobcacheAnswer } from "./blobcache.ts";

export interface PrometheusSources {
  readonly engine: Engine | undefined;
  readonly images: readonly Image[];
  readonly backends: readonly ImageBackend[];
}

/** All counters as Prometheus text: an extension, with labels `mountpoint` and `backend` where the JSON routes take an id. */
export async function prometheusText({ engine, images, backends }: PrometheusSources): Promise<string> {
  // Loaded when first asked for: a daemon that nobody scrapes starts sooner.
  const { Gauge, Registry } = await import("prom-client");
  const registry = new Registry();
  const set = (name: string, help: string, rows: readonly (readonly [Record<string, string>, number])[]): void => {
    const labelNames = [...new Set(rows.flatMap(([labels]) => Object.keys(labels)))];
    const gauge = new Gauge({ name, help, labelNames, registers: [registry] });
    for (const [labels, value] of rows) gauge.set(labels, value);
  };
  const fs = images.flatMap(({ mountpoint }) => {
    const metrics = engine?.metrics(mountpoint);
    return metrics === undefined ? [] : [{ mountpoint, metrics }];
  });
  set("nydusd_images", "Mounted images", [[{}, images.length]]);
  set("nydusd_resident_bytes", "Resident memory of the daemon", [[{}, process.memoryUsage.rss()]]);
  set("nydusd_inflight_requests", "Requests of the kernel in service", [[{}, engine?.inflight().length ?? 0]]);
  set(
    "nydusd_read_bytes_total",
    "Bytes read by users",
    fs.map(({ mountpoint, metrics }) => [{ mountpoint }, metrics.dataRead]),
  );
  const operations = (counts: "fopHits" | "fopErrors") =>
    fs.flatMap(({ mountpoint, metrics }) =>
      fileOperations.map((operation, index) => [{ mountpoint, operation }, metrics[counts][index] ?? 0] as const),
    );
  set("nydusd_operations_total", "File operations that succeeded", operations("fopHits"));
  set("nydusd_operation_errors_total", "File operations that failed", operations("fopErrors"));
  const answers = backends.map(({ name, backend }) => ({ backend: name, answer: backend.answer() }));
  const backendRows = (key: keyof BackendMetricsAnswer) =>
    answers.map(({ backend, answer }) => [{ backend }, Number(answer[key])] as const);
  set("nydusd_backend_reads_total", "Requests to back ends, failed ones included", backendRows("read_count"));
  set("nydusd_backend_read_errors_total", "Requests to back ends that failed", backendRows("read_errors"));
  set("nydusd_backend_read_bytes_total", "Bytes asked of back ends", backendRows("read_amount_total"));
  set("nydusd_backend_read_milliseconds_total", "Time of requests to back ends", backendRows("read_cumulative_latency_millis_total"));
  const hosts = answers.flatMap(({ backend, answer }) =>
    (answer.hosts ?? []).map((host) => ({ labels: { backend, host: host.url }, host })),
  );
  const outcomes = ["successes", "failures", "bypasses", "probes"] as const;
  set(
    "nydusd_backend_host_total",
    "What became of requests a host was to get: answered, failed, sent to the next host because this one is ill; and probes of an ill host",
    hosts.flatMap(({ labels, host }) => outcomes.map((outcome) => [{ ...labels, outcome }, host[outcome]] as const)),
  );
  set(
    "nydusd_backend_host_open",
    "1 while a mirror is bypassed because it is ill",
    hosts.map(({ labels, host }) => [labels, Number(host.state === "open")]),
  );
  const caches = images.map((image) => ({ mountpoint: image.mountpoint, answer: blobcacheAnswer([image]) }));
  set(
    "nydusd_cache_chunks_ready_total",
    "Chunks that became ready",
    caches.map(({ mountpoint, answer }) => [{ mountpoint }, answer.entries_count]),
  );
  set(
    "nydusd_prefetch_bytes_total",
    "Bytes prefetched",
    caches.map(({ mountpoint, answer }) => [{ mountpoint }, answer.prefetch_data_amount]),
  );
  const cacheRows = (value: (answer: BlobcacheMetricsAnswer) => number) =>
    caches.map(({ mountpoint, answer }) => [{ mountpoint }, value(answer)] as const);
  set(
    "nydusd_prefetch_used_bytes_total",
    "Bytes of those prefetched that have been read since; divided by them: how well the list fits",
    cacheRows((answer) => answer.prefetch_used_data_amount ?? 0),
  );
  set(
    "nydusd_prefetch_running",
    "1 while an image is being prefetched",
    cacheRows((answer) => Number(answer.prefetch_state === "running")),
  );
  set(
    "nydusd_image_chunks",
    "Chunks of the image's blobs",
    cacheRows((answer) => answer.chunks ?? 0),
  );
  set(
    "nydusd_image_chunks_ready",
    "Chunks that are in the cache",
    cacheRows((answer) => answer.chunks_ready ?? 0),
  );
  return registry.metrics();
}

import { createServer } from "node:http";
import { type FsMetricsAnswer, fileOperations } from "@nydus-ts/nydus-api";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Daemon } from "../daemons/daemon.ts";
import { messageOf, SnapshotterError } from "../errors.ts";
import type { RafsInstances } from "../instances/rafs-instances.ts";
import { metricsDeadlineMs } from "../limits.ts";
import type { Log } from "../log.ts";
import type { MethodName } from "../service/proto.ts";
import type { InstanceStore } from "../store/instances.ts";
import { measureUsage } from "../store/usage.ts";
import { packageVersion } from "../version.ts";
import { close } from "./controller.ts";
import { openFiles, rssKib, threads } from "./process-info.ts";

const READ = fileOperations.indexOf("read");
/** Upper bounds of nydusd's classes; the last class of each array is open. Source: spec/snapshotter.md 13.2. */
const BLOCK_BOUNDS = [1, 4, 16, 64, 128, 512, 1024, 2048] as const;
const LATENCY_BOUNDS = [1, 20, 50, 100, 500, 1000, 2000, 4000] as const;
const OPERATIONS: Partial<Record<MethodName, string>> = { Prepare: "PREPARE", Mounts: "MOUNTS", Remove: "REMOVE", Cleanup: "CLEANUP" };

/** Names of nydusd's cache counters under their metric names. */
const CACHE_GAUGES = {
  partial_hits: "partial_hits",
  whole_hits: "whole_hits",
  total_requests: "total",
  entries_count: "entries_count",
  prefetch_data_bytes: "prefetch_data_amount",
  prefetch_requests_count: "prefetch_requests_count",
  prefetch_workers: "prefetch_workers",
  prefetch_unmerged_chunks: "prefetch_unmerged_chunks",
  prefetch_cumulative_time_millis: "prefetch_cumulative_time_millis",
  buffered_backend_size: "buffered_backend_size",
} as const;

export interface MetricsSources {
  readonly rafs: RafsInstances;
  readonly instances: InstanceStore;
  readonly cache: string;
  readonly hungIoMs: number;
}

/**
 * Metrics with the original's names. What belongs to daemons is asked for when somebody looks, so a scrape shows the present; a daemon that does
 * not answer is left out. Two instances of one image are added up.
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly #calls: Histogram<"snapshot_operation">;
  readonly #events: Counter<"nydusd_event">;
  readonly #blobsDeleted: Counter;
  readonly #blobErrors: Counter;
  readonly #blobsInUse: Gauge;
  #sources: MetricsSources | undefined;

  constructor() {
    const registers = [this.#registry];
    this.#calls = new Histogram({
      name: "snapshotter_snapshot_operation_elapsed_milliseconds",
      help: "Milliseconds of a call",
      labelNames: ["snapshot_operation"],
      buckets: [0.5, 1, 5, 10, 50, 100, 150, 200, 250, 300, 350, 400, 600, 1000],
      registers,
    });
    this.#events = new Counter({
      name: "nydusd_lifetime_event_counts",
      help: "Daemons started, died, ended",
      labelNames: ["nydusd_event"],
      registers,
    });
    this.#blobsDeleted = new Counter({ name: "snapshotter_cache_blobs_deleted_total", help: "Cache files removed", registers });
    this.#blobErrors = new Counter({
      name: "snapshotter_cache_blob_deletion_errors_total",
      help: "Cache files that could not be removed",
      registers,
    });
    this.#blobsInUse = new Gauge({ name: "snapshotter_cache_blobs_in_use", help: "Blobs of mounted images", registers });
  }

  observe(method: MethodName, elapsedMs: number): void {
    const operation = OPERATIONS[method];
    if (operation !== undefined) this.#calls.observe({ snapshot_operation: operation }, elapsedMs);
  }

  countEvent(event: "RUNNING" | "DIED" | "DESTROYED"): void {
    this.#events.inc({ nydusd_event: event });
  }

  countBlobs(counts: { deleted: number; failed: number; used: number }): void {
    this.#blobsDeleted.inc(counts.deleted);
    this.#blobErrors.inc(counts.failed);
    this.#blobsInUse.set(counts.used);
  }

  /** From now on a scrape includes daemons and the cache. */
  use(sources: MetricsSources): void {
    this.#sources = sources;
  }

  async text(): Promise<string> {
    const own = await this.#registry.metrics();
    return this.#sources === undefined ? own : own + (await scrape(this.#sources));
  }
}

/** @throws SnapshotterError CONFIG_INVALID: the address is not HOST:PORT, or taken */
export async function serveMetrics(address: string, metrics: Metrics, log: Log): Promise<AsyncDisposable> {
  const match = /^(.*):(\d{1,5})$/.exec(address);
  if (match === null)
    throw new SnapshotterError("CONFIG_INVALID", `metrics.address: expected HOST:PORT or :PORT, found ${JSON.stringify(address)}`);
  const [, host, port] = match;
  const server = createServer((request, response) => {
    if (request.method !== "GET" || request.url?.split("?")[0] !== "/v1/metrics") {
      response.writeHead(404).end("metrics are at /v1/metrics\n");
      return;
    }
    metrics.text().then(
      (text) => response.writeHead(200, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" }).end(text),
      (error) => {
        log.warn({ error: messageOf(error) }, "metrics could not be collected");
        response.writeHead(500).end();
      },
    );
  });
  await new Promise<void>((resolve, reject) =>
    server.once("error", reject).listen(Number(port), host === "" ? undefined : host.replace(/^\[|\]$/g, ""), resolve),
  ).catch((error) => {
    throw new SnapshotterError("CONFIG_INVALID", `metrics.address ${address}: cannot listen: ${messageOf(error)}`, { cause: error });
  });
  return { [Symbol.asyncDispose]: () => close(server) };
}

/** One set of labels → value, for one metric. */
type Values = Map<string, number>;

async function scrape({ rafs, instances, cache, hungIoMs }: MetricsSources): Promise<string> {
  const gauges = new Map<string, Values>();
  const add = (name: string, labels: string, value: number): void => {
    const values = gauges.get(name) ?? new Map<string, number>();
    values.set(labels, (values.get(labels) ?? 0) + value);
    gauges.set(name, values);
  };
  const histograms: { name: string; bounds: readonly number[]; byImage: Map<string, number[]> }[] = [
    { name: "nydusd_cumulative_read_block_bytes", bounds: BLOCK_BOUNDS, byImage: new Map() },
    { name: "nydusd_read_latency_microseconds", bounds: LATENCY_BOUNDS, byImage: new Map() },
  ];
  const running = rafs.daemons().filter((daemon) => daemon.running);
  add("nydusd_counts", label("version", packageVersion), running.length);
  add("nydusd_hung_io_counts", "", 0);
  const records = instances.instances();
  await Promise.all(
    running.map(async (daemon) => {
      const daemonLabel = label("daemon_id", daemon.place.id);
      add("nydusd_rss_kilobytes", daemonLabel, daemon.pid === undefined ? 0 : rssKib(daemon.pid));
      add("nydusd_hung_io_counts", "", await hungRequests(daemon, hungIoMs));
      for (const { key, image } of records.filter((record) => record.daemon === daemon.place.id)) {
        const imageLabel = label("image_ref", image);
        add("nydusd_image_info", `${daemonLabel},${imageLabel}`, 1);
        const fs = await quietly(daemon.client.metrics(`/${key}`, { timeoutMs: metricsDeadlineMs }));
        if (fs !== undefined) {
          add("nydusd_total_read_bytes", imageLabel, fs.data_read);
          add("nydusd_read_hits", imageLabel, fs.fop_hits[READ]);
          add("nydusd_read_errors", imageLabel, fs.fop_errors[READ]);
          addClasses(histograms, imageLabel, fs);
        }
        const blobs = await quietly(daemon.client.blobcacheMetrics(`/${key}`, { timeoutMs: metricsDeadlineMs }));
        if (blobs !== undefined)
          for (const [metric, field] of Object.entries(CACHE_GAUGES)) add(`nydusd_cache_${metric}`, imageLabel, blobs[field]);
      }
    }),
  );
  const cpu = process.cpuUsage();
  add("snapshotter_cache_usage_kilobytes", "", Math.round((await measureUsage(cache)).size / 1024));
  add("snapshotter_memory_usage_kilobytes", "", rssKib("self"));
  add("snapshotter_cpu_system_time_seconds", "", cpu.system / 1e6);
  add("snapshotter_cpu_user_time_seconds", "", cpu.user / 1e6);
  add("snapshotter_cpu_usage_percentage", "", ((cpu.user + cpu.system) / 1e6 / process.uptime()) * 100);
  add("snapshotter_fd_counts", "", openFiles());
  add("snapshotter_thread_counts", "", threads());
  add("snapshotter_run_time_seconds", "", process.uptime());
  const lines = [...gauges].map(
    ([name, values]) =>
      `# TYPE ${name} gauge\n${[...values].map(([labels, value]) => `${name}${labels === "" ? "" : `{${labels}}`} ${value}\n`).join("")}`,
  );
  return [...lines, ...histograms.map(histogramText)].join("");
}

async function hungRequests(daemon: Daemon, hungIoMs: number): Promise<number> {
  const inflight = await quietly(daemon.client.inflight({ timeoutMs: metricsDeadlineMs }));
  return (inflight ?? []).filter((request) => Date.now() - request.timestamp_secs * 1000 > hungIoMs).length;
}

function addClasses(histograms: readonly { byImage: Map<string, number[]> }[], image: string, fs: FsMetricsAnswer): void {
  for (const [index, counts] of [fs.block_count_read, fs.read_latency_dist].entries()) {
    const { byImage } = histograms[index];
    byImage.set(
      image,
      counts.map((count, position) => count + (byImage.get(image)?.[position] ?? 0)),
    );
  }
}

/** Cumulative buckets; the sum is taken from the bounds, since nydusd keeps classes only. */
function histogramText({ name, bounds, byImage }: { name: string; bounds: readonly number[]; byImage: Map<string, number[]> }): string {
  const lines = [`# TYPE ${name} histogram\n`];
  for (const [image, counts] of byImage) {
    let total = 0;
    let sum = 0;
    for (const [index, count] of counts.entries()) {
      total += count;
      sum += count * bounds[index];
      lines.push(`${name}_bucket{${image},le="${bounds[index]}"} ${total}\n`);
    }
    lines.push(`${name}_bucket{${image},le="+Inf"} ${total}\n`, `${name}_sum{${image}} ${sum}\n`, `${name}_count{${image}} ${total}\n`);
  }
  return lines.length === 1 ? "" : lines.join("");
}

const label = (name: string, value: string): string =>
  `${name}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`;

async function quietly<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch {
    return undefined;
  }
}

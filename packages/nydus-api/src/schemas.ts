import { z } from "zod";

/*
 * Bodies of nydusd's HTTP API. Source: spec/nydusd.md 4.4 and 17.
 * Answers are read leniently (unknown keys are kept, keys that older daemons lack are optional); requests are read strictly by the daemon.
 */

const count = z.number().nonnegative();

/** States of spec/nydusd.md 5 as `info` reports them. */
export const daemonStates = ["INIT", "RUNNING", "READY", "STOPPED", "UNKNOWN"] as const;
export type DaemonState = (typeof daemonStates)[number];

export const mountedBackendSchema = z.looseObject({
  /** `Rafs` or `PassthroughFs`. */
  backend_type: z.string(),
  mountpoint: z.string(),
  /** UTC, `2026-03-04 05:06:07.123456789 +00:00:00`. */
  mounted_time: z.string().optional(),
  /** The v2 configuration without its secrets; null for passthrough. */
  config: z.record(z.string(), z.unknown()).nullable().optional(),
});
export type MountedBackend = z.infer<typeof mountedBackendSchema>;

export const daemonInfoSchema = z.looseObject({
  version: z.looseObject({
    package_ver: z.string(),
    git_commit: z.string().optional(),
    build_time: z.string().optional(),
    profile: z.string().optional(),
    rustc: z.string().optional(),
  }),
  id: z.string().nullable().optional(),
  supervisor: z.string().nullable().optional(),
  state: z.enum(daemonStates).catch("UNKNOWN"),
  backend_collection: z.record(z.string(), mountedBackendSchema).nullable().optional(),
});
export type DaemonInfo = z.infer<typeof daemonInfoSchema>;

/** Body of POST and PUT /api/v1/mount. `probe` is an extension of this daemon, false when absent; the original ignores it. */
export const mountRequestSchema = z.object({
  /** Path of the bootstrap (or of a blob with an inlined bootstrap), absolute or relative to the daemon. */
  source: z.string(),
  fs_type: z.string().default(""),
  /** The text of the configuration file, not an object. */
  config: z.string(),
  prefetch_files: z.array(z.string()).nullish(),
  probe: z.boolean().optional(),
});
export type MountRequest = z.input<typeof mountRequestSchema>;

/** Body of PUT /api/v1/daemon. */
export const daemonConfigureSchema = z.object({ log_level: z.string() });

/** Keys of PUT /api/v1/config. Source: spec/nydusd.md 4.5. */
export const runtimeConfigSchema = z.strictObject({
  registry_auth: z.string().optional(),
  proxy_url: z.string().optional(),
  dragonfly_scheduler_endpoint: z.string().optional(),
});
export type RuntimeConfig = z.infer<typeof runtimeConfigSchema>;

/** Body of every failure. `message` says what failed and what to do. */
export const errorBodySchema = z.looseObject({ code: z.string(), message: z.string() });

const counts = (length: number) => z.array(count).length(length);

export const fsMetricsSchema = z.looseObject({
  files_account_enabled: z.boolean(),
  access_pattern_enabled: z.boolean(),
  record_latest_read_files_enabled: z.boolean(),
  measure_latency: z.boolean(),
  id: z.string(),
  nr_opens: count,
  data_read: count,
  block_count_read: counts(8),
  fop_hits: counts(15),
  fop_errors: counts(15),
  fop_cumulative_latency_total: counts(15),
  read_latency_dist: counts(8),
});
export type FsMetricsAnswer = z.infer<typeof fsMetricsSchema>;

const backendHostSchema = z.looseObject({
  url: z.string(),
  kind: z.string(),
  /** closed: in use; suspect: one request at a time tries it; open: bypassed until a probe succeeds. */
  state: z.string(),
  successes: count,
  failures: count,
  bypasses: count,
  probes: count,
  last_failure: z.string().optional(),
});

export const backendMetricsSchema = z.looseObject({
  backend_type: z.string(),
  read_count: count,
  read_errors: count,
  read_amount_total: count,
  read_cumulative_latency_millis_total: count,
  read_cumulative_latency_millis_dist: counts(8),
  read_count_block_size_dist: counts(8),
  read_latency_sizes_dist: z.array(counts(8)).length(8),
  /** Extension of this daemon: the registry and its mirrors, in the order they are asked. */
  hosts: z.array(backendHostSchema).optional(),
});
export type BackendMetricsAnswer = z.infer<typeof backendMetricsSchema>;

export const blobcacheMetricsSchema = z.looseObject({
  underlying_files: z.array(z.string()),
  store_path: z.string(),
  partial_hits: count,
  whole_hits: count,
  total: count,
  entries_count: count,
  prefetch_data_amount: count,
  prefetch_requests_count: count,
  prefetch_workers: count,
  prefetch_unmerged_chunks: count,
  prefetch_cumulative_time_millis: count,
  prefetch_begin_time_secs: count,
  prefetch_begin_time_millis: count,
  prefetch_end_time_secs: count,
  prefetch_end_time_millis: count,
  buffered_backend_size: count,
  data_all_ready: z.boolean(),
  // Extensions of this daemon: what of the prefetched bytes has been read since, how far prefetch is, and how much of the image is here.
  prefetch_used_data_amount: count.optional(),
  prefetch_state: z.string().optional(),
  chunks: count.optional(),
  chunks_ready: count.optional(),
});
export type BlobcacheMetricsAnswer = z.infer<typeof blobcacheMetricsSchema>;

export const inflightSchema = z.array(z.looseObject({ inode: count, opcode: count, unique: count, timestamp_secs: count }));
export type InflightAnswer = z.infer<typeof inflightSchema>;

export const eventsSchema = z.looseObject({
  max_errors: count,
  total_errors: count,
  max_size: count,
  total_size: count,
  errors: z.array(z.string()),
});
export type EventsAnswer = z.infer<typeof eventsSchema>;

/** Summary of a mounted image; fields foreign to its version are 0. Source: spec/nydusd.md 4.4, "Backend info". */
export const rafsInfoSchema = z.looseObject({
  magic: count,
  version: count,
  root_inode: count,
  chunk_size: count,
  inodes_count: count,
});
export type RafsInfo = z.infer<typeof rafsInfoSchema>;

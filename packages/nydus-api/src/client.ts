import type { z } from "zod";
import { NydusApiError } from "./errors.ts";
import { callTimeoutDefaultMs } from "./limits.ts";
import {
  type BackendMetricsAnswer,
  type BlobcacheMetricsAnswer,
  backendMetricsSchema,
  blobcacheMetricsSchema,
  type DaemonInfo,
  daemonInfoSchema,
  type EventsAnswer,
  errorBodySchema,
  eventsSchema,
  type FsMetricsAnswer,
  fsMetricsSchema,
  type InflightAnswer,
  inflightSchema,
  type MountRequest,
  type RafsInfo,
  type RuntimeConfig,
  rafsInfoSchema,
} from "./schemas.ts";
import { type Answer, type CallOptions, type Exchange, exchange } from "./transport.ts";

export interface NydusdClientOptions {
  /** Milliseconds for each call that names no limit of its own; `callTimeoutDefaultMs` when absent. */
  readonly timeoutMs?: number;
}

type Query = Readonly<Record<string, string | undefined>>;

/**
 * A client of one nydusd. It holds no connection and no state: calls may be made before the daemon is there, after it was replaced, and in parallel.
 *
 * Every method throws NydusApiError: API_UNREACHABLE, API_TIMEOUT, API_REFUSED, API_PROTOCOL, API_ABORTED.
 * Source: spec/nydusd.md, section 4.
 */
export class NydusdClient {
  readonly socketPath: string;
  readonly #timeoutMs: number;

  constructor(socketPath: string, options: NydusdClientOptions = {}) {
    this.socketPath = socketPath;
    this.#timeoutMs = options.timeoutMs ?? callTimeoutDefaultMs;
  }

  /** Version, state and mounts. */
  info(options?: CallOptions): Promise<DaemonInfo> {
    return this.#get("/api/v1/daemon", {}, daemonInfoSchema, options);
  }

  /** READY → RUNNING. Refused (400) in every other state. */
  async start(options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/daemon/start", {}, undefined, options);
  }

  /** Ends the process and leaves the kernel mount for a successor. */
  async exit(options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/daemon/exit", {}, undefined, options);
  }

  /** The daemon (started with `--upgrade`) fetches descriptor and state from its supervisor: INIT → READY. */
  async takeover(options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/daemon/fuse/takeover", {}, undefined, options);
  }

  /** The daemon sends its descriptor and state to its supervisor. */
  async sendFd(options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/daemon/fuse/sendfd", {}, undefined, options);
  }

  /** Mounts an image at a path of the daemon's virtual tree. API_REFUSED carries the daemon's reason. */
  async mount(mountpoint: string, request: MountRequest, options?: CallOptions): Promise<void> {
    await this.#call("POST", "/api/v1/mount", { mountpoint }, request, options);
  }

  /** Gives a mounted image another configuration (credentials, mirrors); the image stays mounted and readers go on. */
  async remount(mountpoint: string, request: MountRequest, options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/mount", { mountpoint }, request, options);
  }

  async umount(mountpoint: string, options?: CallOptions): Promise<void> {
    await this.#call("DELETE", "/api/v1/mount", { mountpoint }, undefined, options);
  }

  /** @param id  mountpoint; may be absent when exactly one image is mounted */
  metrics(id?: string, options?: CallOptions): Promise<FsMetricsAnswer> {
    return this.#get("/api/v1/metrics", { id }, fsMetricsSchema, options);
  }

  /** @param id  mountpoint of the first mount that uses the back end */
  backendMetrics(id?: string, options?: CallOptions): Promise<BackendMetricsAnswer> {
    return this.#get("/api/v1/metrics/backend", { id }, backendMetricsSchema, options);
  }

  /** @param id  `id` of the configuration (the mountpoint works too) */
  blobcacheMetrics(id?: string, options?: CallOptions): Promise<BlobcacheMetricsAnswer> {
    return this.#get("/api/v1/metrics/blobcache", { id }, blobcacheMetricsSchema, options);
  }

  /** Requests that are being served at this moment. */
  async inflight(options?: CallOptions): Promise<InflightAnswer> {
    const answer = await this.#call("GET", "/api/v1/metrics/inflight", {}, undefined, options);
    return answer.status === 204 ? [] : parse(answer, inflightSchema, "/api/v1/metrics/inflight");
  }

  /** The last errors of back ends. */
  events(options?: CallOptions): Promise<EventsAnswer> {
    return this.#get("/api/v1/daemon/events", {}, eventsSchema, options);
  }

  /** Superblock summary of the image mounted there. */
  backend(mountpoint: string, options?: CallOptions): Promise<RafsInfo> {
    return this.#get("/api/v1/daemon/backend", { mountpoint }, rafsInfoSchema, options);
  }

  /** Run-time settings of the mount `id`, effective for the next request to its registry. */
  async setConfig(id: string, config: RuntimeConfig, options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/config", { id }, config, options);
  }

  /** @param level  off, error, warn, info, debug or trace */
  async setLogLevel(level: string, options?: CallOptions): Promise<void> {
    await this.#call("PUT", "/api/v1/daemon", {}, { log_level: level }, options);
  }

  /** All counters in Prometheus text (an extension of this daemon). */
  async prometheus(options?: CallOptions): Promise<string> {
    return (await this.#call("GET", "/metrics", {}, undefined, options)).text;
  }

  /** Any GET route, unparsed: for tools that print what the daemon says. */
  async raw(path: string, query: Query = {}, options?: CallOptions): Promise<{ readonly status: number; readonly text: string }> {
    const { status, text } = await this.#call("GET", path, query, undefined, options);
    return { status, text };
  }

  async #get<S extends z.ZodType>(path: string, query: Query, schema: S, options?: CallOptions): Promise<z.output<S>> {
    return parse(await this.#call("GET", path, query, undefined, options), schema, path);
  }

  async #call(method: Exchange["method"], path: string, query: Query, body: unknown, options: CallOptions = {}): Promise<Answer> {
    const answer = await exchange(this.socketPath, {
      method,
      target: path + encodeQuery(query),
      body: body === undefined ? undefined : JSON.stringify(body),
      timeoutMs: options.timeoutMs ?? this.#timeoutMs,
      signal: options.signal,
    });
    if (answer.status >= 400) throw refused(`${method} ${path}`, answer);
    return answer;
  }
}

function encodeQuery(query: Query): string {
  const parts = Object.entries(query).flatMap(([key, value]) => (value === undefined ? [] : `${key}=${encodeURIComponent(value)}`));
  return parts.length === 0 ? "" : `?${parts.join("&")}`;
}

function parse<S extends z.ZodType>(answer: Answer, schema: S, path: string): z.output<S> {
  let value: unknown;
  try {
    value = JSON.parse(answer.text);
  } catch (cause) {
    throw new NydusApiError("API_PROTOCOL", `GET ${path}: the answer is not JSON`, { status: answer.status, cause });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => `${issue.path.join(".") || "answer"}: ${issue.message}`).join("; ");
  throw new NydusApiError("API_PROTOCOL", `GET ${path}: the answer has another form than the API's: ${faults}`, { status: answer.status });
}

function refused(what: string, answer: Answer): NydusApiError {
  let body: unknown;
  try {
    body = JSON.parse(answer.text);
  } catch {
    body = undefined;
  }
  const { data } = errorBodySchema.safeParse(body);
  const text = data?.message ?? (answer.text.slice(0, 400) || "no reason given");
  return new NydusApiError("API_REFUSED", `${what}: nydusd answered ${answer.status}: ${text}`, {
    status: answer.status,
    daemonCode: data?.code,
    daemonMessage: data?.message,
  });
}

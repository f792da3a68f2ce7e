import { daemonConfigureSchema, mountRequestSchema, runtimeConfigSchema } from "@nydus-ts/nydus-api";
import type { z } from "zod";
import type { Daemon } from "../daemon.ts";
import { NydusdError } from "../errors.ts";
import { handlerDeadlineMs, mountDeadlineMs } from "../limits.ts";

export interface Call {
  readonly query: URLSearchParams;
  /** Parsed JSON; undefined when there is no body. */
  readonly body: unknown;
}

export interface Answer {
  readonly status: number;
  readonly json?: unknown;
  readonly text?: string;
  readonly contentType?: string;
  /** Runs when the answer is on its way: what ends the process. */
  readonly after?: () => void;
}

export interface Handler {
  /** Whether a body is needed; otherwise it is refused. */
  readonly body: boolean;
  readonly deadlineMs: number;
  run(call: Call): Promise<Answer> | Answer;
}

export type Route = Partial<Record<"GET" | "PUT" | "POST" | "DELETE", Handler>>;
export type Routes = Readonly<Record<string, Route>>;

const done: Answer = { status: 204 };

/** Every route of the API. Source: spec/nydusd.md 4.3; `/metrics` (Prometheus text) is an extension. */
export function apiRoutes(daemon: Daemon): Routes {
  const configure = act(true, async ({ body }) => {
    daemon.setLogLevel(parse(daemonConfigureSchema, body).log_level);
  });
  return {
    "/api/v1/daemon": { GET: show(() => daemon.info()), PUT: configure },
    "/api/v2/daemon": { GET: show(() => ({ ...daemon.info(), backend_collection: null })), PUT: configure },
    "/api/v1/daemon/events": { GET: show(() => daemon.events.answer()) },
    "/api/v1/daemon/start": { PUT: act(false, () => daemon.start()) },
    "/api/v1/daemon/exit": {
      PUT: handler(false, async () => {
        await daemon.exit();
        return { status: 204, after: () => daemon.finish() };
      }),
    },
    "/api/v1/daemon/fuse/sendfd": { PUT: act(false, () => daemon.sendFd()) },
    "/api/v1/daemon/fuse/takeover": { PUT: act(false, () => daemon.takeover(), mountDeadlineMs) },
    "/api/v1/daemon/backend": { GET: show(({ query }) => daemon.imageInfo(required(query, "mountpoint"))) },
    "/api/v1/mount": {
      POST: act(true, ({ query, body }) => daemon.mount(required(query, "mountpoint"), parse(mountRequestSchema, body)), mountDeadlineMs),
      PUT: act(true, ({ query, body }) => daemon.remount(required(query, "mountpoint"), parse(mountRequestSchema, body)), mountDeadlineMs),
      DELETE: act(false, ({ query }) => daemon.umount(required(query, "mountpoint")), mountDeadlineMs),
    },
    "/api/v1/metrics": { GET: show(({ query }) => daemon.fsMetrics(id(query))) },
    "/api/v1/metrics/files": { GET: show(({ query }) => daemon.filesMetrics(id(query), query.get("latest") === "true")) },
    "/api/v1/metrics/pattern": { GET: show(({ query }) => daemon.filesMetrics(id(query), true)) },
    "/api/v1/metrics/backend": { GET: show(({ query }) => daemon.backendMetrics(id(query))) },
    "/api/v1/metrics/blobcache": { GET: show(({ query }) => daemon.blobcacheMetrics(id(query))) },
    "/api/v1/metrics/inflight": {
      GET: handler(false, () => {
        const inflight = daemon.inflight();
        return inflight.length === 0 ? done : { status: 200, json: inflight };
      }),
    },
    "/api/v1/config": {
      GET: show(({ query }) => daemon.runtimeConfig(id(query))),
      PUT: act(true, async ({ query, body }) => daemon.setRuntimeConfig(id(query) ?? "", parse(runtimeConfigSchema, body))),
    },
    "/api/v2/blobs": { GET: noBlobs(false), PUT: noBlobs(true), DELETE: noBlobs(false) },
    "/metrics": {
      GET: handler(false, async () => ({
        status: 200,
        text: await daemon.prometheus(),
        contentType: "text/plain; version=0.0.4; charset=utf-8",
      })),
    },
  };
}

function handler(body: boolean, run: Handler["run"], deadlineMs = handlerDeadlineMs): Handler {
  return { body, deadlineMs, run };
}

function show(run: (call: Call) => unknown): Handler {
  return handler(false, async (call) => ({ status: 200, json: await run(call) }));
}

function act(body: boolean, run: (call: Call) => Promise<void>, deadlineMs?: number): Handler {
  return handler(body, (call) => run(call).then(() => done), deadlineMs);
}

function noBlobs(body: boolean): Handler {
  return handler(body, () => {
    throw new NydusdError(
      "UNSUPPORTED",
      "blob cache entries (fscache, block devices) are not built in this version; mount images with `nydusd fuse`",
    );
  });
}

function required(query: URLSearchParams, name: string): string {
  const value = query.get(name);
  if (value === null || value === "") throw new NydusdError("REQUEST_INVALID", `'${name}' should be specified in the query string`);
  return value;
}

function id(query: URLSearchParams): string | undefined {
  return query.get("id") ?? undefined;
}

function parse<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => `${issue.path.map(String).join(".") || "body"}: ${issue.message}`);
  throw new NydusdError("REQUEST_INVALID", `the body is not what this route takes: ${faults.join("; ")}`);
}

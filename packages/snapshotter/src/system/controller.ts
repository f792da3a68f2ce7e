import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { dirname } from "node:path";
import { z } from "zod";
import { messageOf, SnapshotterError } from "../errors.ts";
import type { RafsInstances } from "../instances/rafs-instances.ts";
import { systemBodyBytesMax } from "../limits.ts";
import type { Log } from "../log.ts";
import { removeStaleSocket } from "../service/stale-socket.ts";
import { type ExplainSources, explain } from "./explain.ts";
import { readKib, rssKib } from "./process-info.ts";

export interface ControllerOptions extends ExplainSources {
  readonly rafs: RafsInstances;
  readonly reconcile: () => Promise<void>;
  readonly log: Log;
}

const prefetchSchema = z.array(z.object({ image: z.string().min(1), prefetch: z.string() }));

interface Answer {
  readonly status: number;
  readonly body?: unknown;
}

/** HTTP over a unix socket for operators and tools; who may open the socket may do all. Source: spec/snapshotter.md 13.1. */
export async function startController(
  place: { address: string; uid: number; gid: number },
  options: ControllerOptions,
): Promise<AsyncDisposable> {
  mkdirSync(dirname(place.address), { recursive: true, mode: 0o700 });
  await removeStaleSocket(place.address);
  const server = createServer((request, response) => void respond(request, response, options));
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(place.address, resolve));
  chmodSync(place.address, 0o660);
  chownSync(place.address, place.uid, place.gid);
  return { [Symbol.asyncDispose]: () => close(server) };
}

export function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

async function respond(request: IncomingMessage, response: ServerResponse, options: ControllerOptions): Promise<void> {
  const { pathname: path, searchParams } = new URL(request.url ?? "/", "http://unix");
  let answer: Answer;
  try {
    answer = await route(request, path, searchParams, options);
  } catch (error) {
    answer = failure(error instanceof SnapshotterError && error.code === "SNAPSHOT_NOT_FOUND" ? 404 : 500, messageOf(error));
  }
  if (answer.status >= 400) options.log.warn({ method: request.method, path, status: answer.status }, "system call refused");
  response.writeHead(answer.status, answer.body === undefined ? {} : { "Content-Type": "application/json" });
  response.end(answer.body === undefined ? undefined : `${JSON.stringify(answer.body)}\n`);
}

/** All routes; a path that is known with another method is 405. */
async function route(request: IncomingMessage, path: string, query: URLSearchParams, options: ControllerOptions): Promise<Answer> {
  const routes: Record<string, Record<string, () => Answer | Promise<Answer>>> = {
    "/api/v1/daemons": { GET: () => ({ status: 200, body: daemons(options) }) },
    "/api/v1/daemons/records": { GET: () => failure(501, "not implemented") },
    "/api/v1/daemons/upgrade": {
      PUT: () => failure(501, "this version does not upgrade running daemons; a daemon started next uses the new program"),
    },
    "/api/v1/prefetch": { PUT: async () => prefetch(await readBody(request), options) },
    // Ours: how something is served, what could not be mounted again, and the repair.
    "/api/v1/explain": { GET: async () => ({ status: 200, body: await explain(query.get("name") ?? "", options) }) },
    "/api/v1/instances/broken": { GET: () => ({ status: 200, body: broken(options) }) },
    "/api/v1/reconcile": {
      PUT: async () => {
        await options.reconcile();
        return { status: 200, body: { broken: broken(options) } };
      },
    },
  };
  const methods = routes[path];
  if (methods === undefined) return failure(404, `${path}: no such route`);
  const handler = methods[request.method ?? ""];
  return handler === undefined ? failure(405, `${path}: allowed is ${Object.keys(methods).join(", ")}`) : handler();
}

const failure = (status: number, message: string): Answer => ({ status, body: { code: "Unknown", message } });

function daemons({ rafs, instances }: ControllerOptions): unknown[] {
  const records = instances.instances();
  return rafs.daemons().map((daemon) => {
    const own = records.filter((record) => record.daemon === daemon.place.id);
    const pid = daemon.pid ?? 0;
    return {
      id: daemon.place.id,
      pid,
      api_socket: daemon.place.socket,
      supervisor_path: daemon.protected ? daemon.place.supervisorSocket : "",
      reference: own.length,
      mountpoint: daemon.place.mountpoint,
      startup_cpu_utilization: 0,
      memory_rss_kb: pid === 0 ? 0 : rssKib(pid),
      read_data_kb: pid === 0 ? 0 : readKib(pid),
      instances: Object.fromEntries(
        own.map((record) => [
          record.key,
          { snapshot_id: record.key, mountpoint: record.mountpoint, image_id: record.image, broken: record.broken ?? null },
        ]),
      ),
    };
  });
}

const broken = ({ instances }: ControllerOptions): unknown[] =>
  instances.instances().flatMap(({ key, image, broken: reason }) => (reason === undefined ? [] : [{ key, image, reason }]));

/** Lists for the next mount of a reference: text with one path a line, as nydusd's `--prefetch-files` takes it. */
function prefetch(body: string, { rafs }: ControllerOptions): Answer {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (error) {
    return failure(400, `the body is not JSON: ${messageOf(error)}`);
  }
  const result = prefetchSchema.safeParse(value);
  if (!result.success) return failure(400, 'expected an array of {"image": REFERENCE, "prefetch": "/path\\n/path"}');
  for (const { image, prefetch: text } of result.data) {
    const files = text.split("\n").flatMap((line) => (line.trim() === "" ? [] : [line.trim()]));
    rafs.setPrefetch(image, files);
  }
  return { status: 200 };
}

async function readBody(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length;
    if (size > systemBodyBytesMax) throw new Error(`the body is larger than ${systemBodyBytesMax} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

import { chmodSync, chownSync, lstatSync, mkdirSync, renameSync, rmSync } from "node:fs";
import http2 from "node:http2";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { messageOf, SnapshotterError, type SnapshotterErrorCode } from "../errors.ts";
import { listInfosPerMessage, requestBytesMax } from "../limits.ts";
import type { Log } from "../log.ts";
import { LayerIsThere, type Snapshotter } from "../snapshotter.ts";
import type { Snapshot } from "../store/snapshots.ts";
import { compileFilters, type FieldLookup } from "./filters.ts";
import { type InfoMessage, type MethodName, type ReplyOf, type RequestOf, serviceDefinition } from "./proto.ts";
import { removeStaleSocket } from "./stale-socket.ts";

/** containerd's classes of errors. Source: spec/containerd.md 1.3. */
const STATUS = {
  SNAPSHOT_NOT_FOUND: grpc.status.NOT_FOUND,
  SNAPSHOT_EXISTS: grpc.status.ALREADY_EXISTS,
  SNAPSHOT_INVALID: grpc.status.INVALID_ARGUMENT,
  SNAPSHOT_STATE: grpc.status.FAILED_PRECONDITION,
  SNAPSHOT_UNSUPPORTED: grpc.status.UNIMPLEMENTED,
  FILTER_SYNTAX: grpc.status.INVALID_ARGUMENT,
  CONFIG_INVALID: grpc.status.UNKNOWN,
  STORE_BROKEN: grpc.status.UNKNOWN,
  // Not NOT_FOUND: containerd would unpack the image again and fail at a blob that is no tar.
  BOOTSTRAP_INVALID: grpc.status.UNKNOWN,
  BOOTSTRAP_DEADLINE: grpc.status.UNKNOWN,
  IMAGE_UNKNOWN: grpc.status.UNKNOWN,
  IMAGE_DATA: grpc.status.UNKNOWN,
  INSTANCE_MOUNT: grpc.status.UNKNOWN,
  DAEMON_START: grpc.status.UNKNOWN,
  DAEMON_DEADLINE: grpc.status.UNKNOWN,
  SUPERVISOR: grpc.status.UNKNOWN,
} as const satisfies Record<SnapshotterErrorCode, grpc.status>;

/** Told about every finished call; for metrics. */
export type CallObserver = (method: MethodName, elapsedMs: number, ok: boolean) => void;

type Handlers = { [M in MethodName]: (request: RequestOf<M>) => ReplyOf<M> | Promise<ReplyOf<M>> | Iterable<ReplyOf<M>> };

/** The service over a snapshotter. Every method is one row; errors become statuses in one place. */
export function handlersOf(snapshotter: Snapshotter): Handlers {
  return {
    Prepare: async (request) => ({ mounts: await snapshotter.prepare(request) }),
    View: async (request) => ({ mounts: await snapshotter.view(request) }),
    Mounts: async ({ key }) => ({ mounts: await snapshotter.mounts(key) }),
    Commit: (request) => {
      snapshotter.commit(request);
      return {};
    },
    Remove: async ({ key }) => {
      await snapshotter.remove(key);
      return {};
    },
    Stat: ({ key }) => ({ info: infoOf(snapshotter.stat(key)) }),
    Update: ({ info, updateMask }) => {
      if (info === null) throw new SnapshotterError("SNAPSHOT_INVALID", "update: the request names no snapshot");
      return { info: infoOf(snapshotter.update({ key: info.name, labels: info.labels, paths: updateMask?.paths ?? [] })) };
    },
    List: ({ filters }) => listReplies(snapshotter.list(), filters),
    Usage: ({ key }) => snapshotter.usage(key).then(({ size, inodes }) => ({ size, inodes })),
    Cleanup: async () => {
      await snapshotter.cleanup();
      return {};
    },
  };
}

/** A gRPC server with the snapshots service, not yet listening. */
export function createServer(snapshotter: Snapshotter, options: { log: Log; observe?: CallObserver }): grpc.Server {
  const server = new grpc.Server({ "grpc.max_receive_message_length": requestBytesMax, "grpc.max_send_message_length": -1 });
  const handlers = handlersOf(snapshotter);
  const observe = options.observe ?? (() => undefined);
  const implementation: grpc.UntypedServiceImplementation = {};
  for (const [name, handler] of Object.entries(handlers) as [MethodName, (request: unknown) => unknown][]) {
    const finish = (started: number, error?: unknown) => {
      observe(name, performance.now() - started, error === undefined || error instanceof LayerIsThere);
      return error === undefined ? undefined : statusOf(name, error, options.log);
    };
    implementation[name] =
      name === "List"
        ? (call: grpc.ServerWritableStream<unknown, unknown>) => {
            const started = performance.now();
            void writeAll(call, () => handler(call.request) as Iterable<unknown>).then(
              () => finish(started),
              (error) => call.emit("error", finish(started, error)),
            );
          }
        : (call: grpc.ServerUnaryCall<unknown, unknown>, callback: grpc.sendUnaryData<unknown>) => {
            const started = performance.now();
            void (async () => handler(call.request))().then(
              (reply) => {
                finish(started);
                callback(null, reply);
              },
              (error) => callback(finish(started, error) as grpc.ServiceError),
            );
          };
  }
  server.addService(serviceDefinition as unknown as grpc.ServiceDefinition, implementation);
  return server;
}

/** A socket file as it was made: another process may have put one of its own in its place. */
export interface SocketFile {
  readonly path: string;
  readonly dev: number;
  readonly ino: number;
}

/**
 * Listens on a unix socket. A socket file nobody answers on is replaced.
 *
 * The file gets its name only when somebody listens: between bind(2) and listen(2) a dial is refused, and containerd then fails all
 * calls until its back-off of up to 3 s is over, while for a missing file it just waits. (In 40 restarts under a tight loop of dials
 * 61 were refused, with the rename none.) Source: spec/containerd.md 7
 *
 * @param owner  of the socket file
 * @throws SnapshotterError CONFIG_INVALID: another process listens there, or the path is no socket
 */
export async function listen(server: grpc.Server, path: string, owner: { uid: number; gid: number }): Promise<SocketFile> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  await removeStaleSocket(path);
  const unnamed = unnamedBeside(path);
  // What a killed process of this number left.
  rmSync(unnamed, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${unnamed}`, grpc.ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error)));
  }).catch((error) => {
    throw new SnapshotterError("CONFIG_INVALID", `address ${path}: cannot listen: ${messageOf(error)}`, { cause: error });
  });
  chmodSync(unnamed, 0o660);
  chownSync(unnamed, owner.uid, owner.gid);
  const { dev, ino } = lstatSync(unnamed);
  renameSync(unnamed, path);
  return { path, dev, ino };
}

/**
 * Stops serving: running calls get `graceMs` to finish, then their connections are cut.
 *
 * The name goes first, so that containerd, which dials again as soon as its connection ends, waits for the successor. Who has dialled
 * before that may still be in the queue of accept(2); a connection that is closed there, before
 * the server's preface, makes containerd back off like a refused one.
 * The queue is first in, first out: once a connection of our own is served, all earlier ones are.
 */
export async function stopListening(server: grpc.Server, socket: SocketFile, graceMs: number): Promise<void> {
  const now = lstatSync(socket.path, { throwIfNoEntry: false });
  if (now?.dev === socket.dev && now.ino === socket.ino) {
    const unnamed = unnamedBeside(socket.path);
    renameSync(socket.path, unnamed);
    await connectionServed(unnamed, graceMs);
    rmSync(unnamed, { force: true });
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(() => server.forceShutdown(), graceMs);
  server.tryShutdown(() => {
    clearTimeout(timer);
    resolve();
  });
  return promise;
}

/** A name of this process alone; shorter than most, since a socket's path has 107 bytes at most. */
const unnamedBeside = (path: string): string => join(dirname(path), `.${process.pid}`);

/** Until the server's preface came on a new connection, or the connection failed, or the time is up. */
function connectionServed(path: string, deadlineMs: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const session = http2.connect("http://localhost", { createConnection: () => connect(path) });
  const timer = setTimeout(() => session.destroy(), deadlineMs);
  session.once("remoteSettings", () => session.destroy());
  session.on("error", () => {});
  session.once("close", () => {
    clearTimeout(timer);
    resolve();
  });
  return promise;
}

/** The snapshots are taken from the store at once; other calls may come while they are sent. */
async function writeAll(call: grpc.ServerWritableStream<unknown, unknown>, messages: () => Iterable<unknown>): Promise<void> {
  for (const message of messages()) {
    if (call.cancelled) return;
    if (!call.write(message)) await new Promise<void>((resolve) => call.once("drain", resolve).once("cancelled", () => resolve()));
  }
  call.end();
}

function* listReplies(snapshots: readonly Snapshot[], filters: readonly string[]): Generator<ReplyOf<"List">> {
  const matches = compileFilters(filters);
  let batch: InfoMessage[] = [];
  for (const snapshot of snapshots) {
    if (!matches(fieldsOf(snapshot))) continue;
    batch.push(infoOf(snapshot));
    if (batch.length === listInfosPerMessage) {
      yield { info: batch };
      batch = [];
    }
  }
  if (batch.length > 0) yield { info: batch };
}

function fieldsOf(snapshot: Snapshot): FieldLookup {
  return ([first, ...rest]) => {
    if (first === "labels") return rest.length === 0 ? undefined : snapshot.labels[rest.join(".")];
    if (rest.length > 0) return undefined;
    if (first === "kind" || first === "parent") return snapshot[first];
    return first === "name" ? snapshot.key : undefined;
  };
}

const KIND_NUMBERS = { view: 1, active: 2, committed: 3 } as const;

function infoOf(snapshot: Snapshot): InfoMessage {
  return {
    name: snapshot.key,
    parent: snapshot.parent,
    kind: KIND_NUMBERS[snapshot.kind],
    createdAt: timestampOf(snapshot.createdUs),
    updatedAt: timestampOf(snapshot.updatedUs),
    labels: snapshot.labels,
  };
}

const timestampOf = (us: number) => ({ seconds: Math.floor(us / 1e6), nanos: (us % 1e6) * 1000 });

function statusOf(method: MethodName, error: unknown, log: Log): grpc.ServiceError {
  let code: grpc.status = grpc.status.UNKNOWN;
  if (error instanceof LayerIsThere) code = grpc.status.ALREADY_EXISTS;
  else if (error instanceof SnapshotterError) code = STATUS[error.code];
  const details = messageOf(error);
  if (code === grpc.status.UNKNOWN || code === grpc.status.UNIMPLEMENTED)
    log.error(
      { method, error: details, ...(error instanceof SnapshotterError ? { code: error.code } : { stack: (error as Error)?.stack }) },
      "call failed",
    );
  else if (!(error instanceof LayerIsThere)) log.debug({ method, error: details }, "call refused");
  return Object.assign(new Error(details), { code, details, metadata: new grpc.Metadata() });
}

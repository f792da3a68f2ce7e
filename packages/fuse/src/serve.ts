import { addressOf, ErrnoError, errno, POLLIN, rawPoll, rawRead } from "@nydus-ts/linux";
import { answered, EAGAIN, EINTR, EIO, ENODEV, ENOENT, ENOSYS, EROFS, handedOver } from "./errno.ts";
import { type Negotiated, negotiate } from "./init.ts";
import { opcodes, type Treatment } from "./opcodes.ts";
import { FuseReply } from "./reply.ts";
import { FuseRequest, formatRequest } from "./request.ts";
import type { WorkerTable } from "./worker-table.ts";

type Handler = (request: FuseRequest, reply: FuseReply) => number;

/**
 * A read-only file system. Each method returns `answered` (0) with the reply made, an errno, or `handedOver` when it has given the
 * request to somebody who answers later. Methods are called by one thread, one at a time, and allocate nothing on their common path.
 * What a method throws becomes EIO for that request and is reported; the server goes on.
 */
export interface FuseFileSystem {
  lookup: Handler;
  getattr: Handler;
  readlink: Handler;
  read: Handler;
  readdir: Handler;
  readdirplus: Handler;
  statfs: Handler;
  getxattr: Handler;
  listxattr: Handler;
  /** A caller wants to give up request `request.interrupted…`, which was handed over. */
  interrupt(request: FuseRequest): void;
}

export interface ServeOptions {
  /** A non-blocking `/dev/fuse` descriptor of the session; several workers may share it. */
  readonly device: number;
  /** An eventfd of this worker alone; signalled after `table.call(index)`. */
  readonly wake: number;
  readonly table: WorkerTable;
  readonly index: number;
  readonly fileSystem: FuseFileSystem;
  /** Serve only while another worker has asked for help (`table.askForHelp`). */
  readonly standIn: boolean;
  /** Called when the worker was called; returns false to end the loop. */
  readonly onCall: () => boolean;
  readonly onInit: (result: Negotiated) => void;
  /** A handler threw, or the kernel refused a reply (a fault of this program). */
  readonly onFault: (error: unknown, request: string) => void;
  /** When set, gets each request as one line. */
  readonly trace?: ((line: string) => void) | undefined;
}

/** How long a stand-in waits for a request before it looks whether it is still wanted. */
const standInPollMs = 20;

/**
 * Serves requests on the calling thread until the session ends (`unmounted`) or `onCall` says so (`stopped`). Blocks the thread: it is
 * the body of a worker. Non-blocking reads with poll(2) between them. The kernel wakes every thread in poll(2) for every request, so few
 * should wait there: one for each processor, kept on it, did best of all ways that were measured, since the request is then answered where
 * it was made and no idle processor has to be woken. Those beyond are stand-ins.
 *
 * @throws ErrnoError when the device can not be read for another reason than the end of the session
 * Source: spec/engines.md 1
 */
export function serve(options: ServeOptions): "unmounted" | "stopped" {
  const reply = new FuseReply();
  try {
    return serveWith(options, reply);
  } finally {
    reply.close();
  }
}

function serveWith(options: ServeOptions, reply: FuseReply): "unmounted" | "stopped" {
  const { device, wake, table, index, standIn, trace } = options;
  const request = new FuseRequest();
  const handlers = handlersOf(options);
  const polled = new Int32Array(16); // two struct pollfd { int fd; short events; short revents }, and room so that it is not kept inside the heap
  polled[0] = device;
  polled[1] = POLLIN;
  polled[2] = wake;
  polled[3] = POLLIN;
  const polledAddress = addressOf(polled);
  const drained = new BigUint64Array(16);
  const drainedAddress = addressOf(drained);
  let calls = 0;
  for (;;) {
    if (table.calls(index) !== calls) {
      calls = table.calls(index);
      if (!options.onCall()) return "stopped";
    }
    if (standIn && !table.helpWanted) {
      table.rest(index, calls);
      continue;
    }
    const length = rawRead(device, request.address, request.bytes.length);
    if (length < 0) {
      const reason = errno();
      if (reason === EAGAIN) {
        rawPoll(polledAddress, 2, standIn ? standInPollMs : -1);
        if ((polled[3] as number) >>> 16 !== 0) {
          rawRead(wake, drainedAddress, 8); // revents of the eventfd
          drained[0] = 0n; // a use: a buffer of which only the address is used would be collected
        }
      } else if (reason === ENODEV) return "unmounted";
      else if (reason !== EINTR && reason !== ENOENT) throw new ErrnoError("read", reason, "/dev/fuse");
      continue;
    }
    if (!request.accept(length)) {
      options.onFault(new TypeError(`the kernel delivered ${length} bytes that are no request`), "");
      continue;
    }
    if (trace !== undefined) trace(formatRequest(request));
    table.begin(index, request.nodeLo, request.nodeHi, request.opcode, request.uniqueLo, request.uniqueHi);
    handle(options, handlers, request, reply);
    table.end(index);
  }
}

function handle(options: ServeOptions, handlers: readonly (Handler | undefined)[], request: FuseRequest, reply: FuseReply): void {
  let result: number;
  reply.length = 0;
  try {
    const handler = handlers[request.opcode];
    result = handler === undefined ? ENOSYS : handler(request, reply);
  } catch (error) {
    options.onFault(error, formatRequest(request));
    result = EIO;
  }
  if (result === handedOver) return;
  if (reply.send(options.device, request.uniqueLo, request.uniqueHi, result) >= 0) return;
  const reason = errno();
  // ENOENT: the caller was killed meanwhile. ENODEV: the session has ended, the next read says so.
  if (reason !== ENOENT && reason !== ENODEV && reason !== EINTR) {
    options.onFault(new ErrnoError("write", reason, "/dev/fuse"), formatRequest(request));
    if (result === answered) reply.send(options.device, request.uniqueLo, request.uniqueHi, EIO);
  }
}

/** One function an opcode, from the table of opcodes. */
function handlersOf({ fileSystem, onInit }: ServeOptions): (Handler | undefined)[] {
  const byTreatment: Readonly<Record<Treatment, Handler>> = {
    lookup: (request, reply) => fileSystem.lookup(request, reply),
    getattr: (request, reply) => fileSystem.getattr(request, reply),
    readlink: (request, reply) => fileSystem.readlink(request, reply),
    read: (request, reply) => fileSystem.read(request, reply),
    statfs: (request, reply) => fileSystem.statfs(request, reply),
    getxattr: (request, reply) => fileSystem.getxattr(request, reply),
    listxattr: (request, reply) => fileSystem.listxattr(request, reply),
    readdir: (request, reply) => fileSystem.readdir(request, reply),
    readdirplus: (request, reply) => fileSystem.readdirplus(request, reply),
    interrupt: (request) => {
      fileSystem.interrupt(request);
      return handedOver;
    },
    init: (request, reply) => negotiate(request, reply, onInit),
    succeed: () => answered,
    ignore: () => handedOver,
    readOnly: () => EROFS,
    unsupported: () => ENOSYS,
  };
  return opcodes.map((opcode) => (opcode === undefined ? undefined : byTreatment[opcode.treatment]));
}

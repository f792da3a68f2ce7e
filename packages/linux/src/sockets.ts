import { once } from "node:events";
import { closeSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { constants } from "node:os";
import { cString, ErrnoError, lastErrno } from "./errors.ts";
import { dup, setNonblocking } from "./io.ts";
import { addressOf, libc } from "./libc.ts";
import { type WaitOptions, waitReady } from "./readiness.ts";

// Unix stream sockets that carry descriptors: socket(2), connect(2), sendmsg(2), recvmsg(2), unix(7), cmsg(3). All sockets here are
// non-blocking; waiting is done on the event loop, with a deadline.
const rawSocket = libc.func("int socket(int domain, int type, int protocol)");
const rawConnect = libc.func("int connect(int fd, const void *address, uint32_t length)");
const rawSendmsg = libc.func("int64_t sendmsg(int fd, const void *message, int flags)");
const rawRecvmsg = libc.func("int64_t recvmsg(int fd, void *message, int flags)");

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MSG_CTRUNC = 8;
/** sun_path with its zero byte. */
const socketPathBytesMax = 107;
/** Descriptors in one message: SCM_MAX_FD of the kernel is 253; nothing here needs more than a few. */
export const fdsPerMessageMax = 16;

/** A listening socket whose connections are handed over as raw descriptors. */
export interface UnixListener {
  readonly path: string;
  /** Ends listening and removes the socket file; connections handed over stay open. Twice is harmless. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Listens on a Unix socket. `onConnection` owns each descriptor it gets (non-blocking, close-on-exec) and closes it.
 * A file left at `path` by a dead process must be removed by the caller first.
 *
 * @throws Error EADDRINUSE, ENOENT, EACCES (from node:net)
 */
export async function unixListen(path: string, onConnection: (fd: number) => void): Promise<UnixListener> {
  // libuv must not read from the connection, or it would drop the descriptors: hence paused, and the descriptor duplicated away.
  const server: Server = createServer({ pauseOnConnect: true }, (socket) => {
    try {
      const fd = dup(handleFd(socket));
      setNonblocking(fd, true);
      onConnection(fd);
    } finally {
      socket.destroy();
    }
  });
  server.listen(path);
  await once(server, "listening");
  return {
    path,
    [Symbol.asyncDispose]: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

function handleFd(socket: Socket): number {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) throw new ErrnoError("accept", constants.errno.EBADF);
  return fd;
}

/** Connects to a Unix stream socket; the caller closes the descriptor. @throws ErrnoError ECONNREFUSED, ENOENT, ENAMETOOLONG, ETIMEDOUT (backlog full) */
export async function unixConnect(path: string, options: WaitOptions): Promise<number> {
  const name = cString(path);
  if (name.length - 1 > socketPathBytesMax) throw new ErrnoError("connect", constants.errno.ENAMETOOLONG, path);
  const address = Buffer.alloc(2 + name.length);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  const until = performance.now() + options.deadlineMs;
  const fd: number = rawSocket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC_NONBLOCK, 0);
  if (fd < 0) throw lastErrno("socket");
  try {
    for (;;) {
      if (rawConnect(fd, address, address.length) >= 0) return fd;
      const error = lastErrno("connect", path);
      if (error.errno !== constants.errno.EAGAIN && error.errno !== constants.errno.EINTR) throw error; // EAGAIN: the backlog is full, poll can not tell when it has room
      if (performance.now() > until) throw new ErrnoError("connect", constants.errno.ETIMEDOUT, path);
      options.signal?.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/**
 * Sends bytes, the descriptors with the first of them. The descriptors stay open here too.
 *
 * @param message.data  at least one byte, or descriptors could not travel
 * @throws ErrnoError EPIPE, ECONNRESET, ETIMEDOUT; DOMException AbortError
 */
export async function sendWithFds(
  fd: number,
  message: { readonly data: Uint8Array; readonly fds: readonly number[] },
  options: WaitOptions,
): Promise<void> {
  if (message.data.length === 0) throw new TypeError("sendWithFds: descriptors need at least one byte to travel with");
  if (message.fds.length > fdsPerMessageMax) throw new TypeError(`sendWithFds: at most ${fdsPerMessageMax} descriptors in one message`);
  const until = performance.now() + options.deadlineMs;
  let control = message.fds.length === 0 ? undefined : controlOf(message.fds);
  for (let done = 0; done < message.data.length; ) {
    const part = message.data.subarray(done);
    const header = messageHeader(part, control);
    const sent = Number(rawSendmsg(fd, header.bytes, MSG_NOSIGNAL));
    keepAlive(header.holds);
    if (sent >= 0) {
      done += sent;
      control = undefined;
    } else await waitAfter(lastErrno("sendmsg"), fd, "writable", until, options.signal);
  }
}

export interface ReceiveOptions extends WaitOptions {
  /** Bytes accepted; one more is EMSGSIZE. */
  readonly bytesMax: number;
  /** true (the default): until the peer closes; false: what one message brings. */
  readonly untilEnd?: boolean;
}

/**
 * Receives bytes and descriptors. The caller owns the descriptors (close-on-exec); on an error they are closed here.
 *
 * @throws ErrnoError EMSGSIZE (more bytes than `bytesMax`, or more descriptors than `fdsPerMessageMax`), ECONNRESET, ETIMEDOUT; DOMException AbortError
 */
export async function recvWithFds(fd: number, options: ReceiveOptions): Promise<{ data: Buffer; fds: number[] }> {
  const until = performance.now() + options.deadlineMs;
  const parts: Buffer[] = [];
  const fds: number[] = [];
  let total = 0;
  try {
    for (;;) {
      const part = Buffer.allocUnsafeSlow(65_536);
      const control = Buffer.alloc(16 + fdsPerMessageMax * 4);
      const header = messageHeader(part, control);
      const count = Number(rawRecvmsg(fd, header.bytes, MSG_CMSG_CLOEXEC));
      keepAlive(header.holds);
      if (count < 0) {
        await waitAfter(lastErrno("recvmsg"), fd, "readable", until, options.signal);
        continue;
      }
      fds.push(...fdsOf(control, Number(header.bytes.readBigUInt64LE(40))));
      total += count;
      if (total > options.bytesMax || (header.bytes.readUInt32LE(48) & MSG_CTRUNC) !== 0)
        throw new ErrnoError("recvmsg", constants.errno.EMSGSIZE);
      parts.push(part.subarray(0, count));
      if (count === 0 || options.untilEnd === false) return { data: Buffer.concat(parts), fds };
    }
  } catch (error) {
    for (const received of fds) closeSync(received);
    throw error;
  }
}

async function waitAfter(
  error: ErrnoError,
  fd: number,
  direction: "readable" | "writable",
  until: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (error.errno === constants.errno.EINTR) return;
  if (error.errno !== constants.errno.EAGAIN) throw error;
  await waitReady(fd, direction, { deadlineMs: until - performance.now(), signal });
}

/** struct msghdr of 64-bit Linux: name 0, namelen 8, iov 16, iovlen 24, control 32, controllen 40, flags 48. Holds what it points to. */
function messageHeader(data: Uint8Array, control: Buffer | undefined): { bytes: Buffer; holds: readonly unknown[] } {
  const vector = Buffer.alloc(64);
  vector.writeBigUInt64LE(BigInt(addressOf(data)), 0);
  vector.writeBigUInt64LE(BigInt(data.length), 8);
  const bytes = Buffer.alloc(64);
  bytes.writeBigUInt64LE(BigInt(addressOf(vector)), 16);
  bytes.writeBigUInt64LE(1n, 24);
  if (control !== undefined) {
    bytes.writeBigUInt64LE(BigInt(addressOf(control)), 32);
    bytes.writeBigUInt64LE(BigInt(control.length), 40);
  }
  return { bytes, holds: [data, vector, control] };
}

/** A use of buffers after the call that had only their addresses, so that they are not collected before it. */
function keepAlive(buffers: readonly unknown[]): void {
  lastUsed = buffers;
}
let lastUsed: readonly unknown[] = [];
/** @internal */
export const lastUsedBuffers = (): readonly unknown[] => lastUsed;

/** struct cmsghdr: len 0 (8 bytes), level 8, type 12, data 16. */
function controlOf(fds: readonly number[]): Buffer {
  const control = Buffer.alloc(16 + ((fds.length * 4 + 7) & ~7));
  control.writeBigUInt64LE(BigInt(16 + fds.length * 4), 0);
  control.writeUInt32LE(SOL_SOCKET, 8);
  control.writeUInt32LE(SCM_RIGHTS, 12);
  fds.forEach((fd, index) => {
    control.writeInt32LE(fd, 16 + index * 4);
  });
  return control;
}

function fdsOf(control: Buffer, length: number): number[] {
  const fds: number[] = [];
  for (let at = 0; at + 16 <= length; ) {
    const size = Number(control.readBigUInt64LE(at));
    if (size < 16) break;
    if (control.readUInt32LE(at + 8) === SOL_SOCKET && control.readUInt32LE(at + 12) === SCM_RIGHTS) {
      for (let place = at + 16; place + 4 <= at + size; place += 4) fds.push(control.readInt32LE(place));
    }
    at += (size + 7) & ~7;
  }
  return fds;
}

import type { Socket } from "node:net";
import { lastErrno } from "./errors.ts";
import { libc } from "./libc.ts";

// setsockopt(2), socket(7), tcp(7). node:net has no call for it.
const rawSetsockopt = libc.func("int setsockopt(int fd, int level, int name, const void *value, uint32_t length)");
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;

/**
 * Bounds what the kernel receives of a connection ahead of its reader. Without it the kernel grows the buffer to tcp_rmem, several MiB, and
 * a reader that stops stops the sender only then. The kernel adds as much again for its own records. Nothing happens to a socket that is
 * closed already.
 *
 * @param bytes  of data, about
 * @throws ErrnoError
 */
export function limitReceiveBuffer(socket: Socket, bytes: number): void {
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) return;
  const value = Buffer.alloc(4);
  value.writeInt32LE(bytes);
  if (rawSetsockopt(fd, SOL_SOCKET, SO_RCVBUF, value, value.length) < 0) throw lastErrno("setsockopt");
}

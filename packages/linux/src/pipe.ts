import { lastErrno } from "./errors.ts";
import { libc } from "./libc.ts";

// pipe2(2), splice(2); values from include/uapi/linux/fcntl.h
const rawPipe = libc.func("int pipe2(void *ends, int flags)");
const rawFcntl = libc.func("int fcntl(int fd, int command, int argument)");
const rawClose = libc.func("int close(int fd)");
const O_CLOEXEC = 0o2000000;
const O_NONBLOCK = 0o4000;
const F_SETPIPE_SZ = 1031;

/** splice(2) by address: the offsets are addresses of 64-bit numbers, or 0 for an end that is no file. Returns the bytes moved; −1: ask `errno()`. */
export const rawSplice: (from: number, fromOffset: number, to: number, toOffset: number, length: number, flags: number) => number =
  libc.func("int64_t splice(int from, uintptr_t fromOffset, int to, uintptr_t toOffset, uint64_t length, unsigned int flags)");

/** A pipe, non-blocking and close-on-exec. */
export interface Pipe {
  readonly readEnd: number;
  readonly writeEnd: number;
  /** Room, in pages that need not be full. */
  readonly bytes: number;
  /** Closes both ends; once. Not `closeSync` of Node: in a worker thread that warns of descriptors it did not open. */
  close(): void;
}

/**
 * Makes a pipe with room for `bytes`; the kernel may give more. The caller closes it.
 *
 * @throws ErrnoError EMFILE, EPERM (more than /proc/sys/fs/pipe-max-size, or pages of all pipes beyond pipe-user-pages-soft, and no CAP_SYS_RESOURCE)
 */
export function openPipe(bytes: number): Pipe {
  const ends = new Int32Array(16); // room, so that it is not kept inside the heap
  if (rawPipe(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw lastErrno("pipe2");
  const [readEnd, writeEnd] = ends as unknown as [number, number];
  const close = (): void => {
    rawClose(readEnd);
    rawClose(writeEnd);
  };
  const size: number = rawFcntl(writeEnd, F_SETPIPE_SZ, bytes);
  if (size < 0) {
    const error = lastErrno("fcntl F_SETPIPE_SZ");
    close();
    throw error;
  }
  return { readEnd, writeEnd, bytes: size, close };
}

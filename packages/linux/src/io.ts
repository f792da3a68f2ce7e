import { lastErrno } from "./errors.ts";
import { koffi, libc } from "./libc.ts";

// The calls of a hot loop: raw, by address, no allocation. They return what the kernel returned; on -1 ask `errno()` before any other call.

/** read(2) to `address`. */
export const rawRead: (fd: number, address: number, length: number) => number = libc.func(
  "int64_t read(int fd, uintptr_t address, uint64_t length)",
);
/** write(2) from `address`. */
export const rawWrite: (fd: number, address: number, length: number) => number = libc.func(
  "int64_t write(int fd, uintptr_t address, uint64_t length)",
);
/** pread(2) to `address`. */
export const rawPread: (fd: number, address: number, length: number, offset: number) => number = libc.func(
  "int64_t pread(int fd, uintptr_t address, uint64_t length, int64_t offset)",
);
/** poll(2) over `count` entries of struct pollfd at `address`; -1 ms waits for ever. */
export const rawPoll: (address: number, count: number, timeoutMs: number) => number = libc.func(
  "int poll(uintptr_t address, uint64_t count, int timeoutMs)",
);

/** errno of the last call of this thread. */
export const errno = (): number => koffi.errno();

const rawIoctl = libc.func("int ioctl(int fd, uint64_t request, void *argument)");
const rawFcntl = libc.func("int fcntl(int fd, int command, int argument)");
const rawDup = libc.func("int fcntl(int fd, int command, int minimum)");
const rawEventfd = libc.func("int eventfd(uint32_t initial, int flags)");
const rawPwrite = libc.func("int64_t pwrite(int fd, const void *bytes, uint64_t length, int64_t offset)");

export const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const F_DUPFD_CLOEXEC = 1030;
const F_GETFL = 3;
const F_SETFL = 4;

/** ioctl(2) with an argument in memory. Returns the call's value. @throws ErrnoError */
export function ioctl(fd: number, request: number, argument: Uint8Array | null): number {
  const result: number = rawIoctl(fd, request, argument);
  if (result < 0) throw lastErrno("ioctl");
  return result;
}

/** A second descriptor of the same open file, close-on-exec. @throws ErrnoError EBADF, EMFILE */
export function dup(fd: number): number {
  const result: number = rawDup(fd, F_DUPFD_CLOEXEC, 3);
  if (result < 0) throw lastErrno("dup");
  return result;
}

/** Sets or clears O_NONBLOCK of the open file (shared by all its descriptors). @throws ErrnoError EBADF */
export function setNonblocking(fd: number, nonblocking: boolean): void {
  const flags: number = rawFcntl(fd, F_GETFL, 0);
  if (flags < 0) throw lastErrno("fcntl");
  if (rawFcntl(fd, F_SETFL, nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0) throw lastErrno("fcntl");
}

/** A counter to wake poll(2) with, non-blocking and close-on-exec. The caller closes it. @throws ErrnoError EMFILE */
export function eventfd(initial = 0): number {
  const fd: number = rawEventfd(initial, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw lastErrno("eventfd");
  return fd;
}

// The buffer is kept beside its address: a module variable that no function uses is collected, and the address would point to freed memory.
const oneWords = new BigUint64Array(16).fill(1n);
const one = { words: oneWords, address: Number(koffi.address(oneWords)) };

/** Adds 1 to an eventfd. @throws ErrnoError EBADF */
export function signalEventfd(fd: number): void {
  if (rawWrite(fd, one.address, 8) < 0) throw lastErrno("write");
}

/** pwrite(2); all bytes or an error. @throws ErrnoError ENOSPC, EIO … */
export function pwriteAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length; ) {
    const count = Number(rawPwrite(fd, bytes.subarray(done), bytes.length - done, offset + done));
    if (count < 0) throw lastErrno("pwrite");
    done += count;
  }
}

export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/** Waits until one of the descriptors has an event; blocks the thread. Returns `revents` by position. @throws ErrnoError */
export function poll(entries: readonly { readonly fd: number; readonly events: number }[], timeoutMs: number): number[] {
  const table = new Uint8Array(Math.max(64, entries.length * 8)); // struct pollfd { int fd; short events; short revents }
  const view = new DataView(table.buffer);
  entries.forEach((entry, index) => {
    view.setInt32(index * 8, entry.fd, true);
    view.setInt16(index * 8 + 4, entry.events, true);
  });
  if (rawPoll(Number(koffi.address(table)), entries.length, timeoutMs) < 0) throw lastErrno("poll"); // `view` below keeps the table
  return entries.map((_, index) => view.getInt16(index * 8 + 6, true));
}

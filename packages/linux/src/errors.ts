import { constants } from "node:os";
import { koffi } from "./libc.ts";

const names = new Map<number, string>(Object.entries(constants.errno).map(([name, value]) => [value, name]));
// What node:os leaves out, from include/uapi/asm-generic/errno.h.
for (const [name, value] of [
  ["ENOTBLK", 15],
  ["ENOKEY", 126],
  ["EHWPOISON", 133],
  ["ESHUTDOWN", 108],
] as const) {
  if (!names.has(value)) names.set(value, name);
}

/** `ENOENT` for 2; `ERRNO_<n>` for a number without a name. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `ERRNO_${errno}`;
}

/** A system call failed. `code` is the errno's name, as in Node's own errors. */
export class ErrnoError extends Error {
  override readonly name = "ErrnoError";
  readonly errno: number;
  readonly code: string;
  readonly syscall: string;
  /** What the call worked on, where there is something to name. */
  readonly path: string | undefined;

  constructor(syscall: string, errno: number, path?: string) {
    const code = errnoName(errno);
    super(`${syscall}${path === undefined ? "" : ` ${path}`}: ${code}`);
    this.errno = errno;
    this.code = code;
    this.syscall = syscall;
    this.path = path;
  }
}

/** The error of the call just made; read before any other system call. */
export function lastErrno(syscall: string, path?: PathLike): ErrnoError {
  return new ErrnoError(syscall, koffi.errno(), path === undefined ? undefined : printable(path));
}

/** A path as the kernel knows it: text, or bytes of any encoding. */
export type PathLike = string | Uint8Array;

/** Bytes with the terminating zero. @throws ErrnoError EINVAL when the path itself holds a zero byte */
export function cString(path: PathLike): Buffer {
  const bytes = typeof path === "string" ? Buffer.from(path) : path;
  if (bytes.includes(0)) throw new ErrnoError("path", constants.errno.EINVAL, printable(path));
  const terminated = Buffer.alloc(bytes.length + 1);
  terminated.set(bytes);
  return terminated;
}

const printable = (path: PathLike): string => (typeof path === "string" ? path : Buffer.from(path).toString());

import { cString, lastErrno, type PathLike } from "./errors.ts";
import { libc } from "./libc.ts";

// mknod(2), utimensat(2), renameat2(2), statfs(2)
const rawMknod = libc.func("int mknod(const void *path, uint32_t mode, uint64_t device)");
const rawUtimensat = libc.func("int utimensat(int directory, const void *path, const void *times, int flags)");
const rawRenameat2 = libc.func("int renameat2(int fromDirectory, const void *from, int toDirectory, const void *to, uint32_t flags)");
const rawStatfs = libc.func("int statfs(const void *path, void *result)");
const rawFstatfs = libc.func("int fstatfs(int fd, void *result)");
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;

/** Makes a device, fifo, socket or empty file. `mode` holds type and permission bits (the umask applies). @throws ErrnoError EEXIST, EPERM … */
export function mknod(path: PathLike, mode: number, device: { readonly major: number; readonly minor: number }): void {
  if (rawMknod(cString(path), mode, encodeDevice(device)) < 0) throw lastErrno("mknod", path);
}

// The C library's dev_t: major and minor interleaved (gnu_dev_makedev).
const encodeDevice = ({ major, minor }: { major: number; minor: number }): bigint => {
  const [a, b] = [BigInt(major), BigInt(minor)];
  return (b & 0xffn) | ((a & 0xfffn) << 8n) | ((b & ~0xffn) << 12n) | ((a & ~0xfffn) << 32n);
};

export interface FileTime {
  /** Seconds since 1970, may be negative. */
  readonly seconds: number | bigint;
  readonly nanoseconds: number;
}

/** Sets access and modification time to the nanosecond, of the link itself when the path is a symbolic link. @throws ErrnoError */
export function utimensat(path: PathLike, times: { readonly access: FileTime; readonly modification: FileTime }): void {
  const buffer = Buffer.alloc(64); // struct timespec[2]
  buffer.writeBigInt64LE(BigInt(times.access.seconds), 0);
  buffer.writeBigInt64LE(BigInt(times.access.nanoseconds), 8);
  buffer.writeBigInt64LE(BigInt(times.modification.seconds), 16);
  buffer.writeBigInt64LE(BigInt(times.modification.nanoseconds), 24);
  if (rawUtimensat(AT_FDCWD, cString(path), buffer, AT_SYMLINK_NOFOLLOW) < 0) throw lastErrno("utimensat", path);
}

/** Renames with RENAME_NOREPLACE or RENAME_EXCHANGE. @throws ErrnoError EEXIST, ENOENT, EXDEV, EINVAL (the file system lacks the flag) */
export function renameat2(from: PathLike, to: PathLike, flags: number): void {
  if (rawRenameat2(AT_FDCWD, cString(from), AT_FDCWD, cString(to), flags) < 0) throw lastErrno("renameat2", from);
}

export interface FileSystemStats {
  /** Magic of the file system (statfs(2)): 0x65735546 FUSE, 0xe0f5e1e2 EROFS, 0x794c7630 overlay … */
  readonly type: number;
  readonly blockSize: number;
  readonly blocks: number;
  readonly blocksFree: number;
  readonly blocksAvailable: number;
  readonly files: number;
  readonly filesFree: number;
  readonly nameBytesMax: number;
}

/** Capacity of the file system that holds a path or an open file. @throws ErrnoError ENOENT, EBADF … */
export function statfs(target: PathLike | number): FileSystemStats {
  const result = Buffer.alloc(256); // struct statfs of 64-bit: type 0, bsize 8, blocks 16, bfree 24, bavail 32, files 40, ffree 48, fsid 56, namelen 64
  const failed: number = typeof target === "number" ? rawFstatfs(target, result) : rawStatfs(cString(target), result);
  if (failed < 0) throw lastErrno("statfs", typeof target === "number" ? undefined : target);
  const field = (offset: number): number => Number(result.readBigUInt64LE(offset));
  return {
    type: result.readUInt32LE(0),
    blockSize: field(8),
    blocks: field(16),
    blocksFree: field(24),
    blocksAvailable: field(32),
    files: field(40),
    filesFree: field(48),
    nameBytesMax: field(64),
  };
}

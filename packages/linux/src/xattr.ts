import { constants } from "node:os";
import { cString, lastErrno, type PathLike } from "./errors.ts";
import { libc } from "./libc.ts";

// lgetxattr(2), lsetxattr(2), llistxattr(2), lremovexattr(2): the forms that do not follow symbolic links.
const rawGet = libc.func("int64_t lgetxattr(const void *path, const void *name, void *value, uint64_t size)");
const rawSet = libc.func("int lsetxattr(const void *path, const void *name, const void *value, uint64_t size, int flags)");
const rawList = libc.func("int64_t llistxattr(const void *path, void *list, uint64_t size)");
const rawRemove = libc.func("int lremovexattr(const void *path, const void *name)");

/** Bytes of one value and of one list of names: XATTR_SIZE_MAX, XATTR_LIST_MAX of include/uapi/linux/limits.h. */
export const xattrBytesMax = 65_536;

/** Bytes of a list that are asked for at first; a longer one is asked for again. */
const listBytesFirst = 1024;

/** What the kernel fills; a new one each time cost more than the calls. Results are copies. */
const scratch = Buffer.allocUnsafeSlow(xattrBytesMax);

/** Value of an extended attribute; undefined when the file has none of that name. @throws ErrnoError ENOENT, EOPNOTSUPP … */
export function lgetxattr(path: PathLike, name: PathLike): Buffer | undefined {
  const size = Number(rawGet(cString(path), cString(name), scratch, scratch.length));
  if (size >= 0) return Buffer.from(scratch.subarray(0, size));
  const error = lastErrno("lgetxattr", path);
  if (error.errno === constants.errno.ENODATA) return undefined;
  throw error;
}

/** Sets an extended attribute, new or not. @throws ErrnoError EPERM, EOPNOTSUPP, ENOSPC … */
export function lsetxattr(path: PathLike, name: PathLike, value: Uint8Array): void {
  const bytes = value.length === 0 ? Buffer.alloc(1) : value;
  if (rawSet(cString(path), cString(name), bytes, value.length, 0) < 0) throw lastErrno("lsetxattr", path);
}

/** Names of the extended attributes, as bytes, in the file system's order; empty where the file system has none. @throws ErrnoError ENOENT … */
export function llistxattr(path: PathLike): Buffer[] {
  const name = cString(path);
  // The kernel takes memory for as much as it is offered, and most files have no names at all.
  let size = Number(rawList(name, scratch, listBytesFirst));
  let error = size < 0 ? lastErrno("llistxattr", path) : undefined;
  if (error?.errno === constants.errno.ERANGE) {
    size = Number(rawList(name, scratch, scratch.length));
    error = size < 0 ? lastErrno("llistxattr", path) : undefined;
  }
  if (error) {
    if (error.errno === constants.errno.EOPNOTSUPP || error.errno === constants.errno.ENOSYS) return [];
    throw error;
  }
  const names: Buffer[] = [];
  for (let start = 0; start < size; ) {
    const end = scratch.indexOf(0, start);
    names.push(Buffer.from(scratch.subarray(start, end)));
    start = end + 1;
  }
  return names;
}

/** Removes an extended attribute. @throws ErrnoError ENODATA … */
export function lremovexattr(path: PathLike, name: PathLike): void {
  if (rawRemove(cString(path), cString(name)) < 0) throw lastErrno("lremovexattr", path);
}

import { cString, lastErrno, type PathLike } from "./errors.ts";
import { libc } from "./libc.ts";

// mount(2), umount2(2); flags from include/uapi/linux/mount.h and sys/mount.h
const rawMount = libc.func("int mount(const void *source, const void *target, const void *type, uint64_t flags, const void *data)");
const rawUmount = libc.func("int umount2(const void *target, int flags)");

export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_REMOUNT = 32;
export const MS_NOATIME = 1024;
export const MS_BIND = 4096;
export const MS_MOVE = 8192;
export const MS_REC = 16384;
export const MS_UNBINDABLE = 1 << 17;
export const MS_PRIVATE = 1 << 18;
export const MS_SLAVE = 1 << 19;
export const MS_SHARED = 1 << 20;

export const MNT_FORCE = 1;
export const MNT_DETACH = 2;
export const MNT_EXPIRE = 4;
export const UMOUNT_NOFOLLOW = 8;

export interface MountRequest {
  readonly source: PathLike;
  readonly target: PathLike;
  /** File system type; empty for bind mounts and changes of propagation. */
  readonly type: string;
  /** MS_* */
  readonly flags: number;
  /** Options of the file system, comma separated; at most one page. */
  readonly options?: string;
}

/** Mounts a file system. @throws ErrnoError EBUSY, EINVAL (options), ENODEV (unknown type), ENOENT, EPERM … (mount(2)) */
export function mount(request: MountRequest): void {
  const result: number = rawMount(
    cString(request.source),
    cString(request.target),
    cString(request.type),
    request.flags,
    request.options === undefined ? null : cString(request.options),
  );
  if (result < 0) throw lastErrno("mount", request.target);
}

/** Removes a mount. @throws ErrnoError EBUSY (in use, without MNT_DETACH), EINVAL (not a mount point), ENOENT */
export function umount2(target: PathLike, flags: number): void {
  if (rawUmount(cString(target), flags) < 0) throw lastErrno("umount2", target);
}

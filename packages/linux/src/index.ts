export { setThreadProcessors, threadProcessors } from "./affinity.ts";
export { cString, ErrnoError, errnoName, type PathLike } from "./errors.ts";
export {
  type FileSystemStats,
  type FileTime,
  mknod,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  renameat2,
  statfs,
  utimensat,
} from "./files.ts";
export {
  dup,
  errno,
  eventfd,
  ioctl,
  O_NONBLOCK,
  POLLERR,
  POLLHUP,
  POLLIN,
  POLLOUT,
  poll,
  pwriteAll,
  rawPoll,
  rawPread,
  rawRead,
  rawWrite,
  setNonblocking,
  signalEventfd,
} from "./io.ts";
export { addressOf } from "./libc.ts";
export { type MallocOptions, tuneMalloc } from "./malloc.ts";
export { type FileMap, mapFile, mmapFile, viewMemory } from "./memory.ts";
export {
  MNT_DETACH,
  MNT_EXPIRE,
  MNT_FORCE,
  type MountRequest,
  MS_BIND,
  MS_MOVE,
  MS_NOATIME,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  MS_PRIVATE,
  MS_RDONLY,
  MS_REC,
  MS_REMOUNT,
  MS_SHARED,
  MS_SLAVE,
  MS_UNBINDABLE,
  mount,
  UMOUNT_NOFOLLOW,
  umount2,
} from "./mount.ts";
export { findMount, type MountInfoEntry, mountInfo, parseMountInfo } from "./mount-info.ts";
export { openPipe, type Pipe, rawSplice } from "./pipe.ts";
export { becomeSubreaper, exitNow, pidfdExited, pidfdOpen, pidfdSignal, reapPidfd, rlimitNofile, setRlimitNofile } from "./process.ts";
export { limitReceiveBuffer } from "./receive-buffer.ts";
export { type WaitOptions, waitReady } from "./readiness.ts";
export { fdsPerMessageMax, type ReceiveOptions, recvWithFds, sendWithFds, type UnixListener, unixConnect, unixListen } from "./sockets.ts";
export { lgetxattr, llistxattr, lremovexattr, lsetxattr, xattrBytesMax } from "./xattr.ts";

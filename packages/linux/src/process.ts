import { constants } from "node:os";
import { ErrnoError, lastErrno } from "./errors.ts";
import { libc } from "./libc.ts";
import { type WaitOptions, waitReady } from "./readiness.ts";

// pidfd_open(2), pidfd_send_signal(2), waitid(2), prctl(2). The numbers of the pidfd calls are the same on all architectures.
const rawSyscall = libc.func("int64_t syscall(int64_t number, int64_t a, int64_t b, int64_t c, int64_t d)");
const rawWaitid = libc.func("int waitid(int idType, int id, void *info, int options)");
const rawPrctl = libc.func("int prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d)");
const SYS_pidfd_send_signal = 424;
const SYS_pidfd_open = 434;
const P_PIDFD = 3;
const WNOHANG = 1;
const WEXITED = 4;
const PR_SET_CHILD_SUBREAPER = 36;

const rawExit = libc.func("void _exit(int status)");

/**
 * Ends the process at once, as _exit(2): no handlers of `exit`, and nobody waits for threads of the pool or for the files behind stdout and
 * stderr, which koffi syncs at an ordinary exit. What was printed asynchronously, and a compile cache that was not flushed, is lost.
 */
export function exitNow(status: number): never {
  rawExit(status);
  throw new TypeError("_exit(2) does not return");
}

/** A descriptor of a process that stays with that process even when the number is used again; close-on-exec. @throws ErrnoError ESRCH (gone) */
export function pidfdOpen(pid: number): number {
  const fd = Number(rawSyscall(SYS_pidfd_open, pid, 0, 0, 0));
  if (fd < 0) throw lastErrno("pidfd_open", String(pid));
  return fd;
}

/** Sends a signal to exactly that process. @throws ErrnoError ESRCH (ended), EPERM */
export function pidfdSignal(pidfd: number, signal: NodeJS.Signals): void {
  if (Number(rawSyscall(SYS_pidfd_send_signal, pidfd, constants.signals[signal], 0, 0)) < 0) throw lastErrno("pidfd_send_signal");
}

/** Resolves when the process has ended, child or not. @throws ErrnoError ETIMEDOUT; DOMException AbortError */
export function pidfdExited(pidfd: number, options: WaitOptions): Promise<void> {
  return waitReady(pidfd, "readable", options);
}

/**
 * Reaps an ended child of this process: its exit status as a shell shows it (128 + n after signal n), undefined while it runs.
 * Not for children of node:child_process, which reaps its own. @throws ErrnoError ECHILD
 */
export function reapPidfd(pidfd: number): number | undefined {
  const info = Buffer.alloc(128); // siginfo_t: si_signo 0, si_code 8, si_pid 12, si_uid 16, si_status 24
  for (;;) {
    if (rawWaitid(P_PIDFD, pidfd, info, WEXITED | WNOHANG) >= 0) break;
    const error = lastErrno("waitid");
    if (error.errno !== constants.errno.EINTR) throw error;
  }
  if (info.readInt32LE(12) === 0) return undefined;
  const CLD_EXITED = 1;
  return info.readInt32LE(8) === CLD_EXITED ? info.readInt32LE(24) : 128 + info.readInt32LE(24);
}

/** Makes this process the parent of orphans below it, so it can reap them. @throws ErrnoError */
export function becomeSubreaper(): void {
  if (rawPrctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) throw lastErrno("prctl");
}

const rawGetRlimit = libc.func("int getrlimit(int resource, void *limits)");
const rawSetRlimit = libc.func("int setrlimit(int resource, const void *limits)");
const RLIMIT_NOFILE = 7;

/** Soft and hard bound of open files of this process. */
export function rlimitNofile(): { soft: number; hard: number } {
  const limits = Buffer.alloc(64);
  if (rawGetRlimit(RLIMIT_NOFILE, limits) < 0) throw lastErrno("getrlimit");
  return { soft: Number(limits.readBigUInt64LE(0)), hard: Number(limits.readBigUInt64LE(8)) };
}

/**
 * Raises the bound of open files to `count`, or as far as the hard bound lets (beyond it CAP_SYS_RESOURCE is needed).
 * Never lowers it. Returns the soft bound that holds now.
 */
export function setRlimitNofile(count: number): number {
  const now = rlimitNofile();
  if (count <= now.soft) return now.soft;
  for (const [soft, hard] of [
    [count, Math.max(count, now.hard)],
    [Math.min(count, now.hard), now.hard],
  ] as const) {
    const limits = Buffer.alloc(64);
    limits.writeBigUInt64LE(BigInt(soft), 0);
    limits.writeBigUInt64LE(BigInt(hard), 8);
    if (rawSetRlimit(RLIMIT_NOFILE, limits) >= 0) return soft;
  }
  throw new ErrnoError("setrlimit", constants.errno.EPERM);
}

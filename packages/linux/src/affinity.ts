import { lastErrno } from "./errors.ts";
import { libc } from "./libc.ts";

// sched_getaffinity(2), sched_setaffinity(2): process number 0 is the calling thread.
const rawGet = libc.func("int sched_getaffinity(int thread, uint64_t size, void *mask)");
const rawSet = libc.func("int sched_setaffinity(int thread, uint64_t size, const void *mask)");
/** Bytes of a mask of 8192 processors, the most a kernel is built for; a shorter one is refused where there are more. */
const maskBytes = 1024;

/** Numbers of the processors that the calling thread may run on, ascending. @throws ErrnoError */
export function threadProcessors(): number[] {
  const mask = new Uint8Array(maskBytes);
  if (rawGet(0, maskBytes, mask) < 0) throw lastErrno("sched_getaffinity");
  return Array.from({ length: maskBytes * 8 }, (_, processor) => processor).filter(
    (processor) => ((mask[processor >> 3] as number) & (1 << (processor & 7))) !== 0,
  );
}

/** Keeps the calling thread on these processors; what it starts inherits that. @throws ErrnoError EINVAL (none of them may be used) */
export function setThreadProcessors(processors: readonly number[]): void {
  const mask = new Uint8Array(maskBytes);
  for (const processor of processors) mask[processor >> 3] = (mask[processor >> 3] as number) | (1 << (processor & 7));
  if (rawSet(0, maskBytes, mask) < 0) throw lastErrno("sched_setaffinity");
}

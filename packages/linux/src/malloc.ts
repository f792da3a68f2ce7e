import { libc } from "./libc.ts";

// mallopt(3); parameters from malloc.h
const rawMallopt = libc.func("int mallopt(int parameter, int value)");
const M_TRIM_THRESHOLD = -1;
const M_MMAP_THRESHOLD = -3;
const M_ARENA_MAX = -8;

export interface MallocOptions {
  /** Blocks from this size on are pages of their own, which the kernel has back when they are freed. */
  readonly mmapThresholdBytes: number;
  /** Heaps with one for each thread keep what each of them once needed. */
  readonly arenasMax: number;
}

/**
 * Makes the C library give freed memory back, for a process whose buffers come and go on several threads: it else keeps about twice what is in
 * use. Costs a page fault for every 4 KiB of a new block. False: this C library does not do it.
 */
export function tuneMalloc({ mmapThresholdBytes, arenasMax }: MallocOptions): boolean {
  return (
    rawMallopt(M_MMAP_THRESHOLD, mmapThresholdBytes) === 1 &&
    rawMallopt(M_TRIM_THRESHOLD, mmapThresholdBytes) === 1 &&
    rawMallopt(M_ARENA_MAX, arenasMax) === 1
  );
}

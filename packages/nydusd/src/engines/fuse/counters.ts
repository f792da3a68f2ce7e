import { fileOperations } from "@nydus-ts/nydus-api";
import { classCount, sizeClass } from "../../metrics/classes.ts";
import type { FsMetrics } from "../engine.ts";

// Counters of one image live in shared memory, a section for each worker and one for the main thread; nobody but its owner writes a
// section, so no atomics are needed, and the sum is taken when somebody asks. Float64 counts exactly to 2^53.
const operationCount = fileOperations.length;
const slot = {
  dataRead: 0,
  latencyUs: 1,
  blockCount: 2,
  latencyDist: 2 + classCount,
  hits: 2 + 2 * classCount,
  errors: 2 + 2 * classCount + operationCount,
} as const;
const slotsPerSection = 2 + 2 * classCount + 2 * operationCount;

/** Upper bounds of the first seven latency classes of reads in microseconds, inclusive. Source: spec/nydusd.md 17. */
const latencyBoundsUs = [200, 1000, 20_000, 50_000, 500_000, 1_000_000, 2_000_000];

/** Positions of the counted operations, as the API orders them. */
export const operation = {
  getattr: fileOperations.indexOf("getattr"),
  readlink: fileOperations.indexOf("readlink"),
  read: fileOperations.indexOf("read"),
  statfs: fileOperations.indexOf("statfs"),
  getxattr: fileOperations.indexOf("getxattr"),
  listxattr: fileOperations.indexOf("listxattr"),
  lookup: fileOperations.indexOf("lookup"),
  readdir: fileOperations.indexOf("readdir"),
  readdirplus: fileOperations.indexOf("readdirplus"),
} as const;

/** Shared memory for the counters of one image. */
export function countersBuffer(sections: number): SharedArrayBuffer {
  return new SharedArrayBuffer(sections * slotsPerSection * 8);
}

/** The section of one thread. */
export class Counters {
  readonly #slots: Float64Array;

  constructor(buffer: SharedArrayBuffer, section: number) {
    this.#slots = new Float64Array(buffer, section * slotsPerSection * 8, slotsPerSection);
  }

  /** Counts a finished operation and passes its errno on. */
  count(index: number, errno: number): number {
    this.#slots[(errno === 0 ? slot.hits : slot.errors) + index]!++;
    return errno;
  }

  /** A read that returned `bytes`; latency is kept only when there were some. */
  countRead(bytes: number, latencyUs: number): void {
    const slots = this.#slots;
    slots[slot.hits + operation.read]!++;
    slots[slot.dataRead]! += bytes;
    slots[slot.blockCount + sizeClass(bytes)]!++;
    if (bytes === 0) return;
    slots[slot.latencyUs]! += latencyUs;
    let latencyClass = 0;
    while (latencyClass < 7 && latencyUs > (latencyBoundsUs[latencyClass] as number)) latencyClass++;
    slots[slot.latencyDist + latencyClass]!++;
  }

  countFailedRead(): void {
    this.#slots[slot.errors + operation.read]!++;
    this.#slots[slot.blockCount]!++;
  }
}

/** The sum over all sections. */
export function sumCounters(buffer: SharedArrayBuffer): FsMetrics {
  const all = new Float64Array(buffer);
  const sum = (index: number): number => {
    let total = 0;
    for (let at = index; at < all.length; at += slotsPerSection) total += all[at] as number;
    return total;
  };
  const sums = (first: number, count: number): number[] => Array.from({ length: count }, (_, index) => sum(first + index));
  return {
    dataRead: sum(slot.dataRead),
    blockCountRead: sums(slot.blockCount, classCount),
    fopHits: sums(slot.hits, operationCount),
    fopErrors: sums(slot.errors, operationCount),
    readCumulativeLatencyUs: Math.round(sum(slot.latencyUs)),
    readLatencyDist: sums(slot.latencyDist, classCount),
  };
}

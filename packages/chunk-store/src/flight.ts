import type { FetchClass } from "./fetch-class.ts";

/** Chunks of an item that are verified but could not be written, by index. */
export type Unstored = ReadonlyMap<number, Uint8Array>;

/** Gets the verified data of a chunk, in memory that is used again after the call. Must not throw. */
export type OnVerified = (chunk: number, data: Uint8Array) => void;

/**
 * One item on its way into the cache, however many callers wait for it. It settles once: with the chunks that could not be written
 * (undefined: all are in the cache), or with a ChunkStoreError; then the item is absent again and the next caller starts anew.
 */
export class Flight {
  readonly item: number;
  readonly offset: number;
  readonly length: number;
  readonly done: Promise<Unstored | undefined>;
  kind: FetchClass;
  /** Requested from the back end, so `kind` and the deadline are fixed. */
  running = false;
  settled = false;
  /** Callers that wait now. */
  waiters = 0;
  /** Those of them that want the data itself, before it is in the cache. */
  readonly listeners = new Set<OnVerified>();
  /** `performance.now()` of the latest waiter's deadline. */
  deadlineAt = 0;
  retries = 0;
  /** Tells the running request that a reader waits for it now. */
  onDemand: (() => void) | undefined;
  #resolve!: (unstored: Unstored | undefined) => void;
  #reject!: (error: Error) => void;

  constructor(item: number, offset: number, length: number, kind: FetchClass) {
    this.item = item;
    this.offset = offset;
    this.length = length;
    this.kind = kind;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Often nobody waits any more.
    this.done.catch(() => undefined);
  }

  resolve(unstored: Unstored | undefined): void {
    this.settled = true;
    this.#resolve(unstored);
  }

  reject(error: Error): void {
    this.settled = true;
    this.#reject(error);
  }
}

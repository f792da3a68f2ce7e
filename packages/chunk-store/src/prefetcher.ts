import type { PrefetchOptions } from "./blob-cache-options.ts";
import { prefetchWindowChunks } from "./limits.ts";
import type { StoredItems } from "./stored-items.ts";

/** What a prefetch needs of its cache. */
export interface PrefetchSource {
  /** No reason to fetch it for later. */
  isPresent(chunk: number): boolean;
  /** Brings chunks with the priority of a prefetch. */
  bring(chunks: readonly number[], signal: AbortSignal | undefined): Promise<void>;
  /** Stored bytes that prefetch has brought so far. */
  bytes(): number;
}

/** Runs the prefetches of one cache and counts them: how much they bring, how long they take, and how much of it is read afterwards. */
export class Prefetcher {
  readonly counts = { prefetchChunks: 0, prefetchActive: 0, prefetchMillis: 0, prefetchBeginMs: 0, prefetchEndMs: 0 };
  /** Bit i & 31 of word i >> 5: prefetch brought item i. */
  #brought = new Uint32Array(0);

  /** Counts everything until `work` ends as one prefetch. */
  async count(work: () => Promise<void>): Promise<void> {
    const { counts } = this;
    const begin = Date.now();
    if (counts.prefetchBeginMs === 0) counts.prefetchBeginMs = begin;
    counts.prefetchActive++;
    try {
      await work();
    } finally {
      counts.prefetchActive--;
      counts.prefetchEndMs = Date.now();
      counts.prefetchMillis += counts.prefetchEndMs - begin;
    }
  }

  /** Brings what is absent of a list, a window at a time. */
  async run(list: readonly number[], source: PrefetchSource, options: PrefetchOptions): Promise<void> {
    for (let at = 0; at < list.length; at += prefetchWindowChunks) {
      options.signal?.throwIfAborted();
      const window = list.slice(at, at + prefetchWindowChunks).filter((chunk) => !source.isPresent(chunk));
      if (window.length === 0) continue;
      this.counts.prefetchChunks += window.length;
      const before = source.bytes();
      await source.bring(window, options.signal);
      const pauseMs = options.bandwidth ? ((source.bytes() - before) / options.bandwidth) * 1000 : 0;
      if (pauseMs >= 1) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  /** @param end  items are numbered below this */
  brought(item: number, end: number): void {
    if (this.#brought.length === 0) this.#brought = new Uint32Array(Math.ceil(end / 32));
    this.#brought[item >> 5] = (this.#brought[item >> 5] as number) | (1 << (item & 31));
  }

  /** Items are numbered anew. */
  forget(): void {
    this.#brought = new Uint32Array(0);
  }

  /** Stored bytes of items that prefetch brought and somebody has read a chunk of. */
  usedBytes(items: StoredItems, isTouched: (chunk: number) => boolean): number {
    let bytes = 0;
    this.#brought.forEach((word, index) => {
      for (let bits = word; bits !== 0; bits &= bits - 1) {
        const item = index * 32 + 31 - Math.clz32(bits & -bits);
        if (items.members(item).some(isTouched)) bytes += items.storedSize(item);
      }
    });
    return bytes;
  }
}

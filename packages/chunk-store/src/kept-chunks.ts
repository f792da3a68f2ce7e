import type { ChunkMap } from "./chunk-map.ts";
import type { ItemStore } from "./item-store.ts";
import { verifyAheadBytes, verifyAheadChunks } from "./limits.ts";
import type { RunningWork } from "./running-work.ts";
import type { StoredItems } from "./stored-items.ts";
import { type WaitLimits, waitFor } from "./wait.ts";

export interface KeptChunksParts {
  readonly blobId: string;
  readonly items: StoredItems;
  readonly map: ChunkMap;
  readonly store: ItemStore;
  readonly work: RunningWork;
  /** Whether a digest can prove what the chunk should be. */
  readonly isProvable: (chunk: number) => boolean;
}

/** What an earlier run left in the data file, verified when somebody reads it. Callers of one chunk share the work. */
export class KeptChunks {
  readonly #parts: KeptChunksParts;
  readonly #verifying = new Map<number, Promise<void>>();

  constructor(parts: KeptChunksParts) {
    this.#parts = parts;
  }

  /** Afterwards those of these chunks that an earlier run left are ready, or absent where they proved to be damaged. */
  async verify(chunks: readonly number[], limits: WaitLimits): Promise<void> {
    const { blobId, items, isProvable } = this.#parts;
    const wanted = chunks.map((chunk) => this.#verifyOne(chunk));
    // Those behind them too, without anybody waiting: a tree of small files is read in the order of its chunks, and each hand-over to this
    // thread costs more than its digest (10,700 files: 5.4 s instead of 1.1). Only what a digest can prove: an image that is mounted later
    // may know the digest, or the place, that none knows now.
    let bytes = 0;
    const last = Math.max(...chunks);
    for (let chunk = last + 1; chunk <= last + verifyAheadChunks && chunk < items.info.count; chunk++) {
      bytes += items.info.uncompressedSize(chunk);
      if (bytes > verifyAheadBytes || this.#verifying.size > verifyAheadChunks) break;
      if (isProvable(chunk)) this.#verifyOne(chunk);
    }
    await waitFor(Promise.all(wanted), limits, `the disk of the cache of blob ${blobId}`);
  }

  #verifyOne(chunk: number): Promise<void> | undefined {
    const { map, store, work } = this.#parts;
    if (!map.isKept(chunk)) return undefined;
    let verifying = this.#verifying.get(chunk);
    if (verifying === undefined) {
      verifying = store.verifyKept(chunk).then(() => undefined);
      this.#verifying.set(chunk, verifying);
      const ended = verifying.catch(() => undefined).finally(() => this.#verifying.delete(chunk));
      void work.track(ended);
    }
    return verifying;
  }
}

import type { ChunkMap } from "./chunk-map.ts";
import { syncData } from "./file-io.ts";
import { syncBytesMax, syncDelayMs } from "./limits.ts";

/**
 * Makes written chunks outlive a crash: data is synced, then the bits are persisted, many chunks at a time.
 * Invariant: a chunk's bit goes to the file only after a sync that began after its write.
 */
export class SyncQueue {
  readonly #fd: number;
  readonly #map: ChunkMap;
  readonly #onFailure: (error: Error, chunks: readonly number[]) => void;
  #written: number[] = [];
  #bytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;

  /** @param onFailure  the chunks are not in the file after all, and their bits are cleared */
  constructor(fd: number, map: ChunkMap, onFailure: (error: Error, chunks: readonly number[]) => void) {
    this.#fd = fd;
    this.#map = map;
    this.#onFailure = onFailure;
  }

  /** A chunk was written to the data file. */
  add(chunk: number, bytes: number): void {
    this.#written.push(chunk);
    this.#bytes += bytes;
    if (this.#bytes >= syncBytesMax) void this.flush();
    else this.#timer ??= setTimeout(() => void this.flush(), syncDelayMs).unref();
  }

  /** Resolves when everything added before is durable or given up. */
  async flush(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
    if (this.#written.length === 0) return;
    this.#running = this.#run();
    await this.#running;
  }

  async #run(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const chunks = this.#written;
    this.#written = [];
    this.#bytes = 0;
    try {
      await syncData(this.#fd);
    } catch (error) {
      // The kernel may have dropped the pages it could not write (and says so once): what was written is no longer certain.
      for (const chunk of chunks) this.#map.clear(chunk);
      this.#onFailure(error as Error, chunks);
      this.#running = undefined;
      return;
    }
    try {
      await this.#map.persist(chunks);
    } catch (error) {
      // The data is there; only a restart will fetch it again.
      this.#onFailure(error as Error, []);
    }
    this.#running = undefined;
  }
}

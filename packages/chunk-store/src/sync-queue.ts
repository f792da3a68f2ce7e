import type { ChunkMap } from "./chunk-map.ts";
import { syncData } from "./file-io.ts";
import { syncBytesMax, syncDelayMs } from "./limits.ts";

/**
 * Makes written chunks outlive a crash: data is synced, then the bits are persisted, many chunks at a time.
 * Invariant: a chunk's bit goes to the file only after a sync that began after its write, but for `handOver`.
 */
export class SyncQueue {
  readonly #fd: number;
  readonly #map: ChunkMap;
  readonly #onFailure: (error: Error, chunks: readonly number[]) => void;
  #written: number[] = [];
  /** What the sync under way is for. */
  #syncing: readonly number[] = [];
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

  /**
   * For a process that ends and does not wait for the disk, which under load takes seconds: the bits go to the kernel, as the data have gone,
   * without a sync. Only a crash of the machine can make them lies.
   *
   * @param isProvable  the chunk will be verified again before it is read, so a lie would be found; others are given up
   */
  async handOver(isProvable: (chunk: number) => boolean): Promise<void> {
    clearTimeout(this.#timer);
    const chunks = [...this.#syncing, ...this.#written].filter((chunk) => this.#map.isReady(chunk) && isProvable(chunk));
    this.#written = [];
    await this.#map.write(chunks).catch((error: unknown) => this.#onFailure(error as Error, []));
  }

  /** Whether a sync is under way: it can not be cut short, and its descriptor must stay open. */
  get isSyncing(): boolean {
    return this.#running !== undefined;
  }

  async #run(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const chunks = this.#written;
    this.#syncing = chunks;
    this.#written = [];
    this.#bytes = 0;
    try {
      await syncData(this.#fd);
    } catch (error) {
      // The kernel may have dropped the pages it could not write (and says so once): what was written is no longer certain.
      for (const chunk of chunks) this.#map.clear(chunk);
      this.#onFailure(error as Error, chunks);
      this.#syncing = [];
      this.#running = undefined;
      return;
    }
    try {
      await this.#map.persist(chunks);
    } catch (error) {
      // The data is there; only a restart will fetch it again.
      this.#onFailure(error as Error, []);
    }
    this.#syncing = [];
    this.#running = undefined;
  }
}

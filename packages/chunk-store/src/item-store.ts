import type { BlobCacheOptions } from "./blob-cache-options.ts";
import { chunkBuffers } from "./buffer-pool.ts";
import type { ChunkMap } from "./chunk-map.ts";
import { decodeItem } from "./decode-item.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";
import { readAt, writeAt } from "./file-io.ts";
import type { OnVerified, Unstored } from "./flight.ts";
import { verifyRetriesMax } from "./limits.ts";
import { RunningWork } from "./running-work.ts";
import type { StoredItems } from "./stored-items.ts";
import type { SyncQueue } from "./sync-queue.ts";
import { UnstoredChunks } from "./unstored-chunks.ts";
import { verifyChunk } from "./verify-chunk.ts";

/** The data file, its map, and what makes both durable. */
export interface DataStore {
  readonly fd: number;
  readonly map: ChunkMap;
  readonly sync: SyncQueue;
}

/** Table and file of a blob, as `ItemStore` joins them. */
export interface ItemStoreParts {
  readonly items: StoredItems;
  readonly file: DataStore;
  /** From then on nothing is written: the file may be about to close. */
  readonly closing: AbortSignal;
  /** A chunk proved to be what it should be; called before it counts as ready. May refuse it with a ChunkStoreError. */
  readonly onVerified?: ((chunk: number) => void) | undefined;
}

/** Takes stored bytes of items to verified chunks in the data file. Nothing that did not verify is written or handed out. */
export class ItemStore {
  readonly retriesMax = verifyRetriesMax;
  readonly counts = { stored: 0, bufferedBytes: 0, verifyFailures: 0, unverified: 0, unstored: 0, damaged: 0 };
  readonly #options: BlobCacheOptions;
  readonly #items: StoredItems;
  readonly #file: DataStore;
  readonly #map: ChunkMap;
  readonly #closing: AbortSignal;
  readonly #onVerified: ((chunk: number) => void) | undefined;
  readonly #unstored = new UnstoredChunks();
  readonly #writing = new RunningWork();
  #retired: Error | undefined;

  constructor(options: BlobCacheOptions, { items, file, closing, onVerified }: ItemStoreParts) {
    this.#options = options;
    this.#items = items;
    this.#file = file;
    this.#map = file.map;
    this.#closing = closing;
    this.#onVerified = onVerified;
  }

  /** Another table takes over: from now on nothing is written or becomes ready here. Resolves when the writes under way have ended. */
  async retire(reason: Error): Promise<void> {
    this.#retired = reason;
    await Promise.all(this.#writing.all());
  }

  #throwIfOver(): void {
    this.#closing.throwIfAborted();
    if (this.#retired !== undefined) throw this.#retired;
  }

  /** A chunk the disk refused, kept in memory for a while; undefined also when it is time to offer it to the disk again. */
  unstored(chunk: number): Uint8Array | undefined {
    const data = this.#unstored.get(chunk);
    return data !== undefined && this.#unstored.worthTrying ? undefined : data;
  }

  /** Whether other bytes, perhaps from another host, may mend it. */
  mayRetry(error: unknown): boolean {
    return error instanceof ChunkStoreError && (error.code === "CHUNK_DIGEST" || error.code === "CHUNK_DECODE");
  }

  /**
   * Decodes an item, verifies its chunks and writes those that are not ready.
   *
   * @param busy  other fetches wait for the event loop
   * @param onVerified  gets each chunk that was not ready before it is written
   * @returns chunks the disk would not take, by index
   * @throws ChunkStoreError CHUNK_DECODE, CHUNK_DIGEST
   */
  async store(item: number, stored: Uint8Array, busy: boolean, onVerified?: OnVerified): Promise<Unstored | undefined> {
    const { info } = this.#items;
    const size = this.#items.decodedSize(item);
    this.counts.bufferedBytes += size;
    let pooled: Uint8Array | undefined;
    try {
      const decoded = await decodeItem(this.#options.blob, this.#items, item, stored, chunkBuffers, busy);
      pooled = decoded.pooled;
      let refused: Map<number, Uint8Array> | undefined;
      for (const chunk of this.#items.members(item)) {
        if (this.#map.isReady(chunk)) continue;
        this.#throwIfOver();
        const from = this.#items.contextOf(item) < 0 ? 0 : info.offsetInContext(chunk);
        const data = decoded.data.subarray(from, from + info.uncompressedSize(chunk));
        this.#verify(chunk, data);
        onVerified?.(chunk, data);
        if (await this.#write(chunk, data)) continue;
        refused ??= new Map();
        refused.set(chunk, Buffer.from(data));
      }
      for (const [chunk, data] of refused ?? []) this.#unstored.add(chunk, data);
      return refused;
    } catch (error) {
      if (!(error instanceof ChunkStoreError) || error.code === "CHUNK_CLOSED" || error === this.#retired) throw error;
      if (this.mayRetry(error)) this.counts.verifyFailures++;
      throw new ChunkStoreError(
        error.code,
        `blob ${this.#options.blob.id}, stored at ${this.#items.storedOffset(item)}: ${error.message}`,
        { cause: error },
      );
    } finally {
      if (pooled !== undefined) chunkBuffers.give(pooled);
      this.counts.bufferedBytes -= size;
    }
  }

  /**
   * Reads back a chunk that is in the file since an earlier run, and makes it ready if it is what it should be. Otherwise it counts as
   * absent: the next fetch writes it anew.
   *
   * @returns false when the file holds something else
   * @throws the closing signal's reason
   */
  async verifyKept(chunk: number): Promise<boolean> {
    const { info } = this.#items;
    const size = info.uncompressedSize(chunk);
    const data = chunkBuffers.take(size);
    try {
      const count = await readAt(this.#file.fd, data, info.uncompressedOffset(chunk)).catch(() => 0);
      this.#throwIfOver();
      this.#verify(chunk, data.subarray(0, count));
      this.#map.set(chunk);
      return true;
    } catch (error) {
      if (!(error instanceof ChunkStoreError) || error.code === "CHUNK_CLOSED" || error === this.#retired) throw error;
      this.#map.settle(chunk);
      // One line says it; a disk that lost much would fill the log.
      if (this.counts.damaged++ === 0)
        this.#options.onWarning?.(
          `cache of blob ${this.#options.blob.id}: what the disk kept is damaged and fetched again: ${error.message}`,
        );
      return false;
    } finally {
      chunkBuffers.give(data);
    }
  }

  /** Data first, then the bit. False: the disk would not take it. */
  async #write(chunk: number, data: Uint8Array): Promise<boolean> {
    this.#throwIfOver();
    try {
      const written = writeAt(this.#file.fd, data, this.#items.info.uncompressedOffset(chunk));
      void this.#writing.track(written.catch(() => undefined));
      await written;
      if (this.#retired !== undefined) throw this.#retired;
    } catch (error) {
      if (error === this.#retired) throw error;
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "ENOSPC" && code !== "EDQUOT" && code !== "EIO" && code !== "EROFS") {
        throw new ChunkStoreError("CHUNK_CACHE", `chunk ${chunk} can't be written: ${describeCause(error)}`, { cause: error });
      }
      this.counts.unstored++;
      return false;
    }
    this.#unstored.delete(chunk);
    this.#map.set(chunk);
    this.#file.sync.add(chunk, data.length);
    this.counts.stored++;
    return true;
  }

  /** @throws ChunkStoreError CHUNK_DECODE, CHUNK_DIGEST */
  #verify(chunk: number, data: Uint8Array): void {
    const { digestOf, digester, validate = true } = this.#options;
    if (!verifyChunk(this.#items.info, chunk, data, { digestOf: validate ? digestOf : undefined, digester })) this.counts.unverified++;
    this.#onVerified?.(chunk);
  }
}

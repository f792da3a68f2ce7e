import { type BlobRecord, metaBlobId as recordedMetaBlobId } from "@nydus-ts/rafs-format";
import type { BlobCacheOptions } from "./blob-cache-options.ts";
import { keepMeta, type MetaWithFile, readMeta } from "./blob-meta-source.ts";
import type { BlobRequests } from "./blob-requests.ts";
import type { ChunkInfo } from "./chunk-info.ts";
import type { ChunkMarks } from "./chunk-marks.ts";
import { ChunkStoreError, type ChunkStoreErrorCode } from "./errors.ts";
import { type FetchCounts, Fetcher } from "./fetcher.ts";
import { type DataStore, ItemStore } from "./item-store.ts";
import { KeptChunks } from "./kept-chunks.ts";
import type { Prefetcher } from "./prefetcher.ts";
import type { RecordedChunks } from "./recorded-chunks.ts";
import type { RunningWork } from "./running-work.ts";
import { StoredItems } from "./stored-items.ts";
import { type WaitLimits, waitFor } from "./wait.ts";

/** What is known once the chunk info is there. */
export interface Fetching {
  readonly info: ChunkInfo;
  readonly items: StoredItems;
  readonly store: ItemStore;
  readonly kept: KeptChunks;
  readonly fetcher: Fetcher;
  /** Set: the chunk info is from a cache file without proof, of these bytes. */
  readonly hearsay: Uint8Array | undefined;
}

const mendable: ReadonlySet<unknown> = new Set<ChunkStoreErrorCode>(["CHUNK_DIGEST", "CHUNK_DECODE", "CHUNK_META"]);

/** What the table works on; all of it belongs to the cache. */
export interface BlobTableParts {
  readonly options: BlobCacheOptions;
  readonly file: DataStore;
  readonly requests: BlobRequests;
  readonly work: RunningWork;
  readonly marks: ChunkMarks;
  readonly prefetcher: Prefetcher;
  readonly counts: FetchCounts & { metaBytes: number };
  /** Chunk info of a blob without blob meta. */
  readonly recorded: RecordedChunks | undefined;
  readonly closing: AbortSignal;
}

/**
 * Where the chunks of a blob lie: nothing at first, then its blob meta or what bootstraps record, with all that works by it. A table that
 * came without proof is replaced once, when it proves wrong. Invariant: two tables never write at the same time.
 */
export class BlobTable {
  readonly #parts: BlobTableParts;
  readonly #blob: BlobRecord;
  #fetching: Fetching | undefined;
  #metaLoading: Promise<Fetching> | undefined;
  #renewing: Promise<void> | undefined;

  constructor(parts: BlobTableParts) {
    this.#parts = parts;
    this.#blob = parts.options.blob;
  }

  /** undefined: not known yet. */
  get current(): Fetching | undefined {
    return this.#fetching;
  }

  /** Loads under way. */
  loads(): (Promise<unknown> | undefined)[] {
    return [this.#metaLoading, this.#renewing];
  }

  async known(limits: WaitLimits): Promise<Fetching> {
    if (this.#fetching !== undefined) return this.#fetching;
    for (;;) {
      this.#metaLoading ??= this.#loadMeta(limits.deadlineAt - performance.now()).finally(() => {
        this.#metaLoading = undefined;
      });
      this.#metaLoading.catch(() => undefined);
      try {
        return await waitFor(this.#metaLoading, limits, `the meta of blob ${this.#blob.id}`);
      } catch (error) {
        // The load ends with the deadline of the caller that began it; this one has time left.
        const again = error instanceof ChunkStoreError && error.code === "CHUNK_DEADLINE" && performance.now() < limits.deadlineAt - 1;
        if (!again || this.#parts.closing.aborted) throw error;
      }
    }
  }

  /** Holds a table without proof against the place that a bootstrap records. @throws ChunkStoreError CHUNK_META */
  #checkPlace(info: ChunkInfo, chunk: number): void {
    const place = this.#parts.options.placeOf?.(chunk);
    if (place === undefined) return;
    if (place.uncompressedOffset === info.uncompressedOffset(chunk) && place.uncompressedSize === info.uncompressedSize(chunk)) return;
    throw new ChunkStoreError("CHUNK_META", `chunk ${chunk} lies elsewhere than the image says`);
  }

  /**
   * Whether another table has replaced the one that led to `error`: where that had no proof, it is fetched anew, once, for all who fail by it.
   */
  async renewed(fetching: Fetching, error: unknown, limits: WaitLimits): Promise<boolean> {
    if (this.#renewing === undefined && this.#fetching === fetching) {
      if (fetching.hearsay === undefined || this.#parts.closing.aborted) return false;
      if (!(error instanceof ChunkStoreError && mendable.has(error.code))) return false;
      const renewing = this.#renew(fetching, fetching.hearsay, limits.deadlineAt - performance.now()).finally(() => {
        this.#renewing = undefined;
      });
      renewing.catch(() => undefined);
      this.#renewing = renewing;
    }
    if (this.#renewing !== undefined) await waitFor(this.#renewing, limits, `the meta of blob ${this.#blob.id}`);
    return this.#fetching !== fetching;
  }

  async #renew(old: Fetching, file: Uint8Array, remainingMs: number): Promise<void> {
    const fresh = await this.#fetchMeta(remainingMs);
    const isSame = Buffer.compare(file, fresh.file) === 0;
    const reason = new ChunkStoreError("CHUNK_META", `blob ${this.#blob.id}: its meta file was not the blob's, and has been replaced`);
    // Whoever waits for the old table's fetches begins again with the new one.
    if (!isSame) old.fetcher.close(reason);
    if (!isSame) await old.store.retire(reason);
    if (this.#parts.closing.aborted) return;
    if (isSame) {
      this.#fetching = { ...old, hearsay: undefined };
      for (let chunk = 0; chunk < this.#blob.chunkCount; chunk++) this.#parts.marks.place(old.info, chunk);
      return;
    }
    for (let chunk = 0; chunk < this.#blob.chunkCount; chunk++) {
      const stays =
        old.info.uncompressedOffset(chunk) === fresh.opened.uncompressedOffset(chunk) &&
        old.info.uncompressedSize(chunk) === fresh.opened.uncompressedSize(chunk);
      if (stays) continue;
      this.#parts.file.map.clear(chunk);
      this.#parts.marks.forget(chunk);
    }
    this.#parts.prefetcher.forget();
    this.know(fresh.opened, undefined);
    this.#parts.options.onWarning?.(
      `cache of blob ${this.#blob.id}: its meta file was damaged, or another blob's, and has been fetched anew`,
    );
  }

  async #loadMeta(remainingMs: number): Promise<Fetching> {
    const { opened } = await this.#fetchMeta(remainingMs);
    return this.know(opened, undefined);
  }

  async #fetchMeta(remainingMs: number): Promise<MetaWithFile> {
    const { directory, backend, metaBlobId } = this.#parts.options;
    const deadlineMs = Math.max(1, remainingMs);
    const read = async (blobId: string, offset: number, length: number): Promise<Uint8Array> => {
      const bytes = await this.#parts.requests.read({
        what: "meta",
        blobId,
        offset,
        length,
        priority: "demand",
        deadlineMs,
        chunkCount: 0,
      });
      this.#parts.counts.metaBytes += length;
      return bytes;
    };
    try {
      const id = metaBlobId ?? recordedMetaBlobId(this.#blob, undefined);
      const limits = { deadlineMs, signal: this.#parts.closing };
      const meta = await readMeta({ blob: this.#blob, metaBlobId: id, backend, read, limits });
      // The readers need not wait for the disk.
      void this.#parts.work.track(keepMeta(directory, this.#blob.id, meta.file));
      return meta;
    } catch (cause) {
      throw this.#parts.requests.asFailure(cause, `meta of blob ${this.#blob.id}`);
    }
  }

  /**
   * Takes chunk info as the blob's.
   *
   * @param hearsay  the bytes of its file, when it came without proof
   * @throws ChunkStoreError CHUNK_META
   */
  know(info: ChunkInfo, hearsay: Uint8Array | undefined): Fetching {
    if (info.count !== this.#blob.chunkCount) {
      throw new ChunkStoreError(
        "CHUNK_META",
        `blob ${this.#blob.id}: chunk info of ${info.count} chunks, its record says ${this.#blob.chunkCount}`,
      );
    }
    const { options, file, requests, work, marks, prefetcher, recorded, closing } = this.#parts;
    const { map } = file;
    const items = new StoredItems(info);
    const onVerified = (chunk: number): void => {
      if (this.#fetching?.hearsay !== undefined) this.#checkPlace(info, chunk);
      // Without proof threads are told only now where it lies.
      marks.place(info, chunk);
    };
    const store = new ItemStore(options, { items, file, closing, onVerified: hearsay === undefined ? undefined : onVerified });
    const isProvable = (chunk: number): boolean => options.digestOf?.(chunk) !== undefined && recorded?.has(chunk) !== false;
    const kept = new KeptChunks({ blobId: this.#blob.id, items, map, store, work, isProvable });
    const parts = {
      options,
      items,
      store,
      requests,
      work,
      closing,
      isReady: (chunk: number) => map.isReady(chunk),
      isPresent: (chunk: number) => map.isReady(chunk) || map.isKept(chunk),
      ask: (chunk: number) => marks.ask(chunk),
      onPrefetched: (item: number) => prefetcher.brought(item, items.end),
    };
    const fetching = { info, items, store, kept, fetcher: new Fetcher(parts, this.#parts.counts), hearsay };
    if (hearsay === undefined) for (let chunk = 0; chunk < info.count; chunk++) marks.place(info, chunk);
    this.#fetching = fetching;
    return fetching;
  }
}

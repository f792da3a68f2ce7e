import { closeSync } from "node:fs";
import { join } from "node:path";
import {
  type BlobRecord,
  type ChunkRecord,
  cacheFileNames,
  hasBlobMeta,
  hasFeature,
  metaBlobId as recordedMetaBlobId,
} from "@nydus-ts/rafs-format";
import type { ReadPriority } from "./backend.ts";
import type { BlobCacheOptions, BlobCacheStats, ChunkSegment, EnsureOptions, PrefetchOptions } from "./blob-cache-options.ts";
import { keepMeta, readCachedMeta, readMeta } from "./blob-meta-source.ts";
import type { ChunkInfo } from "./chunk-info.ts";
import type { ChunkMap } from "./chunk-map.ts";
import { openDataFile, openTar } from "./data-file.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";
import type { FetchClass } from "./fetch-class.ts";
import { FetchQueue, type MergedRange } from "./fetch-queue.ts";
import { readAt } from "./file-io.ts";
import type { Flight } from "./flight.ts";
import { ItemStore } from "./item-store.ts";
import {
  amplifyBytesDefault,
  backgroundDeadlineMs,
  closeDeadlineMs,
  fetchesPerBlobMax,
  prefetchRequestBytesDefault,
  prefetchWindowChunks,
  verifyAheadBytes,
  verifyAheadChunks,
} from "./limits.ts";
import { RecordedChunks } from "./recorded-chunks.ts";
import { type FetchLane, type FetchRequest, type FetchScheduler, processScheduler } from "./scheduler.ts";
import { SequenceDetector } from "./sequence.ts";
import { StoredItems } from "./stored-items.ts";
import { SyncQueue } from "./sync-queue.ts";
import { type WaitLimits, waitFor } from "./wait.ts";

const unknownOffset = 0xffffffff;

/** What is known once the chunk info is there. */
interface Fetching {
  readonly info: ChunkInfo;
  readonly items: StoredItems;
  readonly queue: FetchQueue;
  readonly store: ItemStore;
  readonly lane: FetchLane;
}

/** A fetch that nobody waited for when it was sent has failed; `cause` says how. */
class BackgroundFailure extends Error {}

/**
 * One blob as a local cache. Invariants: a set bit of `ready` means verified data in the data file; an item has at most one flight,
 * however many callers wait for it; a flight that failed leaves its item absent; nothing but `loadMeta` and flights touches the network.
 *
 * It stays one file: it is the state machine that joins map, queue and store, which are files of their own.
 */
export class BlobCache implements AsyncDisposable {
  readonly blob: BlobRecord;
  readonly dataFd: number;
  readonly chunkCount: number;
  /** Bit i & 31 of word i >> 5: the chunk's verified data is in the data file. Shared memory. */
  readonly ready: Int32Array<SharedArrayBuffer>;
  /** Two words a chunk: uncompressed offset / 4096 (0xffffffff: not known yet), uncompressed size. Shared memory. */
  readonly layout: Uint32Array<SharedArrayBuffer>;
  /** Bits as in `ready`: somebody has read the chunk, or waited for it, since the cache was opened. Shared memory: who reads `dataFd` sets them. */
  readonly touched: Int32Array<SharedArrayBuffer>;
  /** A tarfs blob: `dataFd` is the tar itself, in blocks of 512 bytes, always ready. */
  readonly direct: boolean;
  readonly #options: BlobCacheOptions;
  readonly #map: ChunkMap | undefined;
  readonly #sync: SyncQueue | undefined;
  readonly #scheduler: FetchScheduler;
  readonly #sequences = new SequenceDetector();
  readonly #closing = new AbortController();
  /** Requests and verifications under way; each may still use the data file. */
  readonly #running = new Set<Promise<void>>();
  /** Chunks of an earlier run that are being verified. */
  readonly #verifying = new Map<number, Promise<void>>();
  readonly #paths: readonly string[];
  /** Items that prefetch brought. */
  readonly #prefetched = new Set<number>();
  readonly #counts = {
    total: 0,
    hits: 0,
    fetchRequests: 0,
    fetchErrors: 0,
    demandBytes: 0,
    widenedBytes: 0,
    prefetchBytes: 0,
    metaBytes: 0,
    prefetchRequests: 0,
    prefetchChunks: 0,
    prefetchActive: 0,
    prefetchMillis: 0,
    prefetchBeginMs: 0,
    prefetchEndMs: 0,
  };
  /** Chunk info of a blob without blob meta. */
  readonly #recorded: RecordedChunks | undefined;
  #fetching: Fetching | undefined;
  #metaLoading: Promise<Fetching> | undefined;
  #closed: Promise<void> | undefined;

  private constructor(options: BlobCacheOptions, file: { fd: number; path: string; map: ChunkMap | undefined }) {
    const { blob, directory } = options;
    this.#options = options;
    this.blob = blob;
    this.dataFd = file.fd;
    this.#map = file.map;
    this.direct = file.map === undefined;
    this.chunkCount = blob.chunkCount;
    this.ready = file.map?.ready ?? new Int32Array(new SharedArrayBuffer(0));
    this.touched = new Int32Array(new SharedArrayBuffer(this.ready.byteLength));
    this.layout = new Uint32Array(new SharedArrayBuffer(this.direct ? 0 : blob.chunkCount * 8));
    for (let at = 0; at < this.layout.length; at += 2) this.layout[at] = unknownOffset;
    this.#sync = file.map === undefined ? undefined : new SyncQueue(file.fd, file.map, (error, chunks) => this.#notDurable(error, chunks));
    this.#scheduler = options.scheduler ?? processScheduler;
    if (!this.direct && !hasBlobMeta(blob)) this.#recorded = new RecordedChunks(blob);
    const names = cacheFileNames(blob.id);
    const paths = [file.path, join(directory, names.chunkMap), join(directory, names.meta), join(directory, names.metaDigest)];
    this.#paths = this.direct ? [file.path] : paths;
  }

  /**
   * Opens or creates the cache files of a blob, in the original's layout. Never uses the network: blob meta comes from its cache file, or
   * is fetched by the first call that needs it.
   *
   * @throws ChunkStoreError CHUNK_CACHE (folder or files can't be used), CHUNK_META (`chunkRecords` contradict each other or the blob)
   * Source: spec/rafs.md 8
   */
  static async open(options: BlobCacheOptions): Promise<BlobCache> {
    const { blob, directory } = options;
    if (hasFeature(blob, "tarfs")) return new BlobCache(options, { ...(await openTar(directory, blob.id)), map: undefined });
    const cache = new BlobCache(options, await openDataFile(directory, blob));
    try {
      if (hasBlobMeta(blob)) {
        const info = await readCachedMeta(directory, blob);
        if (info !== undefined) cache.#know(info);
      } else cache.addChunkRecords(options.chunkRecords ?? []);
      return cache;
    } catch (error) {
      await cache[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Paths of the cache files. */
  files(): readonly string[] {
    return this.#paths;
  }

  /**
   * Takes over what another image records of a blob without blob meta; a blob with blob meta needs no records.
   *
   * @throws ChunkStoreError CHUNK_META when it contradicts what an image before recorded; then nothing of it is taken
   */
  addChunkRecords(records: Iterable<ChunkRecord>): void {
    if (this.#recorded === undefined) return;
    const added = this.#recorded.add(records);
    if (this.#fetching === undefined) this.#know(this.#recorded);
    else for (const chunk of added) this.#place(this.#recorded, chunk);
  }

  /** Makes sure that it is known where chunks lie: `layout` is filled. @throws ChunkStoreError CHUNK_META, CHUNK_DEADLINE */
  async loadMeta(options: { readonly deadlineMs: number; readonly signal?: AbortSignal | undefined }): Promise<void> {
    if (!this.direct) await this.#known({ deadlineAt: performance.now() + options.deadlineMs, signal: options.signal });
  }

  /**
   * Makes chunks ready, fetching those that are not. Callers that want the same chunk share one fetch.
   *
   * @param chunks  chunk indexes, in any order
   * @throws ChunkStoreError CHUNK_RANGE, CHUNK_DIGEST, CHUNK_DECODE, CHUNK_BACKEND, CHUNK_DEADLINE, CHUNK_META, CHUNK_CLOSED;
   *   CHUNK_NO_SPACE when the data came but the disk would not take it: `readInto` hands it out all the same
   */
  async ensure(chunks: readonly number[], options: EnsureOptions): Promise<void> {
    const unstored = await this.#bring(chunks, options);
    if (unstored !== undefined) throw this.#noSpace(unstored);
  }

  #noSpace(chunk: number): ChunkStoreError {
    const text = `blob ${this.blob.id}: chunk ${chunk} could not be written to the cache; free space in ${this.#options.directory}`;
    return new ChunkStoreError("CHUNK_NO_SPACE", text);
  }

  /** Copies pieces of chunks into `target`, fetching what is absent; works while the cache disk is full. Throws as `ensure`, but for CHUNK_NO_SPACE. */
  async readInto(target: Uint8Array, segments: readonly ChunkSegment[], options: EnsureOptions): Promise<void> {
    await this.#bring([...new Set(segments.map(({ chunk }) => chunk))], options);
    for (const { chunk, offset, length, targetOffset } of segments) {
      const { info, store } = this.#fetching as Fetching;
      const piece = target.subarray(targetOffset, targetOffset + length);
      if (this.#isReady(chunk)) {
        if ((await readAt(this.dataFd, piece, info.uncompressedOffset(chunk) + offset)) === length) continue;
        throw new ChunkStoreError("CHUNK_CACHE", `${this.#paths[0]}: shorter than the blob; remove it while no image uses it`);
      }
      const data = store.unstored(chunk);
      if (data === undefined)
        throw new ChunkStoreError("CHUNK_NO_SPACE", `blob ${this.blob.id}: chunk ${chunk} fits neither disk nor memory`);
      piece.set(data.subarray(offset, offset + length));
    }
  }

  /** Fetches chunks nobody waits for yet, yielding to those somebody waits for. Rejects with the first failure (a full disk is one) or the signal's reason. */
  async prefetch(chunks: readonly number[] | "all", options: PrefetchOptions = {}): Promise<void> {
    if (this.direct) return;
    const counts = this.#counts;
    const begin = Date.now();
    if (counts.prefetchBeginMs === 0) counts.prefetchBeginMs = begin;
    counts.prefetchActive++;
    try {
      await this.loadMeta({ deadlineMs: backgroundDeadlineMs, signal: options.signal });
      const everything = Array.from({ length: chunks === "all" ? this.chunkCount : 0 }, (_, index) => index);
      const list = chunks === "all" ? everything.filter((chunk) => this.#recorded?.has(chunk) ?? true) : chunks;
      for (let at = 0; at < list.length; at += prefetchWindowChunks) {
        options.signal?.throwIfAborted();
        const window = list.slice(at, at + prefetchWindowChunks).filter((chunk) => !this.#isPresent(chunk));
        if (window.length === 0) continue;
        counts.prefetchChunks += window.length;
        const before = counts.prefetchBytes;
        const unstored = await this.#bring(window, { deadlineMs: backgroundDeadlineMs * 10, signal: options.signal, priority: "prefetch" });
        if (unstored !== undefined) throw this.#noSpace(unstored);
        const pauseMs = options.bandwidth ? ((counts.prefetchBytes - before) / options.bandwidth) * 1000 : 0;
        if (pauseMs >= 1) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      }
    } finally {
      counts.prefetchActive--;
      counts.prefetchEndMs = Date.now();
      counts.prefetchMillis += counts.prefetchEndMs - begin;
    }
  }

  stats(): BlobCacheStats {
    const store = this.#fetching?.store.counts;
    return {
      ...this.#counts,
      prefetchUsedBytes: this.#prefetchUsedBytes(),
      chunkCount: this.chunkCount,
      readyCount: this.#map === undefined ? this.chunkCount : this.#map.readyCount + this.#map.keptCount,
      entriesCount: store?.stored ?? 0,
      bufferedBytes: store?.bufferedBytes ?? 0,
      verifyFailures: store?.verifyFailures ?? 0,
      unverifiedChunks: store?.unverified ?? 0,
      unstoredChunks: store?.unstored ?? 0,
      damagedChunks: store?.damaged ?? 0,
      inFlight: this.#fetching?.queue.size ?? 0,
    };
  }

  #prefetchUsedBytes(): number {
    const items = this.#fetching?.items;
    if (items === undefined) return 0;
    const isTouched = (chunk: number): boolean => ((Atomics.load(this.touched, chunk >> 5) >>> (chunk & 31)) & 1) === 1;
    let bytes = 0;
    for (const item of this.#prefetched) if (items.members(item).some(isTouched)) bytes += items.storedSize(item);
    return bytes;
  }

  /** Ends fetches, makes durable what was written, closes the files; they stay on disk. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const reason = new ChunkStoreError("CHUNK_CLOSED", `blob ${this.blob.id}: its cache was closed`);
    this.#closing.abort(reason);
    for (const flight of this.#fetching?.queue.all() ?? []) this.#fail(flight, reason);
    if (this.#fetching !== undefined) this.#scheduler.remove(this.#fetching.lane);
    const limits = { deadlineAt: performance.now() + closeDeadlineMs };
    // The sync waits for the fetches: what they wrote before the end began is to be durable as well.
    const quiet = Promise.allSettled([...this.#running, this.#metaLoading]).then(() => this.#sync?.flush());
    // A number that is given back may name a stranger's file the next moment: whoever still writes keeps it, however long that takes.
    const closed = quiet.then(() => this.#closeFiles());
    await waitFor(closed, limits, "fetches and the last sync to end").catch((error: unknown) => {
      if (!(error instanceof ChunkStoreError && error.code === "CHUNK_DEADLINE")) throw error;
      this.#options.onWarning?.(
        `cache ${this.#paths[0]}: still busy ${closeDeadlineMs / 1000} s after it was told to close; its files close later`,
      );
    });
  }

  /** A failing disk costs fetching again, now or after a restart; it must not pass without a word. */
  #notDurable(error: Error, chunks: readonly number[]): void {
    const lost = chunks.length > 0 ? `${chunks.length} chunks are fetched again` : "chunks are fetched again after a restart";
    this.#options.onWarning?.(`cache ${this.#paths[0]}: not written for good (${describeCause(error)}), ${lost}; look at the disk`);
  }

  #closeFiles(): void {
    this.#map?.close();
    closeSync(this.dataFd);
  }

  #isReady(chunk: number): boolean {
    return this.#map === undefined || this.#map.isReady(chunk);
  }

  /** Ready, or there since an earlier run and verified when somebody reads it: no reason to fetch it for later. */
  #isPresent(chunk: number): boolean {
    return this.#isReady(chunk) || this.#map?.isKept(chunk) === true;
  }

  /** @returns a chunk that came but could not be stored, if any */
  async #bring(chunks: readonly number[], options: EnsureOptions): Promise<number | undefined> {
    if (this.#closed !== undefined) throw this.#closing.signal.reason;
    this.#counts.total++;
    if (this.direct) return undefined;
    for (const chunk of chunks) {
      if (Number.isInteger(chunk) && chunk >= 0 && chunk < this.chunkCount) continue;
      throw new ChunkStoreError("CHUNK_RANGE", `blob ${this.blob.id} has no chunk ${chunk}, only ${this.chunkCount}`);
    }
    const unknown = this.#recorded === undefined ? undefined : chunks.find((chunk) => !this.#recorded?.has(chunk));
    if (unknown !== undefined)
      throw new ChunkStoreError("CHUNK_RANGE", `blob ${this.blob.id}: no image records where chunk ${unknown} lies`);
    const limits = { deadlineAt: performance.now() + options.deadlineMs, signal: options.signal };
    const fetching = await this.#known(limits);
    const kind: FetchClass = options.priority ?? "demand";
    if (kind === "demand") for (const chunk of chunks) Atomics.or(this.touched, chunk >> 5, 1 << (chunk & 31));
    let missing = chunks.filter((chunk) => !this.#isReady(chunk));
    if (missing.some((chunk) => this.#map?.isKept(chunk))) {
      await this.#verifyKept(fetching, missing, limits);
      missing = missing.filter((chunk) => !this.#isReady(chunk));
    }
    if (missing.length === 0) this.#counts.hits++;
    else if (kind === "demand") this.#widenLater(fetching, missing, options.sequentialBytes);
    let unstored: number | undefined;
    while (missing.length > 0) {
      const kept = missing.filter((chunk) => fetching.store.unstored(chunk) !== undefined);
      unstored ??= kept[0];
      missing = missing.filter((chunk) => !kept.includes(chunk));
      if (missing.length === 0) break;
      const wanted = missing;
      try {
        await this.#fly(fetching, [...new Set(wanted.map((chunk) => fetching.items.itemOf(chunk)))], kind, limits);
        missing = missing.filter((chunk) => !this.#isReady(chunk));
        // What is still absent came and could not be stored; it may have been pushed out of memory again by others.
        unstored ??= missing[0];
        break;
      } catch (error) {
        // A flight ends with the deadline of callers before this one, and a background one after few attempts: this one has time left and
        // tries itself.
        const background = error instanceof BackgroundFailure;
        const late = error instanceof ChunkStoreError && error.code === "CHUNK_DEADLINE";
        const again = (background || late) && performance.now() < limits.deadlineAt - 1;
        if (!again || this.#closed !== undefined) throw background ? error.cause : error;
        missing = missing.filter((chunk) => !this.#isReady(chunk));
      }
    }
    return unstored;
  }

  /** Verifies what an earlier run left of these chunks; what proves to be damaged is absent then. Callers of one chunk share the work. */
  async #verifyKept({ info, store }: Fetching, chunks: readonly number[], limits: WaitLimits): Promise<void> {
    const verify = (chunk: number): Promise<void> | undefined => {
      if (this.#map?.isKept(chunk) !== true) return undefined;
      let verifying = this.#verifying.get(chunk);
      if (verifying === undefined) {
        verifying = store.verifyKept(chunk).then(() => undefined);
        this.#verifying.set(chunk, verifying);
        const ended = verifying.catch(() => undefined).finally(() => this.#verifying.delete(chunk));
        void this.#track(ended);
      }
      return verifying;
    };
    const wanted = chunks.map(verify);
    // Those behind them too, without anybody waiting: a tree of small files is read in the order of its chunks, and each hand-over to this
    // thread costs more than its digest (10,700 files: 5.4 s instead of 1.1). Only what a digest can prove: an image that is mounted later
    // may know the digest, or the place, that none knows now.
    let bytes = 0;
    const last = Math.max(...chunks);
    for (let chunk = last + 1; chunk <= last + verifyAheadChunks && chunk < this.chunkCount; chunk++) {
      bytes += info.uncompressedSize(chunk);
      if (bytes > verifyAheadBytes || this.#verifying.size > verifyAheadChunks) break;
      if (this.#options.digestOf?.(chunk) !== undefined && this.#recorded?.has(chunk) !== false) verify(chunk);
    }
    await waitFor(Promise.all(wanted), limits, `the disk of the cache of blob ${this.blob.id}`);
  }

  /** Waits for the flights of items, new or under way. */
  async #fly({ queue }: Fetching, items: readonly number[], kind: FetchClass, limits: WaitLimits): Promise<void> {
    if (queue.size + items.length > fetchesPerBlobMax) {
      throw new ChunkStoreError("CHUNK_BACKEND", `blob ${this.blob.id}: ${queue.size} fetches wait already; its host is too slow`);
    }
    const flights = items.map((item) => queue.join(item, kind));
    for (const flight of flights) {
      flight.waiters++;
      flight.deadlineAt = Math.max(flight.deadlineAt, limits.deadlineAt);
    }
    this.#scheduler.poke();
    const land = async (flight: Flight): Promise<void> => {
      try {
        await waitFor(flight.done, limits, `blob ${this.blob.id} [${flight.offset}..${flight.offset + flight.length})`);
      } catch (cause) {
        throw kind === "demand" && flight.kind !== "demand" && flight.settled ? new BackgroundFailure("", { cause }) : cause;
      }
    };
    try {
      await Promise.all(flights.map(land));
    } finally {
      for (const flight of flights) {
        flight.waiters--;
        // Nobody wants it any more and nothing was sent: out of the line.
        if (flight.waiters === 0 && !flight.running && !flight.settled)
          this.#fail(flight, new ChunkStoreError("CHUNK_DEADLINE", "given up by all readers"));
      }
    }
  }

  /** Fetches on behind a sequential reader, up to `amplifyBytesMax` stored bytes; the reader does not wait for it. */
  #widenLater({ info, items, queue }: Fetching, missing: readonly number[], hint: number | undefined): void {
    const isPresent = (chunk: number): boolean => this.#isPresent(chunk);
    let found = 0;
    for (const chunk of missing) found = Math.max(found, this.#sequences.note(chunk, info.compressedSize(chunk), isPresent));
    let budget = Math.min(hint ?? found, this.#options.amplifyBytesMax ?? amplifyBytesDefault);
    let item = Math.max(...missing.map((chunk) => items.itemOf(chunk))) + 1;
    for (; budget > 0 && item < items.end; item++) {
      if (items.storedOffset(item) < 0) continue;
      if (items.contextOf(item) >= 0 !== items.contextOf(item - 1) >= 0) return;
      budget -= items.storedSize(item);
      if (budget >= 0 && queue.get(item) === undefined && items.members(item).some((chunk) => !isPresent(chunk))) {
        queue.join(item, "ahead");
      }
    }
  }

  async #track(work: Promise<void>): Promise<void> {
    this.#running.add(work);
    await work;
    this.#running.delete(work);
  }

  async #run(fetching: Fetching, range: MergedRange, kind: FetchClass): Promise<void> {
    const { offset, length, flights } = range;
    const priority: ReadPriority = kind === "demand" ? "demand" : "prefetch";
    const now = performance.now();
    const latest = Math.max(...flights.map(({ deadlineAt }) => deadlineAt)) - now;
    const deadlineMs = Math.max(1, kind === "demand" ? latest : backgroundDeadlineMs);
    const chunkCount = flights.length;
    const demanded = kind === "demand" ? undefined : new AbortController();
    if (demanded !== undefined) for (const flight of flights) flight.onDemand = () => demanded.abort();
    try {
      const request = { offset, length, priority, deadlineMs, chunkCount, demanded: demanded?.signal };
      const stored = await this.#read("chunks", this.blob.id, request);
      this.#counts[kind === "demand" ? "demandBytes" : kind === "ahead" ? "widenedBytes" : "prefetchBytes"] += length;
      if (kind === "prefetch") this.#counts.prefetchRequests++;
      for (const flight of flights) {
        const at = flight.offset - offset;
        await this.#land(fetching, flight, stored.subarray(at, at + flight.length));
      }
    } catch (error) {
      for (const flight of flights) this.#fail(flight, error as Error);
    }
  }

  async #land({ queue, store }: Fetching, flight: Flight, stored: Uint8Array): Promise<void> {
    try {
      const unstored = await store.store(flight.item, stored, queue.size > 1);
      queue.drop(flight);
      if (flight.kind === "prefetch") this.#prefetched.add(flight.item);
      flight.resolve(unstored);
    } catch (error) {
      if (store.mayRetry(error) && flight.retries < store.retriesMax && this.#closed === undefined) {
        flight.retries++;
        queue.requeue(flight);
        this.#scheduler.poke();
        return;
      }
      this.#fail(flight, error as Error);
    }
  }

  #fail(flight: Flight, error: Error): void {
    this.#fetching?.queue.drop(flight);
    if (!flight.settled) flight.reject(error);
  }

  async #read(
    what: "chunks" | "meta",
    blobId: string,
    request: {
      offset: number;
      length: number;
      priority: ReadPriority;
      deadlineMs: number;
      chunkCount: number;
      demanded?: AbortSignal | undefined;
    },
  ): Promise<Uint8Array> {
    const { offset, length, priority, deadlineMs, chunkCount, demanded } = request;
    const begin = performance.now();
    this.#counts.fetchRequests++;
    let failure: Error | undefined;
    try {
      const options = { deadlineMs, priority, signal: this.#closing.signal, ...(demanded === undefined ? {} : { demanded }) };
      const bytes = await this.#options.backend.read(blobId, { offset, length }, options);
      if (bytes.length === length) return bytes;
      throw new ChunkStoreError("CHUNK_BACKEND", `blob ${blobId}: ${bytes.length} bytes came, ${length} were asked for`);
    } catch (cause) {
      this.#counts.fetchErrors++;
      failure = this.#asFailure(cause, `blob ${blobId} [${offset}..${offset + length})`);
      throw failure;
    } finally {
      const event = { blobId, what, priority, offset, length, chunkCount, durationMs: performance.now() - begin };
      this.#options.onFetch?.(failure === undefined ? event : { ...event, error: failure });
    }
  }

  #asFailure(cause: unknown, where: string): Error {
    if (cause instanceof ChunkStoreError) return cause;
    if (this.#closing.signal.aborted) return this.#closing.signal.reason as Error;
    const code = (cause as { code?: unknown }).code;
    const late = typeof code === "string" && code.endsWith("_DEADLINE");
    return new ChunkStoreError(late ? "CHUNK_DEADLINE" : "CHUNK_BACKEND", `${where}: ${describeCause(cause)}`, { cause });
  }

  async #known(limits: WaitLimits): Promise<Fetching> {
    if (this.#fetching !== undefined) return this.#fetching;
    for (;;) {
      this.#metaLoading ??= this.#loadMeta(limits.deadlineAt - performance.now()).finally(() => {
        this.#metaLoading = undefined;
      });
      this.#metaLoading.catch(() => undefined);
      try {
        return await waitFor(this.#metaLoading, limits, `the meta of blob ${this.blob.id}`);
      } catch (error) {
        // The load ends with the deadline of the caller that began it; this one has time left.
        const again = error instanceof ChunkStoreError && error.code === "CHUNK_DEADLINE" && performance.now() < limits.deadlineAt - 1;
        if (!again || this.#closed !== undefined) throw error;
      }
    }
  }

  async #loadMeta(remainingMs: number): Promise<Fetching> {
    const { directory, backend, metaBlobId } = this.#options;
    const deadlineMs = Math.max(1, remainingMs);
    const read = async (blobId: string, offset: number, length: number): Promise<Uint8Array> => {
      const request = { offset, length, priority: "demand", deadlineMs, chunkCount: 0 } as const;
      const bytes = await this.#read("meta", blobId, request);
      this.#counts.metaBytes += length;
      return bytes;
    };
    try {
      const id = metaBlobId ?? recordedMetaBlobId(this.blob, undefined);
      const limits = { deadlineMs, signal: this.#closing.signal };
      const { opened, file } = await readMeta({ blob: this.blob, metaBlobId: id, backend, read, limits });
      // The readers need not wait for the disk.
      void this.#track(keepMeta(directory, this.blob.id, file));
      return this.#know(opened);
    } catch (cause) {
      throw this.#asFailure(cause, `meta of blob ${this.blob.id}`);
    }
  }

  #know(info: ChunkInfo): Fetching {
    if (info.count !== this.chunkCount) {
      throw new ChunkStoreError(
        "CHUNK_META",
        `blob ${this.blob.id}: chunk info of ${info.count} chunks, its record says ${this.chunkCount}`,
      );
    }
    const items = new StoredItems(info);
    const queue = new FetchQueue(items, this.#options.prefetchRequestBytesMax ?? prefetchRequestBytesDefault);
    const lane: FetchLane = {
      has: (kind) => queue.has(kind),
      take: (kind): FetchRequest => {
        const range = queue.take(kind);
        return { bytes: range.length, run: () => this.#track(this.#run(fetching, range, kind)) };
      },
    };
    const store = new ItemStore(
      this.#options,
      items,
      { fd: this.dataFd, map: this.#map as ChunkMap, sync: this.#sync as SyncQueue },
      this.#closing.signal,
    );
    const fetching: Fetching = { info, items, queue, lane, store };
    for (let chunk = 0; chunk < info.count; chunk++) this.#place(info, chunk);
    this.#scheduler.add(lane);
    this.#fetching = fetching;
    return fetching;
  }

  /** Tells threads where a chunk lies. */
  #place(info: ChunkInfo, chunk: number): void {
    const offset = info.uncompressedOffset(chunk);
    if (offset < 0) return;
    this.layout[2 * chunk + 1] = info.uncompressedSize(chunk);
    // Last, so that a thread that sees the offset sees the size.
    Atomics.store(this.layout, 2 * chunk, Math.floor(offset / 4096));
  }
}

import { closeSync } from "node:fs";
import { join } from "node:path";
import { type BlobRecord, type ChunkRecord, cacheFileNames, hasBlobMeta, hasFeature } from "@nydus-ts/rafs-format";
import type { BlobCacheOptions, BlobCacheStats, ChunkSegment, EnsureOptions, PrefetchOptions } from "./blob-cache-options.ts";
import { readCachedMeta } from "./blob-meta-source.ts";
import { BlobRequests } from "./blob-requests.ts";
import { BlobTable, type Fetching } from "./blob-table.ts";
import type { ChunkMap } from "./chunk-map.ts";
import { ChunkMarks } from "./chunk-marks.ts";
import { openDataFile, openTar } from "./data-file.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";
import { readAt } from "./file-io.ts";
import { backgroundDeadlineMs, closeDeadlineMs } from "./limits.ts";
import { Prefetcher } from "./prefetcher.ts";
import { RecordedChunks } from "./recorded-chunks.ts";
import { RunningWork } from "./running-work.ts";
import { SyncQueue } from "./sync-queue.ts";
import { type WaitLimits, waitFor } from "./wait.ts";

/**
 * One blob as a local cache. Invariants: a set bit of `ready` means verified data in the data file; nothing but `loadMeta` and the
 * fetcher touches the network; files are closed after whoever uses them.
 *
 * It is the life of a cache, from opening over its chunk info to closing, and joins what have files of their own: map, marks, fetching,
 * verification of what is kept, prefetch.
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
  /** Bits as in `ready`: whoever reads the chunk first (its `touched` bit was clear) tells `readOn`. Shared memory. */
  readonly asked: Int32Array<SharedArrayBuffer>;
  /** A tarfs blob: `dataFd` is the tar itself, in blocks of 512 bytes, always ready. */
  readonly direct: boolean;
  readonly #options: BlobCacheOptions;
  readonly #map: ChunkMap | undefined;
  readonly #sync: SyncQueue | undefined;
  readonly #closing = new AbortController();
  readonly #requests: BlobRequests;
  readonly #work = new RunningWork();
  readonly #marks: ChunkMarks;
  readonly #prefetcher = new Prefetcher();
  readonly #paths: readonly string[];
  readonly #counts = { total: 0, hits: 0, demandBytes: 0, widenedBytes: 0, prefetchBytes: 0, metaBytes: 0, prefetchRequests: 0 };
  /** Chunk info of a blob without blob meta. */
  readonly #recorded: RecordedChunks | undefined;
  /** undefined: a tarfs blob. */
  readonly #table: BlobTable | undefined;
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
    this.#marks = new ChunkMarks(this.direct ? 0 : blob.chunkCount);
    this.touched = this.#marks.touched;
    this.layout = this.#marks.layout;
    this.asked = this.#marks.asked;
    this.#requests = new BlobRequests(options, this.#closing.signal);
    this.#sync = file.map === undefined ? undefined : new SyncQueue(file.fd, file.map, (error, chunks) => this.#notDurable(error, chunks));
    if (!this.direct && !hasBlobMeta(blob)) this.#recorded = new RecordedChunks(blob);
    this.#table = this.#openTable();
    const names = cacheFileNames(options.cacheName ?? blob.id);
    const paths = [file.path, join(directory, names.chunkMap), join(directory, names.meta), join(directory, names.metaDigest)];
    this.#paths = this.direct ? [file.path] : paths;
  }

  #openTable(): BlobTable | undefined {
    if (this.#map === undefined || this.#sync === undefined) return undefined;
    return new BlobTable({
      options: this.#options,
      file: { fd: this.dataFd, map: this.#map, sync: this.#sync },
      requests: this.#requests,
      work: this.#work,
      marks: this.#marks,
      prefetcher: this.#prefetcher,
      counts: this.#counts,
      recorded: this.#recorded,
      closing: this.#closing.signal,
    });
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
    const cache = new BlobCache(options, await openDataFile(directory, blob, options.cacheName));
    try {
      if (hasBlobMeta(blob)) {
        const kept = await readCachedMeta(directory, blob);
        if (kept !== undefined) cache.#table?.know(kept.opened, kept.proven ? undefined : kept.file);
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
    if (this.#table?.current === undefined) this.#table?.know(this.#recorded, undefined);
    else for (const chunk of added) this.#marks.place(this.#recorded, chunk);
  }

  /** Makes sure that it is known where chunks lie. `layout` is filled; from a table without proof, with each chunk that is verified. @throws ChunkStoreError CHUNK_META, CHUNK_DEADLINE */
  async loadMeta(options: { readonly deadlineMs: number; readonly signal?: AbortSignal | undefined }): Promise<void> {
    await this.#table?.known({ deadlineAt: performance.now() + options.deadlineMs, signal: options.signal });
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
      if (this.#table?.current === undefined) throw new TypeError("a blob that is its own cache is read from dataFd");
      const { info, store } = this.#table.current;
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
    const source = {
      isPresent: (chunk: number) => this.#isPresent(chunk),
      bytes: () => this.#counts.prefetchBytes,
      bring: async (window: readonly number[], signal: AbortSignal | undefined): Promise<void> => {
        const unstored = await this.#bring(window, { deadlineMs: backgroundDeadlineMs * 10, signal, priority: "prefetch" });
        if (unstored !== undefined) throw this.#noSpace(unstored);
      },
    };
    await this.#prefetcher.count(async () => {
      await this.loadMeta({ deadlineMs: backgroundDeadlineMs, signal: options.signal });
      const everything = Array.from({ length: chunks === "all" ? this.chunkCount : 0 }, (_, index) => index);
      const list = chunks === "all" ? everything.filter((chunk) => this.#recorded?.has(chunk) ?? true) : chunks;
      await this.#prefetcher.run(list, source, options);
    });
  }

  /**
   * Begins to fetch chunks that a reader will want soon, in the given order; at most 2 MiB of stored bytes, and nothing where
   * `amplifyBytesMax` is 0 or the chunk info has not come yet. What fails is fetched by whoever reads it.
   */
  fetchAhead(chunks: readonly number[]): void {
    if (this.direct || this.#closed !== undefined) return;
    const known = (chunk: number): boolean => chunk >= 0 && chunk < this.chunkCount && this.#recorded?.has(chunk) !== false;
    this.#table?.current?.fetcher.fetchAhead(chunks.filter(known));
  }

  /**
   * A reader in order has come to a chunk whose `asked` bit is set: more is fetched ahead of it, before it has to wait.
   *
   * @param sequentialBytes  as in `EnsureOptions`
   */
  readOn(chunk: number, sequentialBytes: number): void {
    if (this.direct || this.#closed !== undefined) return;
    this.#table?.current?.fetcher.readOn(chunk, sequentialBytes);
  }

  stats(): BlobCacheStats {
    const { store: { counts: store } = {}, items, fetcher } = this.#table?.current ?? {};
    const used = items === undefined ? 0 : this.#prefetcher.usedBytes(items, (chunk) => this.#marks.isTouched(chunk));
    return {
      ...this.#counts,
      ...this.#requests.counts,
      ...this.#prefetcher.counts,
      prefetchUsedBytes: used,
      chunkCount: this.chunkCount,
      readyCount: this.#map === undefined ? this.chunkCount : this.#map.readyCount + this.#map.keptCount,
      entriesCount: store?.stored ?? 0,
      bufferedBytes: store?.bufferedBytes ?? 0,
      verifyFailures: store?.verifyFailures ?? 0,
      unverifiedChunks: store?.unverified ?? 0,
      unstoredChunks: store?.unstored ?? 0,
      damagedChunks: store?.damaged ?? 0,
      inFlight: fetcher?.inFlight ?? 0,
    };
  }

  /** Ends fetches, makes durable what was written, closes the files; they stay on disk. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close({ processEnds: false });
  }

  /**
   * As `asyncDispose`. With `processEnds` nobody waits for the disk, where digests prove what it keeps when it is read next: what was written
   * is the kernel's, and a sync under way keeps its descriptor.
   */
  close(options: { readonly processEnds: boolean }): Promise<void> {
    this.#closed ??= this.#close(options.processEnds && this.#options.validate !== false);
    return this.#closed;
  }

  async #close(hurried: boolean): Promise<void> {
    const reason = new ChunkStoreError("CHUNK_CLOSED", `blob ${this.blob.id}: its cache was closed`);
    this.#closing.abort(reason);
    this.#table?.current?.fetcher.close(reason);
    const limits = { deadlineAt: performance.now() + closeDeadlineMs };
    const isProvable = (chunk: number): boolean => this.#options.digestOf?.(chunk) !== undefined;
    // The sync waits for the fetches: what they wrote before the end began is to be durable as well.
    const quiet = Promise.allSettled([...this.#work.all(), ...(this.#table?.loads() ?? [])]).then(() =>
      hurried ? this.#sync?.handOver(isProvable) : this.#sync?.flush(),
    );
    // A number that is given back may name a stranger's file the next moment: whoever still writes keeps it, however long that takes.
    const closed = quiet.then(() => {
      if (this.#sync?.isSyncing !== true) this.#closeFiles();
    });
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
    if (this.#table === undefined) return undefined;
    for (const chunk of chunks) {
      if (Number.isInteger(chunk) && chunk >= 0 && chunk < this.chunkCount) continue;
      throw new ChunkStoreError("CHUNK_RANGE", `blob ${this.blob.id} has no chunk ${chunk}, only ${this.chunkCount}`);
    }
    const unknown = this.#recorded === undefined ? undefined : chunks.find((chunk) => !this.#recorded?.has(chunk));
    if (unknown !== undefined)
      throw new ChunkStoreError("CHUNK_RANGE", `blob ${this.blob.id}: no image records where chunk ${unknown} lies`);
    const limits = { deadlineAt: performance.now() + options.deadlineMs, signal: options.signal };
    if (options.priority !== "prefetch") for (const chunk of chunks) this.#marks.touch(chunk);
    for (;;) {
      const fetching = await this.#table.known(limits);
      try {
        return await this.#bringWith(fetching, chunks, options, limits);
      } catch (error) {
        if (!(await this.#table.renewed(fetching, error, limits))) throw error;
      }
    }
  }

  async #bringWith(fetching: Fetching, chunks: readonly number[], options: EnsureOptions, limits: WaitLimits): Promise<number | undefined> {
    const { kept, fetcher } = fetching;
    const kind = options.priority ?? "demand";
    let missing = chunks.filter((chunk) => !this.#isReady(chunk));
    if (missing.some((chunk) => this.#map?.isKept(chunk))) {
      await kept.verify(missing, limits);
      missing = missing.filter((chunk) => !this.#isReady(chunk));
    }
    if (missing.length === 0) this.#counts.hits++;
    else if (kind === "demand") fetcher.widenLater(missing, options.sequentialBytes);
    return fetcher.fetch(missing, kind, limits, options.onVerified);
  }
}

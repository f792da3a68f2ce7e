import type { BlobCacheOptions } from "./blob-cache-options.ts";
import type { BlobRequests } from "./blob-requests.ts";
import { chunkBuffers } from "./buffer-pool.ts";
import { ChunkStoreError } from "./errors.ts";
import type { FetchClass } from "./fetch-class.ts";
import { FetchQueue, type MergedRange } from "./fetch-queue.ts";
import type { Flight, OnVerified } from "./flight.ts";
import type { ItemStore } from "./item-store.ts";
import {
  amplifyBytesDefault,
  backgroundDeadlineMs,
  fetchAheadBytesMax,
  fetchesPerBlobMax,
  longRunAheadBytesMax,
  longRunAmplifyTimes,
  longRunBytesMin,
  prefetchRequestBytesDefault,
} from "./limits.ts";
import { RangeLanding } from "./range-landing.ts";
import type { RunningWork } from "./running-work.ts";
import { type FetchLane, type FetchScheduler, processScheduler } from "./scheduler.ts";
import { SequenceDetector } from "./sequence.ts";
import type { StoredItems } from "./stored-items.ts";
import { type WaitLimits, waitFor } from "./wait.ts";

/** A fetch that nobody waited for when it was sent has failed; `cause` says how. */
class BackgroundFailure extends Error {}

export interface FetcherParts {
  readonly options: BlobCacheOptions;
  readonly items: StoredItems;
  readonly store: ItemStore;
  readonly requests: BlobRequests;
  readonly work: RunningWork;
  readonly closing: AbortSignal;
  isReady(chunk: number): boolean;
  /** No reason to fetch it for later. */
  isPresent(chunk: number): boolean;
  /** Whoever reads the chunk first is to tell `readOn`. */
  ask(chunk: number): void;
  /** An item came for a prefetch. */
  onPrefetched(item: number): void;
}

/** Stored bytes received, by who waited, and requests of prefetch. */
export interface FetchCounts {
  demandBytes: number;
  widenedBytes: number;
  prefetchBytes: number;
  prefetchRequests: number;
}

/**
 * Fetches the items of one blob whose chunk info is known. Invariants: an item has at most one flight, however many callers wait for it;
 * a flight that failed leaves its item absent; nothing but flights touches the network.
 */
export class Fetcher {
  readonly #parts: FetcherParts;
  readonly #counts: FetchCounts;
  readonly #queue: FetchQueue;
  readonly #scheduler: FetchScheduler;
  readonly #lane: FetchLane;
  readonly #sequences = new SequenceDetector();

  constructor(parts: FetcherParts, counts: FetchCounts) {
    this.#parts = parts;
    this.#counts = counts;
    this.#queue = new FetchQueue(parts.items, parts.options.prefetchRequestBytesMax ?? prefetchRequestBytesDefault);
    this.#scheduler = parts.options.scheduler ?? processScheduler;
    this.#lane = {
      has: (kind) => this.#queue.has(kind),
      take: (kind) => {
        const range = this.#queue.take(kind);
        return { bytes: range.length, run: () => parts.work.track(this.#run(range, kind)) };
      },
    };
    this.#scheduler.add(this.#lane);
  }

  /** Flights that wait or run. */
  get inFlight(): number {
    return this.#queue.size;
  }

  /** Ends all flights. */
  close(reason: Error): void {
    for (const flight of this.#queue.all()) this.#fail(flight, reason);
    this.#scheduler.remove(this.#lane);
  }

  /**
   * Waits until absent chunks have come.
   *
   * @param onVerified  gets those that come through the network, before they are in the cache
   * @returns a chunk that came but could not be stored, if any
   * @throws ChunkStoreError as `BlobCache.ensure`
   */
  async fetch(absent: readonly number[], kind: FetchClass, limits: WaitLimits, onVerified?: OnVerified): Promise<number | undefined> {
    const { items, store, isReady, closing } = this.#parts;
    let missing = absent;
    let unstored: number | undefined;
    while (missing.length > 0) {
      const kept = missing.filter((chunk) => store.unstored(chunk) !== undefined);
      unstored ??= kept[0];
      missing = missing.filter((chunk) => !kept.includes(chunk));
      if (missing.length === 0) break;
      try {
        await this.#fly([...new Set(missing.map((chunk) => items.itemOf(chunk)))], kind, limits, onVerified);
        missing = missing.filter((chunk) => !isReady(chunk));
        // What is still absent came and could not be stored; it may have been pushed out of memory again by others.
        unstored ??= missing[0];
        break;
      } catch (error) {
        // A flight ends with the deadline of callers before this one, and a background one after few attempts: this one has time left and
        // tries itself.
        const background = error instanceof BackgroundFailure;
        const late = error instanceof ChunkStoreError && error.code === "CHUNK_DEADLINE";
        const again = (background || late) && performance.now() < limits.deadlineAt - 1;
        if (!again || closing.aborted) throw background ? error.cause : error;
        missing = missing.filter((chunk) => !isReady(chunk));
      }
    }
    return unstored;
  }

  /**
   * Fetches on behind a sequential reader, who does not wait for it: up to `amplifyBytesMax` stored bytes, more in a long run.
   *
   * @param hint  bytes up to here that the reader has read in order, when that is known
   */
  widenLater(missing: readonly number[], hint: number | undefined): void {
    const { items, isPresent } = this.#parts;
    let found = 0;
    for (const chunk of missing) found = Math.max(found, this.#sequences.note(chunk, items.info.compressedSize(chunk), isPresent));
    this.#widen(Math.max(...missing.map((chunk) => items.itemOf(chunk))), hint ?? found);
  }

  /** The reader of a long run has come to a chunk it was asked about: half of what was fetched ahead of it is used up. */
  readOn(chunk: number, runBytes: number): void {
    this.#widen(this.#parts.items.itemOf(chunk), runBytes);
    this.#scheduler.poke();
  }

  /** Fetches what lies behind `last`. In a long run the first chunk of the second half is marked, so that its reader need never wait. */
  #widen(last: number, runBytes: number): void {
    const { items, isPresent, options, ask } = this.#parts;
    const amplifyMax = options.amplifyBytesMax ?? amplifyBytesDefault;
    const isLong = runBytes >= longRunBytesMin;
    const longMax = Math.min(runBytes / 2, amplifyMax * longRunAmplifyTimes, longRunAheadBytesMax);
    const window = isLong ? Math.max(amplifyMax, longMax) : Math.min(runBytes, amplifyMax);
    let budget = window;
    for (let item = last + 1; budget > 0 && item < items.end; item++) {
      if (items.storedOffset(item) < 0) continue;
      if (items.contextOf(item) >= 0 !== items.contextOf(item - 1) >= 0) return;
      const before = budget;
      budget -= isLong ? items.decodedSize(item) : items.storedSize(item);
      if (budget < 0) return;
      const members = items.members(item);
      if (this.#queue.get(item) === undefined && members.some((chunk) => !isPresent(chunk))) this.#queue.join(item, "ahead");
      if (isLong && before > window / 2 && budget <= window / 2) ask(members[0] as number);
    }
  }

  /**
   * Fetches what a reader will want soon, in the given order, up to `fetchAheadBytesMax` stored bytes; nobody waits for it. Nothing where
   * `amplifyBytesMax` is 0.
   */
  fetchAhead(chunks: readonly number[]): void {
    const { items, isPresent, options } = this.#parts;
    if (options.amplifyBytesMax === 0) return;
    let budget = fetchAheadBytesMax;
    for (const item of new Set(chunks.filter((chunk) => !isPresent(chunk)).map((chunk) => items.itemOf(chunk)))) {
      budget -= items.storedSize(item);
      if (budget < 0) break;
      this.#queue.join(item, "ahead");
    }
    this.#scheduler.poke();
  }

  /** Waits for the flights of items, new or under way. */
  async #fly(items: readonly number[], kind: FetchClass, limits: WaitLimits, onVerified: OnVerified | undefined): Promise<void> {
    const blobId = this.#parts.options.blob.id;
    const queue = this.#queue;
    if (queue.size + items.length > fetchesPerBlobMax) {
      throw new ChunkStoreError("CHUNK_BACKEND", `blob ${blobId}: ${queue.size} fetches wait already; its host is too slow`);
    }
    const flights = items.map((item) => queue.join(item, kind));
    for (const flight of flights) {
      flight.waiters++;
      flight.deadlineAt = Math.max(flight.deadlineAt, limits.deadlineAt);
      if (onVerified !== undefined) flight.listeners.add(onVerified);
    }
    this.#scheduler.poke();
    const land = async (flight: Flight): Promise<void> => {
      try {
        await waitFor(flight.done, limits, `blob ${blobId} [${flight.offset}..${flight.offset + flight.length})`);
      } catch (cause) {
        throw kind === "demand" && flight.kind !== "demand" && flight.settled ? new BackgroundFailure("", { cause }) : cause;
      }
    };
    try {
      await Promise.all(flights.map(land));
    } finally {
      for (const flight of flights) {
        flight.waiters--;
        if (onVerified !== undefined) flight.listeners.delete(onVerified);
        // Nobody wants it any more and nothing was sent: out of the line.
        if (flight.waiters === 0 && !flight.running && !flight.settled)
          this.#fail(flight, new ChunkStoreError("CHUNK_DEADLINE", "given up by all readers"));
      }
    }
  }

  async #run(range: MergedRange, kind: FetchClass): Promise<void> {
    const { offset, length, flights } = range;
    const latest = Math.max(...flights.map(({ deadlineAt }) => deadlineAt)) - performance.now();
    const deadlineMs = Math.max(1, kind === "demand" ? latest : backgroundDeadlineMs);
    const demanded = kind === "demand" ? undefined : new AbortController();
    if (demanded !== undefined) for (const flight of flights) flight.onDemand = () => demanded.abort();
    const landing = new RangeLanding(range, (flight, stored) => this.#land(flight, stored));
    const memory = chunkBuffers.take(length);
    try {
      const stored = await this.#parts.requests.read({
        what: "chunks",
        blobId: this.#parts.options.blob.id,
        offset,
        length,
        priority: kind,
        deadlineMs,
        chunkCount: flights.length,
        demanded: demanded?.signal,
        into: memory,
        onPart: (bytes) => landing.reached(bytes),
      });
      const besides = flights.reduce((sum, flight) => sum + (kind === "demand" && flight.kind === "ahead" ? flight.length : 0), 0);
      this.#counts.widenedBytes += besides;
      this.#counts[kind === "demand" ? "demandBytes" : kind === "ahead" ? "widenedBytes" : "prefetchBytes"] += length - besides;
      if (kind === "prefetch") this.#counts.prefetchRequests++;
      landing.reached(stored);
      await landing.done();
      // Where the back end used memory of its own, another may still hold this.
      if (stored.buffer === memory.buffer) chunkBuffers.give(memory);
    } catch (error) {
      for (const flight of landing.giveUp()) this.#fail(flight, error as Error);
      await landing.done();
    }
  }

  async #land(flight: Flight, stored: Uint8Array): Promise<void> {
    const { store, closing, onPrefetched } = this.#parts;
    try {
      const unstored = await store.store(flight.item, stored, this.#queue.size > 1, (chunk, data) => {
        for (const listener of flight.listeners) listener(chunk, data);
      });
      this.#queue.drop(flight);
      if (flight.kind === "prefetch") onPrefetched(flight.item);
      flight.resolve(unstored);
    } catch (error) {
      if (store.mayRetry(error) && flight.retries < store.retriesMax && !closing.aborted) {
        flight.retries++;
        this.#queue.requeue(flight);
        this.#scheduler.poke();
        return;
      }
      this.#fail(flight, error as Error);
    }
  }

  #fail(flight: Flight, error: Error): void {
    this.#queue.drop(flight);
    if (!flight.settled) flight.reject(error);
  }
}

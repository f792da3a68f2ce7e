import type { FetchClass } from "./fetch-class.ts";
import {
  bytesInFlightMax,
  demandIdleMs,
  prefetchBesideDemandMax,
  prefetchInFlightMax,
  prefetchStarvedMs,
  requestsInFlightMax,
  requestsPerBlobMax,
} from "./limits.ts";

/** A request to a back end, ready to go. */
export interface FetchRequest {
  /** Stored bytes it will hold. */
  readonly bytes: number;
  /** Must not reject. */
  run(): Promise<void>;
}

/** The waiting fetches of one blob. */
export interface FetchLane {
  /** Whether a fetch of that class waits. */
  has(kind: FetchClass): boolean;
  /** Takes the next request out; called only if `has`. */
  take(kind: FetchClass): FetchRequest;
}

/**
 * Decides which request goes next, over all blobs: demand before read-ahead before prefetch, blobs in turn, and nothing beyond the
 * limits of `limits.ts`. Prefetch rests while there is demand, but for one request a second so that it ends some day, and begins with one
 * request after it: a reader with short pauses is not to meet them all.
 */
export class FetchScheduler {
  readonly #lanes = new Map<FetchLane, number>();
  readonly #running = { demand: 0, ahead: 0, prefetch: 0 };
  #bytes = 0;
  #pumping = false;
  #demandSeenAt = Number.NEGATIVE_INFINITY;
  #prefetchSeenAt = Number.NEGATIVE_INFINITY;
  #idleTimer: NodeJS.Timeout | undefined;
  #wakeAtMs = Number.POSITIVE_INFINITY;

  add(lane: FetchLane): void {
    this.#lanes.set(lane, 0);
  }

  remove(lane: FetchLane): void {
    this.#lanes.delete(lane);
  }

  /** Requests in flight. */
  get running(): number {
    return this.#running.demand + this.#running.ahead + this.#running.prefetch;
  }

  /** A lane has something new. Requests go out at the end of this turn of the event loop, so that neighbours asked for in it are merged. */
  poke(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    setImmediate(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  #pump(): void {
    for (const kind of ["demand", "ahead"] as const) {
      while (this.#startOne(kind));
    }
    if (this.#waiting("prefetch")) this.#pumpPrefetch();
  }

  #pumpPrefetch(): void {
    const now = performance.now();
    for (;;) {
      const demand = this.#running.demand + this.#running.ahead > 0 || this.#waiting("demand");
      const idleMs = demand ? 0 : now - this.#demandSeenAt;
      const starved = now - this.#prefetchSeenAt >= prefetchStarvedMs && this.#running.prefetch === 0;
      const max = idleMs >= demandIdleMs ? prefetchMax(idleMs) : starved ? 1 : prefetchBesideDemandMax;
      if (this.#running.prefetch >= max) {
        // Requests that end pump again; only the passing of time needs a timer.
        if (max < prefetchInFlightMax) this.#wakeLater(now + (demand ? prefetchStarvedMs : demandIdleMs));
        return;
      }
      if (!this.#startOne("prefetch")) return;
      this.#prefetchSeenAt = now;
    }
  }

  /** Whatever is later does not keep from what is sooner. */
  #wakeLater(atMs: number): void {
    if (this.#wakeAtMs <= atMs) return;
    clearTimeout(this.#idleTimer);
    this.#wakeAtMs = atMs;
    const wake = (): void => {
      this.#wakeAtMs = Number.POSITIVE_INFINITY;
      this.#pump();
    };
    this.#idleTimer = setTimeout(wake, Math.ceil(atMs - performance.now())).unref();
  }

  #waiting(kind: FetchClass): boolean {
    for (const [lane, running] of this.#lanes) if (running < requestsPerBlobMax && lane.has(kind)) return true;
    return false;
  }

  /** Starts the next request of a class; false when none waits or may go. */
  #startOne(kind: FetchClass): boolean {
    const running = this.running;
    if (running >= requestsInFlightMax || (running > 0 && this.#bytes >= bytesInFlightMax)) return false;
    for (const [lane, own] of this.#lanes) {
      if (own >= requestsPerBlobMax || !lane.has(kind)) continue;
      const request = lane.take(kind);
      // To the end of the line: blobs take turns.
      this.#lanes.delete(lane);
      this.#lanes.set(lane, own + 1);
      this.#running[kind]++;
      this.#bytes += request.bytes;
      void request.run().then(() => this.#ended(lane, kind, request.bytes));
      return true;
    }
    return false;
  }

  #ended(lane: FetchLane, kind: FetchClass, bytes: number): void {
    this.#running[kind]--;
    this.#bytes -= bytes;
    if (kind === "demand") this.#demandSeenAt = performance.now();
    const own = this.#lanes.get(lane);
    if (own !== undefined) this.#lanes.set(lane, own - 1);
    this.#pump();
  }
}

/** Requests of prefetch once no reader has waited for `idleMs`: one, and twice as many after each `demandIdleMs` more. */
const prefetchMax = (idleMs: number): number => Math.min(prefetchInFlightMax, 2 ** (Math.floor(idleMs / demandIdleMs) - 1));

/** Shared by all blobs of the process that name no other. */
export const processScheduler = new FetchScheduler();

import { RegistryError } from "../errors.ts";
import {
  PREFETCH_REQUESTS_PER_HOST_MAX,
  QUEUE_PER_HOST_MAX,
  REQUESTS_PER_HOST_MAX,
  REQUESTS_PER_HOST_MIN,
  SLOW_DOWN_WINDOW_MS,
  SPEED_UP_MS,
} from "../limits.ts";

/** Somebody waits for the answer; somebody will soon; nobody does. */
export type Priority = "demand" | "ahead" | "prefetch";

/** Where a request waits: what a reader will want soon waits with prefetch. */
type Line = "demand" | "prefetch";

/** Takes its place when called. */
type Waiter = () => void;

/**
 * Bounds the requests to one host. Demand goes first, and prefetch never holds more than its share, so a reader finds a free place.
 * When the host says it is too much (429) all places and prefetch's share halve, once for a burst of such answers, and prefetch rests for
 * as long as the host said; quiet time gives them back one by one. Half of the places at least stay with demand.
 */
export class Gate {
  readonly #max: number;
  readonly #prefetchMax: number;
  readonly #now: () => number;
  readonly #waiting = { demand: new Set<Waiter>(), prefetch: new Set<Waiter>() };
  #active = 0;
  #prefetchActive = 0;
  #places: number;
  #prefetchShare: number;
  #slowedMs = Number.NEGATIVE_INFINITY;
  #spedUpMs = 0;
  #restUntilMs = 0;
  #restTimer: NodeJS.Timeout | undefined;

  constructor(options: { max?: number; prefetchMax?: number; now?: () => number } = {}) {
    this.#max = options.max ?? REQUESTS_PER_HOST_MAX;
    this.#prefetchMax = Math.min(options.prefetchMax ?? PREFETCH_REQUESTS_PER_HOST_MAX, this.#max);
    this.#places = this.#max;
    this.#prefetchShare = this.#prefetchMax;
    this.#now = options.now ?? (() => performance.now());
  }

  get active(): number {
    return this.#active;
  }

  get queued(): number {
    return this.#waiting.demand.size + this.#waiting.prefetch.size;
  }

  /** How many requests the host gets at once now. */
  get places(): number {
    return this.#places;
  }

  /** How many of them prefetch may hold. */
  get prefetchShare(): number {
    return this.#prefetchShare;
  }

  /** Nothing runs, nothing waits, and the host has not asked for less lately. */
  get pristine(): boolean {
    this.#speedUp();
    return this.#active === 0 && this.queued === 0 && this.#places === this.#max && this.#prefetchShare === this.#prefetchMax;
  }

  /**
   * Waits for a place. The returned function gives it back; calling it twice is harmless.
   *
   * @param demanded  makes what nobody waited for demand when it fires
   * @throws RegistryError REGISTRY_BUSY when too many wait already
   * @throws the signal's reason when it fires first
   */
  async acquire(wanted: Priority, signal: AbortSignal, demanded?: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const priority = wanted === "demand" || demanded?.aborted === true ? "demand" : "prefetch";
    if (this.#admits(priority)) return this.#enter(priority);
    if (this.queued >= QUEUE_PER_HOST_MAX) {
      throw new RegistryError("REGISTRY_BUSY", `${QUEUE_PER_HOST_MAX} requests already wait for this host`, { retryable: true });
    }
    return new Promise((resolve, reject) => {
      let kind: Line = priority;
      const leave = (): void => {
        this.#waiting[kind].delete(waiter);
        signal.removeEventListener("abort", onAbort);
        demanded?.removeEventListener("abort", onDemanded);
      };
      const onAbort = (): void => {
        leave();
        reject(signal.reason);
      };
      const onDemanded = (): void => {
        this.#waiting[kind].delete(waiter);
        kind = "demand";
        this.#waiting[kind].add(waiter);
        this.#wake();
      };
      const waiter = (): void => {
        leave();
        resolve(this.#enter(kind));
      };
      this.#waiting[kind].add(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
      if (kind === "prefetch") demanded?.addEventListener("abort", onDemanded, { once: true });
    });
  }

  /** The host asked for less, and perhaps for how long it wants rest. */
  slowDown(retryAfterMs = 0): void {
    const now = this.#now();
    if (now + retryAfterMs > this.#restUntilMs) {
      this.#restUntilMs = now + retryAfterMs;
      this.#wakeAfterRest();
    }
    // Answers to requests that were under way together say one thing, not several.
    if (now - this.#slowedMs < SLOW_DOWN_WINDOW_MS) return;
    this.#slowedMs = now;
    this.#spedUpMs = now;
    this.#places = Math.max(Math.min(REQUESTS_PER_HOST_MIN, this.#max), this.#places >> 1);
    this.#prefetchShare = Math.max(1, Math.min(this.#prefetchShare, this.#places) >> 1);
  }

  /** Nothing else may wake those that wait: the host may have no request when the rest ends. */
  #wakeAfterRest(): void {
    clearTimeout(this.#restTimer);
    const leftMs = this.#restUntilMs - this.#now();
    if (leftMs <= 0) this.#wake();
    else this.#restTimer = setTimeout(() => this.#wakeAfterRest(), Math.ceil(leftMs)).unref();
  }

  #admits(priority: Line): boolean {
    this.#speedUp();
    if (this.#active >= this.#places) return false;
    if (priority === "demand") return true;
    return this.#prefetchActive < this.#prefetchShare && this.#waiting.demand.size === 0 && this.#now() >= this.#restUntilMs;
  }

  #speedUp(): void {
    if (this.#places === this.#max && this.#prefetchShare === this.#prefetchMax) return;
    const steps = Math.floor((this.#now() - this.#spedUpMs) / SPEED_UP_MS);
    if (steps <= 0) return;
    this.#spedUpMs += steps * SPEED_UP_MS;
    this.#places = Math.min(this.#max, this.#places + steps);
    this.#prefetchShare = Math.min(this.#prefetchMax, this.#prefetchShare + steps, Math.max(1, this.#places >> 1));
  }

  #enter(priority: Line): () => void {
    this.#active++;
    if (priority === "prefetch") this.#prefetchActive++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#active--;
      if (priority === "prefetch") this.#prefetchActive--;
      this.#wake();
    };
  }

  #wake(): void {
    for (const priority of ["demand", "prefetch"] as const) {
      for (const waiter of this.#waiting[priority]) {
        if (!this.#admits(priority)) break;
        waiter();
      }
    }
  }
}

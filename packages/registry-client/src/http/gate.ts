import { RegistryError } from "../errors.ts";
import { PREFETCH_REQUESTS_PER_HOST_MAX, QUEUE_PER_HOST_MAX, REQUESTS_PER_HOST_MAX } from "../limits.ts";

export type Priority = "demand" | "prefetch";

interface Waiter {
  readonly start: () => void;
  readonly signal: AbortSignal;
}

/**
 * Bounds the requests to one host. Demand goes first, and prefetch never holds more than its share, so a reader finds a free place.
 * When the host says it is too much (429) prefetch's share halves; every quiet minute gives one place back.
 */
export class Gate {
  readonly #max: number;
  readonly #prefetchMax: number;
  readonly #now: () => number;
  readonly #waiting = { demand: new Set<Waiter>(), prefetch: new Set<Waiter>() };
  #active = 0;
  #prefetchActive = 0;
  #prefetchShare: number;
  #shareChangedMs = 0;

  constructor(options: { max?: number; prefetchMax?: number; now?: () => number } = {}) {
    this.#max = options.max ?? REQUESTS_PER_HOST_MAX;
    this.#prefetchMax = Math.min(options.prefetchMax ?? PREFETCH_REQUESTS_PER_HOST_MAX, this.#max);
    this.#prefetchShare = this.#prefetchMax;
    this.#now = options.now ?? (() => performance.now());
  }

  get active(): number {
    return this.#active;
  }

  get queued(): number {
    return this.#waiting.demand.size + this.#waiting.prefetch.size;
  }

  /** How many requests prefetch may hold now. */
  get prefetchShare(): number {
    return this.#prefetchShare;
  }

  /**
   * Waits for a place. The returned function gives it back; calling it twice is harmless.
   *
   * @throws RegistryError REGISTRY_BUSY when too many wait already
   * @throws the signal's reason when it fires first
   */
  async acquire(priority: Priority, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#admits(priority)) return this.#enter(priority);
    if (this.queued >= QUEUE_PER_HOST_MAX) {
      throw new RegistryError("REGISTRY_BUSY", `${QUEUE_PER_HOST_MAX} requests already wait for this host`, { retryable: true });
    }
    const queue = this.#waiting[priority];
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        queue.delete(waiter);
        reject(signal.reason);
      };
      const waiter: Waiter = {
        signal,
        start: () => {
          signal.removeEventListener("abort", onAbort);
          queue.delete(waiter);
          resolve(this.#enter(priority));
        },
      };
      queue.add(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** The host asked for less. */
  slowDown(): void {
    this.#prefetchShare = Math.max(1, this.#prefetchShare >> 1);
    this.#shareChangedMs = this.#now();
  }

  #admits(priority: Priority): boolean {
    if (this.#active >= this.#max) return false;
    if (priority === "demand") return true;
    if (this.#prefetchShare < this.#prefetchMax && this.#now() - this.#shareChangedMs >= 60_000) {
      this.#prefetchShare++;
      this.#shareChangedMs = this.#now();
    }
    return this.#prefetchActive < this.#prefetchShare && this.#waiting.demand.size === 0;
  }

  #enter(priority: Priority): () => void {
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
        waiter.start();
      }
    }
  }
}

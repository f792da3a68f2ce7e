import { DEMAND_IDLE_MS, PREFETCH_TURN_MS } from "../limits.ts";
import type { DemandWatch } from "./demand-watch.ts";

/**
 * When the bodies of prefetch requests may be read on. Readers come in bursts with short pauses: after each the bodies begin one by one,
 * twice as many each time, so that the next reader meets few of them. Beside readers without a pause the oldest body may take one piece now
 * and then, so that prefetch ends some day.
 */
export class PrefetchPace {
  readonly #demand: DemandWatch;
  /** By the number of the body; the oldest has the lowest. */
  readonly #waiting = new Map<number, () => void>();
  #bodies = 0;
  #timer: NodeJS.Timeout | undefined;
  #next = 1;
  #turnAtMs = 0;

  constructor(demand: DemandWatch) {
    this.#demand = demand;
  }

  /** No reader has waited for a while: nobody needs a turn. */
  get free(): boolean {
    return this.#demand.idleMs >= DEMAND_IDLE_MS;
  }

  /** A body begins. @returns its number for `turn` */
  join(): number {
    return this.#bodies++;
  }

  /**
   * Waits until a body may take its next piece, `demanded` or `signal` fires, or `maxMs` are over. Never rejects.
   *
   * @returns milliseconds it took
   */
  async turn(body: number, maxMs: number, signal: AbortSignal, demanded: AbortSignal | undefined): Promise<number> {
    if (maxMs <= 0 || signal.aborted || demanded?.aborted === true || this.free) return 0;
    const begin = performance.now();
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(body);
        signal.removeEventListener("abort", wake);
        demanded?.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, maxMs);
      signal.addEventListener("abort", wake, { once: true });
      demanded?.addEventListener("abort", wake, { once: true });
      this.#waiting.set(body, wake);
      this.#timer ??= setInterval(() => this.#tick(), DEMAND_IDLE_MS).unref();
    });
    return performance.now() - begin;
  }

  #tick(): void {
    const now = performance.now();
    const idle = this.free;
    if (!idle) this.#next = 1;
    if (idle || now - this.#turnAtMs >= PREFETCH_TURN_MS) {
      this.#turnAtMs = now;
      const oldest = [...this.#waiting.keys()].sort((a, b) => a - b).slice(0, this.#next);
      for (const body of oldest) this.#waiting.get(body)?.();
      if (idle) this.#next *= 2;
    }
    if (this.#waiting.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#next = 1;
  }
}

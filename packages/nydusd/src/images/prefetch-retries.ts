import { setTimeout as sleep } from "node:timers/promises";
import { ChunkStoreError } from "@nydus-ts/chunk-store";
import { describeError } from "../errors.ts";
import { prefetchRetriesMax, prefetchRetryMaxMs, prefetchRetryMinMs } from "../limits.ts";
import type { Log } from "../log/log.ts";

/**
 * Asks again when a host was busy or away: one budget of repetitions for an image, so that a host that stays away is left alone some day.
 * What came before a failure is in the cache, so a repetition fetches the rest. Source: spec/nydusd.md 12.3 (32 after 1 s each)
 */
export class PrefetchRetries {
  readonly #mountpoint: string;
  readonly #signal: AbortSignal;
  readonly #log: Log;
  #left = prefetchRetriesMax;

  constructor(options: { readonly mountpoint: string; readonly signal: AbortSignal; readonly log: Log }) {
    this.#mountpoint = options.mountpoint;
    this.#signal = options.signal;
    this.#log = options.log;
  }

  /** @throws what `fetch` threw last, when that is for good or nothing is left of the budget; the signal's reason when it fires */
  async run(fetch: () => Promise<void>): Promise<void> {
    for (let delayMs = prefetchRetryMinMs; ; delayMs = Math.min(prefetchRetryMaxMs, 2 * delayMs)) {
      try {
        return await fetch();
      } catch (error) {
        const { retryable, retryAfterMs = 0 } = causeOf(error);
        if (this.#signal.aborted || !retryable || this.#left === 0) throw error;
        this.#left--;
        const waitMs = Math.max(delayMs, retryAfterMs);
        this.#log.info(`${this.#mountpoint}: prefetch rests for ${Math.ceil(waitMs / 1000)} s: ${describeError(error)}`);
        await sleep(waitMs, undefined, { signal: this.#signal, ref: false });
      }
    }
  }
}

/** Whether a host may give later what it did not give now. The back end's own word counts, below what the cache made of it. */
function causeOf(error: unknown): { readonly retryable: boolean; readonly retryAfterMs?: number } {
  if (!(error instanceof ChunkStoreError) || (error.code !== "CHUNK_BACKEND" && error.code !== "CHUNK_DEADLINE"))
    return { retryable: false };
  let { retryable, retryAfterMs }: { retryable: boolean; retryAfterMs?: number } = error as ChunkStoreError & { retryAfterMs?: number };
  for (let each = error.cause; each instanceof Error; each = each.cause) {
    const own = each as { retryable?: unknown; retryAfterMs?: unknown };
    if (typeof own.retryable === "boolean") retryable = own.retryable;
    if (typeof own.retryAfterMs === "number") retryAfterMs = own.retryAfterMs;
  }
  return { retryable, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
}

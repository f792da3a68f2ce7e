import { RegistryError, type RequestSummary } from "../errors.ts";

/** The end of a whole call: its time limit and the caller's signal in one. Dispose it when the call ends. */
export class Deadline {
  readonly signal: AbortSignal;
  readonly #caller: AbortSignal | undefined;
  readonly #endMs: number;
  readonly #limitMs: number;
  readonly #timer: NodeJS.Timeout;
  readonly #onAbort: () => void;

  /** @param deadlineMs  from now; `Infinity` for none */
  constructor(deadlineMs: number, caller?: AbortSignal) {
    const controller = new AbortController();
    this.signal = controller.signal;
    this.#caller = caller;
    this.#limitMs = deadlineMs;
    this.#endMs = performance.now() + deadlineMs;
    this.#onAbort = () => controller.abort(caller?.reason);
    this.#timer = setTimeout(() => controller.abort(), Math.min(deadlineMs, 0x7fffffff));
    if (caller?.aborted) this.#onAbort();
    else caller?.addEventListener("abort", this.#onAbort, { once: true });
  }

  get remainingMs(): number {
    return Math.max(0, this.#endMs - performance.now());
  }

  get ended(): boolean {
    return this.signal.aborted;
  }

  /** The time is over, as opposed to a caller that gave up. */
  get expired(): boolean {
    return this.signal.aborted && this.#caller?.aborted !== true;
  }

  /** What to throw once `ended`: REGISTRY_ABORTED for the caller's signal, else REGISTRY_DEADLINE with what failed last. */
  error(what: string, details: { request?: RequestSummary; cause?: unknown } = {}): RegistryError {
    if (this.#caller?.aborted)
      return new RegistryError("REGISTRY_ABORTED", `${what} was aborted`, { ...details, cause: this.#caller.reason });
    const last = details.cause instanceof Error ? `; the last attempt said: ${details.cause.message}` : "";
    return new RegistryError("REGISTRY_DEADLINE", `${what} did not finish within ${this.#limitMs} ms${last}`, {
      ...details,
      retryable: true,
    });
  }

  /** Takes the time limit away; the caller's signal stays. */
  stop(): void {
    clearTimeout(this.#timer);
  }

  /** Waits, or throws what `error` gives. */
  async sleep(ms: number, what: string, details: { request?: RequestSummary; cause?: unknown } = {}): Promise<void> {
    if (this.ended) throw this.error(what, details);
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.signal.addEventListener("abort", done, { once: true });
    });
    if (this.ended) throw this.error(what, details);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener("abort", this.#onAbort);
  }
}

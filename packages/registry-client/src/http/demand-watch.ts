/** Knows whether somebody waits for a request now, so that bodies nobody waits for yet leave the link to it. */
export class DemandWatch {
  #active = 0;
  #endedAtMs = Number.NEGATIVE_INFINITY;
  readonly #waiting = new Set<() => void>();

  get active(): number {
    return this.#active;
  }

  /** For how long nobody has waited for anything. */
  get idleMs(): number {
    return this.#active > 0 ? 0 : performance.now() - this.#endedAtMs;
  }

  /** A request that somebody waits for begins; the returned function ends it, calling it twice is harmless. */
  enter(): () => void {
    this.#active++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#active--;
      this.#endedAtMs = performance.now();
      if (this.#active > 0) return;
      for (const wake of [...this.#waiting]) wake();
    };
  }

  /**
   * Waits until nobody waits for anything, `demanded` or `signal` fires, or `maxMs` are over. Never rejects.
   *
   * @returns milliseconds it took
   */
  async quiet(maxMs: number, signal: AbortSignal, demanded: AbortSignal | undefined): Promise<number> {
    if (this.#active === 0 || maxMs <= 0 || signal.aborted || demanded?.aborted === true) return 0;
    const begin = performance.now();
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        demanded?.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, maxMs);
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
      demanded?.addEventListener("abort", wake, { once: true });
    });
    return performance.now() - begin;
  }
}

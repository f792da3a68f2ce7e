/** Tasks that stand or fall together. */
export class Together {
  readonly #abort = new AbortController();
  /** fires when a task failed, or the caller gives up */
  readonly signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.signal = AbortSignal.any([this.#abort.signal, signal]);
  }

  /** All results in order, or the first failure, once everything has stopped: nothing may go on in a work directory that is removed. */
  async all<T>(tasks: ReadonlyArray<() => Promise<T>>): Promise<T[]> {
    const results = await Promise.allSettled(
      tasks.map(async (task) => {
        try {
          return await task();
        } catch (failure) {
          if (!this.#abort.signal.aborted) this.#abort.abort(failure);
          throw failure;
        }
      }),
    );
    if (this.#abort.signal.aborted) throw this.#abort.signal.reason;
    return results.map((result) => (result as PromiseFulfilledResult<T>).value);
  }
}

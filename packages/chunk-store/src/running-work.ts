/** Requests and verifications under way, each of which may still use the files of a cache: who closes them waits for these. */
export class RunningWork {
  readonly #running = new Set<Promise<void>>();

  /** @param work  must not reject */
  async track(work: Promise<void>): Promise<void> {
    this.#running.add(work);
    await work;
    this.#running.delete(work);
  }

  all(): Promise<void>[] {
    return [...this.#running];
  }
}

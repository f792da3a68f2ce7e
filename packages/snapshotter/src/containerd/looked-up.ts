import { lookedUpMax } from "../limits.ts";

/**
 * What was read of content that never changes, by its digest. A client that unpacks layer by layer asks for each layer among all images of
 * its namespace: every manifest is read once, not once a layer. What could not be read is not remembered, it may still come with the pull.
 * Beyond `lookedUpMax` the one not used for longest goes.
 */
export class LookedUp<T> {
  readonly #entries = new Map<string, Promise<T>>();

  /** @param load  called once for all who ask at the same time and later; rejects when the content can't be read */
  get(key: string, load: () => Promise<T>): Promise<T> {
    const found = this.#entries.get(key) ?? load();
    this.#entries.delete(key);
    this.#entries.set(key, found);
    found.catch(() => {
      if (this.#entries.get(key) === found) this.#entries.delete(key);
    });
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= lookedUpMax) break;
      this.#entries.delete(oldest);
    }
    return found;
  }
}

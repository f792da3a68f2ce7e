import type { MergedRange } from "./fetch-queue.ts";
import type { Flight } from "./flight.ts";
import { landingsPerRequestMax } from "./limits.ts";

/**
 * The flights of one request on their way into the cache: each lands as soon as its bytes have come, while those behind it are still on the
 * wire. A few at a time, since each holds a decoded item.
 */
export class RangeLanding {
  readonly #range: MergedRange;
  readonly #land: (flight: Flight, stored: Uint8Array) => Promise<void>;
  readonly #lanes: Promise<void>[] = new Array<Promise<void>>(landingsPerRequestMax).fill(Promise.resolve());
  #next = 0;

  /** @param land  must not reject */
  constructor(range: MergedRange, land: (flight: Flight, stored: Uint8Array) => Promise<void>) {
    this.#range = range;
    this.#land = land;
  }

  /** @param bytes  the first bytes of the range, which do not change any more */
  reached(bytes: Uint8Array): void {
    const { offset, flights } = this.#range;
    for (let flight = flights[this.#next]; flight !== undefined; flight = flights[this.#next]) {
      const one = flight;
      const at = one.offset - offset;
      if (at + one.length > bytes.length) return;
      const stored = bytes.subarray(at, at + one.length);
      const lane = this.#next++ % this.#lanes.length;
      this.#lanes[lane] = (this.#lanes[lane] as Promise<void>).then(() => this.#land(one, stored));
    }
  }

  /** No more bytes are taken. @returns flights whose bytes have not come */
  giveUp(): readonly Flight[] {
    const missing = this.#range.flights.slice(this.#next);
    this.#next = this.#range.flights.length;
    return missing;
  }

  /** Resolves when all have landed whose bytes have come. */
  async done(): Promise<void> {
    await Promise.all(this.#lanes);
  }
}

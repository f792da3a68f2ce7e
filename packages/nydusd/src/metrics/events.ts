import type { EventsAnswer } from "@nydus-ts/nydus-api";
import { eventBytesMax, eventsMax } from "../limits.ts";

/** The last errors of back ends, oldest first. Source: spec/nydusd.md 17.6. */
export class ErrorEvents {
  readonly #entries: string[] = [];
  #bytes = 0;

  push(text: string): void {
    const entry = `${new Date().toUTCString()} - ${text}`.slice(0, 2048);
    this.#entries.push(entry);
    this.#bytes += Buffer.byteLength(entry);
    while (this.#entries.length > eventsMax || this.#bytes > eventBytesMax) this.#bytes -= Buffer.byteLength(this.#entries.shift()!);
  }

  answer(): EventsAnswer {
    return {
      max_errors: eventsMax,
      total_errors: this.#entries.length,
      max_size: eventBytesMax,
      total_size: this.#bytes,
      errors: [...this.#entries],
    };
  }
}

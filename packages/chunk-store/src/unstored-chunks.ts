import { unstoredBytesMax, unstoredRetryMs } from "./limits.ts";

/** Verified chunks that the disk would not take, least recently used first; bounded by `unstoredBytesMax`. */
export class UnstoredChunks {
  readonly #chunks = new Map<number, Uint8Array>();
  #bytes = 0;
  #writableAt = 0;

  get(chunk: number): Uint8Array | undefined {
    const data = this.#chunks.get(chunk);
    if (data === undefined) return undefined;
    this.#chunks.delete(chunk);
    this.#chunks.set(chunk, data);
    return data;
  }

  /** The disk refused the chunk just now. */
  add(chunk: number, data: Uint8Array): void {
    this.delete(chunk);
    this.#chunks.set(chunk, data);
    this.#bytes += data.length;
    this.#writableAt = performance.now() + unstoredRetryMs;
    for (const oldest of this.#chunks.keys()) {
      if (this.#bytes <= unstoredBytesMax || oldest === chunk) break;
      this.delete(oldest);
    }
  }

  delete(chunk: number): void {
    this.#bytes -= this.#chunks.get(chunk)?.length ?? 0;
    this.#chunks.delete(chunk);
  }

  /** Whether it is time to try the disk again. */
  get worthTrying(): boolean {
    return performance.now() >= this.#writableAt;
  }
}

/**
 * Chunk buffers that are filled again and again. Freed memory outside the JavaScript heap comes back late, so a build that made a new
 * buffer for every chunk held several times what it worked on. Buffers have sizes that are powers of two; what is used of one is a view.
 */
import { chunkSizeMin, spareBytesMax } from "./limits.ts";

export class BufferPool {
  readonly #spare = new Map<number, ArrayBuffer[]>();
  #spareBytes = 0;

  /** A view of `bytes` bytes that is the start of its buffer. Its content is whatever was there. */
  take(bytes: number): Uint8Array<ArrayBuffer> {
    const size = Math.max(chunkSizeMin, 2 ** Math.ceil(Math.log2(Math.max(1, bytes))));
    const buffer = this.#spare.get(size)?.pop();
    if (buffer) this.#spareBytes -= size;
    return new Uint8Array(buffer ?? new ArrayBuffer(size), 0, bytes);
  }

  /** Gives a buffer back; nobody may use it any more. Beyond the limit it is left to the garbage collector. */
  give(buffer: ArrayBuffer): void {
    const size = buffer.byteLength;
    if (size < chunkSizeMin || (size & (size - 1)) !== 0 || this.#spareBytes + size > spareBytesMax) return;
    const spare = this.#spare.get(size);
    if (spare) spare.push(buffer);
    else this.#spare.set(size, [buffer]);
    this.#spareBytes += size;
  }
}

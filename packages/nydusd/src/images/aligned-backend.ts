import type { BlobBackend, BlobReadOptions, ByteRange } from "@nydus-ts/chunk-store";
import { alignedBytesKept } from "../limits.ts";

interface Block {
  readonly bytes: Promise<Uint8Array>;
  /** Makes its request urgent. */
  readonly demanded: AbortController;
}

/**
 * Asks for whole blocks at fixed places of a blob, one request each, whatever is read and in which order. A peer-to-peer network names what
 * it shares by blob and range, so only equal ranges are shared between nodes. It costs the rest of the first and the last block; those last
 * fetched are kept in memory, since neighbours often come next.
 */
export class AlignedBackend implements BlobBackend {
  readonly kind: string;
  readonly #inner: BlobBackend;
  readonly #blockBytes: number;
  /** By blob and number; fetched ones least recently used first. */
  readonly #blocks = new Map<string, Block>();
  readonly #sizes = new Map<string, Promise<number>>();

  /** @param inner  closed by its owner */
  constructor(inner: BlobBackend, blockBytes: number) {
    this.kind = inner.kind;
    this.#inner = inner;
    this.#blockBytes = blockBytes;
  }

  async read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array> {
    const size = await this.size(blobId, options);
    const end = range.offset + range.length;
    // What lies outside is for the back end to refuse, in its own words.
    if (range.length === 0 || end > size) return this.#inner.read(blobId, range, options);
    const first = Math.floor(range.offset / this.#blockBytes);
    const last = Math.floor((end - 1) / this.#blockBytes);
    const numbers = Array.from({ length: last - first + 1 }, (_, index) => first + index);
    const blocks = await Promise.all(numbers.map((number) => this.#block(blobId, number, size, options)));
    const start = range.offset - first * this.#blockBytes;
    // Memory of the caller's own: blocks are shared.
    const whole = blocks.length === 1 ? (blocks[0] as Uint8Array) : Buffer.concat(blocks);
    const wanted = whole.subarray(start, start + range.length);
    return whole === blocks[0] ? Buffer.from(wanted) : wanted;
  }

  /** Asked once for each blob: the last block ends where the blob does. */
  async size(blobId: string, options: BlobReadOptions): Promise<number> {
    for (;;) {
      const found = this.#sizes.get(blobId);
      if (found === undefined) return this.#askSize(blobId, options);
      try {
        return await found;
      } catch (error) {
        // As with blocks: another caller's limits are not this one's.
        if (options.signal?.aborted === true) throw error;
      }
    }
  }

  async #askSize(blobId: string, options: BlobReadOptions): Promise<number> {
    const size = this.#inner.size(blobId, options);
    this.#sizes.set(blobId, size);
    try {
      return await size;
    } catch (error) {
      this.#sizes.delete(blobId);
      throw error;
    }
  }

  /** The inner back end belongs to who made it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#blocks.clear();
  }

  async #block(blobId: string, number: number, size: number, options: BlobReadOptions): Promise<Uint8Array> {
    const key = `${blobId} ${number}`;
    for (;;) {
      const found = this.#blocks.get(key);
      if (found === undefined) return this.#fetch(key, blobId, number, size, options);
      if (options.priority === "demand") found.demanded.abort();
      else options.demanded?.addEventListener("abort", () => found.demanded.abort(), { once: true });
      try {
        const bytes = await found.bytes;
        // To the end of the line: used last.
        if (this.#blocks.delete(key)) this.#blocks.set(key, found);
        return bytes;
      } catch (error) {
        // It failed by the deadline, signal or retries of another caller: this one tries itself.
        if (options.signal?.aborted === true) throw error;
      }
    }
  }

  async #fetch(key: string, blobId: string, number: number, size: number, options: BlobReadOptions): Promise<Uint8Array> {
    const offset = number * this.#blockBytes;
    const demanded = new AbortController();
    options.demanded?.addEventListener("abort", () => demanded.abort(), { once: true });
    const range = { offset, length: Math.min(this.#blockBytes, size - offset) };
    const { into: _, onPart: __, ...limits } = options; // of the caller's range, not of a block
    const bytes = this.#inner.read(blobId, range, { ...limits, demanded: demanded.signal });
    this.#blocks.set(key, { bytes, demanded });
    try {
      const fetched = await bytes;
      this.#forgetOldest();
      return fetched;
    } catch (error) {
      this.#blocks.delete(key);
      throw error;
    }
  }

  /** Those under way are the youngest and few; forgetting one would only cost asking for it once more. */
  #forgetOldest(): void {
    const keep = Math.max(1, Math.floor(alignedBytesKept / this.#blockBytes));
    for (const key of this.#blocks.keys()) {
      if (this.#blocks.size <= keep) return;
      this.#blocks.delete(key);
    }
  }
}

import { chunkBytesMax } from "@nydus-ts/rafs-format";

/** Buffers kept, and their total size in bytes; beyond it they are left to the garbage collector. */
const buffersMax = 16;
const pooledBytesMax = 32 * 1024 * 1024;
/** Smaller buffers come from Node's own slab and are not worth keeping. */
const pooledFromBytes = 64 * 1024;

/**
 * Buffers for stored and decoded chunks, used again: a fresh megabyte costs 256 page faults, a quarter of the time to decode into it, and
 * makes V8 collect, which took a third of the processor time of a whole image.
 */
export class BufferPool {
  readonly #free: Uint8Array<ArrayBuffer>[] = [];
  #bytes = 0;

  /** Exactly `size` bytes (at most `chunkBytesMax` are kept for reuse), with unknown content. */
  take(size: number): Uint8Array {
    if (size < pooledFromBytes) return Buffer.allocUnsafe(size);
    const at = this.#free.findIndex(({ length }) => length >= size && length <= size * 4);
    if (at < 0) return new Uint8Array(new ArrayBuffer(2 ** Math.ceil(Math.log2(size)))).subarray(0, size);
    const [buffer] = this.#free.splice(at, 1) as [Uint8Array<ArrayBuffer>];
    this.#bytes -= buffer.length;
    return buffer.subarray(0, size);
  }

  /** Takes back a buffer that nobody reads or writes any more. */
  give(buffer: Uint8Array): void {
    const { buffer: memory } = buffer;
    if (buffer.length < pooledFromBytes || memory.byteLength > chunkBytesMax || !(memory instanceof ArrayBuffer)) return;
    if (this.#free.length >= buffersMax || this.#bytes + memory.byteLength > pooledBytesMax) return;
    this.#bytes += memory.byteLength;
    this.#free.push(new Uint8Array(memory));
  }
}

/** What all blobs of the process share. */
export const chunkBuffers = new BufferPool();

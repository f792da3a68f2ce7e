import type { ChunkInfo } from "./chunk-info.ts";

const unknownOffset = 0xffffffff;
const layoutUnit = 4096;

/** What threads that read the data file are told of its chunks, and tell, in shared memory. Which chunks are ready is the `ChunkMap`'s. */
export class ChunkMarks {
  /** Two words a chunk: uncompressed offset / 4096 (0xffffffff: not known yet), uncompressed size. */
  readonly layout: Uint32Array<SharedArrayBuffer>;
  /** Bit i & 31 of word i >> 5: somebody has read the chunk, or waited for it. */
  readonly touched: Int32Array<SharedArrayBuffer>;

  /** Bit i & 31 of word i >> 5: who reads the chunk first is asked to say so, since what was fetched ahead is half used up. */
  readonly asked: Int32Array<SharedArrayBuffer>;

  constructor(chunkCount: number) {
    this.layout = new Uint32Array(new SharedArrayBuffer(chunkCount * 8));
    this.touched = new Int32Array(new SharedArrayBuffer(Math.ceil(chunkCount / 32) * 4));
    this.asked = new Int32Array(new SharedArrayBuffer(this.touched.byteLength));
    for (let at = 0; at < this.layout.length; at += 2) this.layout[at] = unknownOffset;
  }

  /** Tells where a chunk lies, if it is known. */
  place(info: ChunkInfo, chunk: number): void {
    const offset = info.uncompressedOffset(chunk);
    if (offset < 0) return;
    this.layout[2 * chunk + 1] = info.uncompressedSize(chunk);
    // Last, so that a thread that sees the offset sees the size.
    Atomics.store(this.layout, 2 * chunk, Math.floor(offset / layoutUnit));
  }

  /** Takes back where a chunk lies. */
  forget(chunk: number): void {
    Atomics.store(this.layout, 2 * chunk, unknownOffset);
  }

  touch(chunk: number): void {
    Atomics.or(this.touched, chunk >> 5, 1 << (chunk & 31));
  }

  ask(chunk: number): void {
    Atomics.or(this.asked, chunk >> 5, 1 << (chunk & 31));
  }

  isTouched(chunk: number): boolean {
    return ((Atomics.load(this.touched, chunk >> 5) >>> (chunk & 31)) & 1) === 1;
  }
}

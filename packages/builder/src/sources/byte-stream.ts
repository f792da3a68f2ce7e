/** What a tar is read from: exact reads, in order. */
export interface TarInput {
  /** bytes handed out or skipped */
  readonly position: number;
  /** Copies up to `target.length` bytes; fewer only at the end of the stream. */
  readInto(target: Uint8Array): Promise<number>;
  /** Skips bytes; returns how many there were. */
  skip(count: number): Promise<number>;
  close(): Promise<void>;
}

/** Exact reads from a stream of pieces of any size. */
export class ByteStream implements TarInput {
  readonly #source: AsyncIterator<Uint8Array>;
  #piece: Uint8Array = new Uint8Array(0);
  #at = 0;
  /** bytes handed out or skipped */
  position = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Bytes that can be taken without waiting. */
  get buffered(): number {
    return this.#piece.length - this.#at;
  }

  /** Makes at least one byte available; false at the end of the stream. */
  async fill(): Promise<boolean> {
    while (this.buffered === 0) {
      const next = await this.#source.next();
      if (next.done) return false;
      this.#piece = next.value;
      this.#at = 0;
    }
    return true;
  }

  /** Copies up to `target.length` bytes; fewer only at the end of the stream. */
  async readInto(target: Uint8Array): Promise<number> {
    let filled = 0;
    while (filled < target.length && (this.buffered > 0 || (await this.fill()))) {
      const bytes = Math.min(target.length - filled, this.buffered);
      target.set(this.#piece.subarray(this.#at, this.#at + bytes), filled);
      this.#at += bytes;
      filled += bytes;
    }
    this.position += filled;
    return filled;
  }

  /** Skips bytes; returns how many there were. */
  async skip(count: number): Promise<number> {
    let skipped = 0;
    while (skipped < count && (this.buffered > 0 || (await this.fill()))) {
      const bytes = Math.min(count - skipped, this.buffered);
      this.#at += bytes;
      skipped += bytes;
    }
    this.position += skipped;
    return skipped;
  }

  async close(): Promise<void> {
    await this.#source.return?.();
  }
}

/** A plain tar in a regular file: headers are read here, data can be read by others from where it lies. */
import { closeSync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { describeFailure } from "../errors.ts";
import type { TarInput } from "./byte-stream.ts";
import { detectCompression } from "./decompress.ts";

/** Bytes read ahead: headers of small files stand close together. */
const windowBytes = 64 * 1024;

export class FileInput implements TarInput {
  position = 0;
  readonly #path: string;
  readonly #fd: number;
  readonly #size: number;
  readonly #window = Buffer.allocUnsafeSlow(windowBytes);
  #windowStart = 0;
  #windowEnd = 0;
  #closed = false;

  private constructor(path: string, fd: number, size: number) {
    this.#path = path;
    this.#fd = fd;
    this.#size = size;
  }

  /** Undefined for what is no regular file, or compressed. @throws BuilderError BUILD_SOURCE */
  static async open(path: string): Promise<FileInput | undefined> {
    return await describeFailure("BUILD_SOURCE", `can not read ${path}`, async () => {
      // Whoever writes into a FIFO would see it closed if it were only looked into.
      if (!statSync(path).isFile()) return undefined;
      const fd = openSync(path, "r");
      const input = new FileInput(path, fd, fstatSync(fd).size);
      if (detectCompression(input.#look(4)) === "none") return input;
      await input.close();
      return undefined;
    });
  }

  /** Where the next `bytes` bytes lie, in a form for `ChunkSink.addFile`; undefined if the file ends before. */
  next(bytes: number): { path: string; offset: number } | undefined {
    if (this.position + bytes > this.#size) return undefined;
    return { path: Buffer.from(this.#path).toString("latin1"), offset: this.position };
  }

  async readInto(target: Uint8Array): Promise<number> {
    let filled = 0;
    while (filled < target.length) {
      const there = this.#look(target.length - filled);
      if (there.length === 0) break;
      target.set(there, filled);
      filled += there.length;
      this.position += there.length;
    }
    return filled;
  }

  async skip(count: number): Promise<number> {
    const skipped = Math.max(0, Math.min(count, this.#size - this.position));
    this.position += skipped;
    return skipped;
  }

  /** Up to `bytes` bytes from the position on, at least one before the end. */
  #look(bytes: number): Buffer {
    const { position } = this;
    if (position < this.#windowStart || position >= this.#windowEnd) {
      this.#windowStart = position;
      this.#windowEnd = position + readSync(this.#fd, this.#window, 0, windowBytes, position);
    }
    const at = position - this.#windowStart;
    return this.#window.subarray(at, Math.min(at + bytes, this.#windowEnd - this.#windowStart));
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }
}

import { RafsError } from "./errors.ts";

/**
 * Bytes that one operation (an inode's xattrs, a directory block with its neighbours, the blob table) may need at once. Real images
 * need some hundred KiB; an image that claims more is refused, so that it can't make a reader hold it.
 */
export const operationBytesMax = 16 * 1024 * 1024;

/** Thrown by a read of a page that is not here; `PageCache.run` fetches the page and repeats the operation. Never seen outside. */
export class PageMissing extends Error {
  readonly page: number;

  constructor(page: number) {
    super(`page ${page} is not in memory`);
    this.page = page;
  }
}

/**
 * The part of a `DataView` that readers of a bootstrap use, over pages of which only some are in memory. A read outside of the file
 * is a RangeError, as with `DataView`: readers check first.
 */
export class PagedView {
  readonly byteLength: number;
  readonly #pageBytes: number;
  readonly #pageOf: (page: number) => Uint8Array;
  #last: Uint8Array = new Uint8Array(0);
  #lastStart = 0;

  /** @param pageOf  gives a page, the last one shorter, or throws `PageMissing` */
  constructor(byteLength: number, pageBytes: number, pageOf: (page: number) => Uint8Array) {
    this.byteLength = byteLength;
    this.#pageBytes = pageBytes;
    this.#pageOf = pageOf;
  }

  getUint8(at: number): number {
    const within = at - this.#lastStart;
    if (within >= 0 && within < this.#last.length) return this.#last[within] as number;
    if (!(at >= 0 && at < this.byteLength)) throw new RangeError(`byte ${at} of ${this.byteLength}`);
    const page = Math.floor(at / this.#pageBytes);
    this.#last = this.#pageOf(page);
    this.#lastStart = page * this.#pageBytes;
    return this.#last[at - this.#lastStart] as number;
  }

  /** All numbers of the format are little-endian; the parameter is that of `DataView`. */
  getUint16(at: number, _littleEndian: true): number {
    return this.getUint8(at) | (this.getUint8(at + 1) << 8);
  }

  getUint32(at: number, littleEndian: true): number {
    return this.getUint16(at, littleEndian) + this.getUint16(at + 2, littleEndian) * 65536;
  }

  getBigUint64(at: number, littleEndian: true): bigint {
    return (BigInt(this.getUint32(at + 4, littleEndian)) << 32n) | BigInt(this.getUint32(at, littleEndian));
  }

  /** Bytes [start, end), copied, so that they don't keep pages alive. */
  copy(start: number, end: number): Uint8Array {
    if (!(start >= 0 && start <= end && end <= this.byteLength)) throw new RangeError(`bytes [${start}..${end}) of ${this.byteLength}`);
    if (end - start > operationBytesMax)
      throw new RafsError("RAFS_RANGE", `one record of ${end - start} bytes, read at once are at most ${operationBytesMax}`);
    const out = new Uint8Array(end - start);
    for (let at = start; at < end; ) {
      this.getUint8(at);
      const part = this.#last.subarray(at - this.#lastStart, end - this.#lastStart);
      out.set(part, at - start);
      at += part.length;
    }
    return out;
  }

  /** Forgets the page looked at last; it may be given back. */
  release(): void {
    this.#last = new Uint8Array(0);
  }
}

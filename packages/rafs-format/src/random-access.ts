import { RafsError } from "./errors.ts";
import { operationBytesMax, PagedView, PageMissing } from "./paged-view.ts";

/** Where the bytes of a bootstrap come from: a file, a buffer, ranges over HTTP, or anything else that can read in the middle. */
export interface RandomAccessSource {
  /** Of the whole bootstrap; must not change while it is read. */
  readonly size: number;
  /**
   * @returns exactly the bytes [offset, offset + length), which lie inside of the source; the caller keeps them
   * @throws what it likes; the error reaches whoever asked, and the next read asks again
   */
  read(offset: number, length: number): Promise<Uint8Array>;
}

export interface PageCacheOptions {
  /** Bytes of one read from the source; a power of two from 512. */
  readonly pageBytes: number;
  /** Bytes kept between operations. One operation may hold up to 16 MiB (`operationBytesMax`) beyond them. */
  readonly cacheBytes: number;
}

/** What was read, and what is held; `heldBytesMax` is the most that was ever held, by all operations at once. */
export interface PageStats {
  readonly reads: number;
  readonly readBytes: number;
  readonly heldBytes: number;
  readonly heldBytesMax: number;
}

/**
 * Runs synchronous readers of a `PagedView` over a source that answers later: an operation that meets a page which is not here is
 * given up, the page fetched, and the operation made again. It so ends after as many rounds as it needs pages; those it touched stay
 * until it is done, others go when `cacheBytes` is passed, least recently used first.
 */
export class PageCache {
  readonly view: PagedView;
  readonly #source: RandomAccessSource;
  readonly #pageBytes: number;
  readonly #cacheBytes: number;
  /** By page number, least recently used first. */
  readonly #kept = new Map<number, Uint8Array>();
  readonly #coming = new Map<number, Promise<Uint8Array>>();
  /** Pages of the operation that runs just now. */
  #own: Map<number, Uint8Array> = new Map();
  #keptBytes = 0;
  /** Bytes that operations hold, pages in `#kept` counted again: an upper bound. */
  #ownBytes = 0;
  #reads = 0;
  #readBytes = 0;
  #heldBytesMax = 0;

  constructor(source: RandomAccessSource, { pageBytes, cacheBytes }: PageCacheOptions) {
    if (!Number.isInteger(Math.log2(pageBytes)) || pageBytes < 512 || !(cacheBytes >= pageBytes))
      throw new TypeError(`pageBytes ${pageBytes} must be a power of two from 512, cacheBytes ${cacheBytes} not below it`);
    if (!Number.isSafeInteger(source.size) || source.size < 0) throw new TypeError(`size ${source.size} of a source`);
    this.#source = source;
    this.#pageBytes = pageBytes;
    this.#cacheBytes = cacheBytes;
    this.view = new PagedView(source.size, pageBytes, (page) => this.#page(page));
  }

  get stats(): PageStats {
    return {
      reads: this.#reads,
      readBytes: this.#readBytes,
      heldBytes: this.#keptBytes + this.#ownBytes,
      heldBytesMax: this.#heldBytesMax,
    };
  }

  /**
   * @param operation  reads through `view`; is called again from its start after every page that was missing
   * @throws RafsError RAFS_RANGE (more than 16 MiB at once), RAFS_SOURCE, and what operation and source throw
   */
  async run<Result>(operation: () => Result): Promise<Result> {
    const own = new Map<number, Uint8Array>();
    let ownBytes = 0;
    try {
      for (;;) {
        let missing: number;
        this.#own = own;
        try {
          return operation();
        } catch (error) {
          if (!(error instanceof PageMissing)) throw error;
          missing = error.page;
        } finally {
          this.view.release();
        }
        if (ownBytes >= operationBytesMax)
          throw new RafsError("RAFS_RANGE", `one record needs more than ${operationBytesMax} bytes of the bootstrap at once`);
        const page = await this.#fetch(missing);
        own.set(missing, page);
        ownBytes += page.length;
        this.#ownBytes += page.length;
        this.#heldBytesMax = Math.max(this.#heldBytesMax, this.#keptBytes + this.#ownBytes);
      }
    } finally {
      this.#ownBytes -= ownBytes;
    }
  }

  #page(page: number): Uint8Array {
    const own = this.#own.get(page);
    if (own !== undefined) return own;
    const kept = this.#kept.get(page);
    if (kept === undefined) throw new PageMissing(page);
    // A page that was kept may go while this operation waits for another one; it then is missing, fetched, and its own.
    this.#kept.delete(page);
    this.#kept.set(page, kept);
    return kept;
  }

  /** One read for all operations that miss the page. */
  #fetch(page: number): Promise<Uint8Array> {
    const kept = this.#kept.get(page);
    if (kept !== undefined) return Promise.resolve(kept);
    let coming = this.#coming.get(page);
    if (coming === undefined) {
      coming = this.#read(page).finally(() => this.#coming.delete(page));
      this.#coming.set(page, coming);
    }
    return coming;
  }

  async #read(page: number): Promise<Uint8Array> {
    const offset = page * this.#pageBytes;
    const length = Math.min(this.#pageBytes, this.#source.size - offset);
    this.#reads++;
    this.#readBytes += length;
    const bytes = await this.#source.read(offset, length);
    if (bytes.length !== length)
      throw new RafsError("RAFS_SOURCE", `the source gave ${bytes.length} bytes of [${offset}..${offset + length}): it is cut or changed`);
    this.#kept.set(page, bytes);
    this.#keptBytes += length;
    for (const [oldest, { length: freed }] of this.#kept) {
      if (this.#keptBytes <= this.#cacheBytes) break;
      this.#kept.delete(oldest);
      this.#keptBytes -= freed;
    }
    return bytes;
  }
}

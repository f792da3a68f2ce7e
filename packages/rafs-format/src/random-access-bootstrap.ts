import type { BlobRecord } from "./blob-record.ts";
import type { ChunkRecord, DirectoryEntry, FileChunk, Inode, WalkEntry } from "./bootstrap.ts";
import { BootstrapV5 } from "./bootstrap-v5.ts";
import { BootstrapV6 } from "./bootstrap-v6.ts";
import { RafsError } from "./errors.ts";
import { PageCache, type PageCacheOptions, type PageStats, type RandomAccessSource } from "./random-access.ts";
import { hasMagicV5 } from "./superblock-v5.ts";
import { components, TreeWalk } from "./walk.ts";

/** 64 KiB a read hold some 700 files with their names; 4 MiB keep the way down to any of them. */
const defaults: PageCacheOptions = { pageBytes: 64 * 1024, cacheBytes: 4 * 1024 * 1024 };

/**
 * Opens a bootstrap of either version of which only the pages that are needed are read. It reads superblock, blob table and root.
 *
 * @throws RafsError as `openBootstrap`, RAFS_SOURCE; what the source throws
 */
export async function openRandomAccess(
  source: RandomAccessSource,
  options: Partial<PageCacheOptions> = {},
): Promise<RandomAccessBootstrap> {
  const pages = new PageCache(source, { ...defaults, ...options });
  const bootstrap = await pages.run(() => (hasMagicV5(pages.view) ? new BootstrapV5(pages.view) : new BootstrapV6(pages.view)));
  return new RandomAccessBootstrap(bootstrap, pages);
}

/**
 * `Bootstrap` for one who can't or won't hold it: the same names, answers and errors, as promises and async iterators, v5 and v6
 * alike. What it hands out is copied. Calls may run at the same time; reads of one page are one read of the source.
 *
 * Memory: `cacheBytes`, what the running calls hold (some hundred KiB each, 16 MiB at most), and for a walk the directories on its
 * path; nothing grows with the image.
 */
export class RandomAccessBootstrap {
  readonly version: 5 | 6;
  readonly chunkSize: number;
  readonly blockSize: number;
  readonly flags: bigint;
  readonly rootNid: number;
  readonly inodeCount: number;
  readonly byteLength: number;
  readonly blobs: readonly BlobRecord[];
  readonly #bootstrap: BootstrapV5 | BootstrapV6;
  readonly #pages: PageCache;

  /** Use `openRandomAccess`. */
  constructor(bootstrap: BootstrapV5 | BootstrapV6, pages: PageCache) {
    this.#bootstrap = bootstrap;
    this.#pages = pages;
    this.version = bootstrap.version;
    this.chunkSize = bootstrap.chunkSize;
    this.blockSize = bootstrap.blockSize;
    this.flags = bootstrap.flags;
    this.rootNid = bootstrap.rootNid;
    this.inodeCount = bootstrap.inodeCount;
    this.byteLength = bootstrap.byteLength;
    this.blobs = bootstrap.blobs;
  }

  get stats(): PageStats {
    return this.#pages.stats;
  }

  inode(nid: number): Promise<Inode> {
    return this.#pages.run(() => this.#bootstrap.inode(nid));
  }

  /** undefined when the directory has no such name. Reads the blocks of a binary search. */
  lookup(dirNid: number, name: Uint8Array): Promise<number | undefined> {
    return this.#pages.run(() => this.#bootstrap.lookup(dirNid, name));
  }

  /** As `Bootstrap.resolve`: nid of an absolute path, whatever else the tree holds. */
  async resolve(path: string | Uint8Array): Promise<number | undefined> {
    let nid = this.rootNid;
    for (const name of components(path)) {
      const child = (await this.inode(nid)).type === "dir" ? await this.lookup(nid, name) : undefined;
      if (child === undefined) return undefined;
      nid = child;
    }
    return nid;
  }

  async *readDir(nid: number): AsyncGenerator<DirectoryEntry, void> {
    const blocks = await this.#pages.run(() => this.#bootstrap.directoryBlocks(nid));
    for (let block = 0; block < blocks; block++) yield* await this.#pages.run(() => this.#bootstrap.entriesOf(nid, block));
  }

  readLink(nid: number): Promise<Uint8Array> {
    return this.#pages.run(() => this.#bootstrap.readLink(nid));
  }

  xattrs(nid: number): Promise<Map<string, Uint8Array>> {
    return this.#pages.run(() => this.#bootstrap.xattrs(nid));
  }

  /** @param fromByte  begins with the chunk that holds this byte of the file */
  async *chunksOf(nid: number, fromByte = 0): AsyncGenerator<FileChunk, void> {
    const count = await this.#pages.run(() => this.#bootstrap.chunkCount(nid));
    for (let index = Math.floor(fromByte / this.chunkSize); index < count; index++)
      yield await this.#pages.run(() => this.#bootstrap.chunkOf(nid, index));
  }

  /** As `Bootstrap.walk`. */
  async *walk(): AsyncGenerator<WalkEntry, void> {
    const walk = new TreeWalk(this.#bootstrap);
    for (;;) {
      const entry = await this.#pages.run(() => walk.next());
      if (entry === undefined) return;
      yield entry;
    }
  }

  prefetchNids(): Promise<readonly number[]> {
    return this.#pages.run(() => this.#bootstrap.prefetchNids);
  }

  /**
   * v5: where a chunk is stored, and its digest, from the inode itself.
   *
   * @throws RafsError RAFS_UNSUPPORTED for v6, whose chunk table has to be read whole to find one: take the blob's chunk info
   *   (`openBlobMeta`), or `openBootstrap` and its `chunkRecord`
   */
  async chunkRecord(nid: number, chunk: FileChunk): Promise<ChunkRecord> {
    const bootstrap = this.#bootstrap;
    if (bootstrap.version === 6)
      throw new RafsError("RAFS_UNSUPPORTED", "records of single v6 chunks: use openBlobMeta on the blob's chunk info, or openBootstrap");
    return this.#pages.run(() => bootstrap.recordOf(nid, chunk.fileOffset / this.chunkSize));
  }
}

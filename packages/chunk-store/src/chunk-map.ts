import { closeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { chunkMapFileBytes, chunkMapHeaderBytes, encodeChunkMapHeader, RafsError, readChunkMap } from "@nydus-ts/rafs-format";
import { openFd, readAt, replaceFile, syncData, writeAt } from "./file-io.ts";

const pageBytes = 4096;

/**
 * Which chunks of a blob are in its data file. Two copies: `ready` in shared memory, which threads read, and the file in the original's
 * format, which outlives the process. A bit reaches `ready` when the chunk was written, the file when it was synced as well.
 * Bits of the file are only ever added here; other processes may share it, and what they added stays.
 *
 * What the file says when it is opened is hearsay: a disk, another program or the original (which sets bits before data are durable) may
 * have changed the data since. Such chunks are `kept`; they become ready when somebody has verified them.
 */
export class ChunkMap {
  readonly chunkCount: number;
  /** Bit i & 31 of word i >> 5. */
  readonly ready: Int32Array<SharedArrayBuffer>;
  readonly #fd: number;
  /** Bits as in `ready`. */
  readonly #kept: Uint32Array;
  #readyCount = 0;
  #keptCount = 0;
  #closed = false;

  private constructor(fd: number, chunkCount: number) {
    this.#fd = fd;
    this.chunkCount = chunkCount;
    this.ready = new Int32Array(new SharedArrayBuffer(Math.ceil(chunkCount / 32) * 4));
    this.#kept = new Uint32Array(this.ready.length);
  }

  /**
   * Opens the map, or makes a new one: with `fresh`, when there is none, and when what is there is no map of so many chunks (all its
   * chunks are then fetched again).
   *
   * @param fresh  the data file is new: whatever the map says is void
   */
  static async open(path: string, chunkCount: number, fresh: boolean): Promise<ChunkMap> {
    const found = fresh ? undefined : await readMap(path, chunkCount);
    if (found === undefined) {
      const empty = new Uint8Array(chunkMapFileBytes(chunkCount));
      empty.set(encodeChunkMapHeader({ allReady: false }));
      await replaceFile(path, empty);
    }
    const map = new ChunkMap(await openFd(path, "r+"), chunkCount);
    if (found !== undefined) map.#adopt(found);
    return map;
  }

  /** Chunks that are ready. */
  get readyCount(): number {
    return this.#readyCount;
  }

  /** Chunks that the file said are there and nobody has verified yet. */
  get keptCount(): number {
    return this.#keptCount;
  }

  isKept(chunk: number): boolean {
    return (((this.#kept[chunk >> 5] as number) >>> (chunk & 31)) & 1) === 1;
  }

  /** The chunk was verified, or is not what it should be: either way it is not hearsay any more. */
  settle(chunk: number): void {
    if (!this.isKept(chunk)) return;
    this.#kept[chunk >> 5] = (this.#kept[chunk >> 5] as number) & ~(1 << (chunk & 31));
    this.#keptCount--;
  }

  isReady(chunk: number): boolean {
    return ((Atomics.load(this.ready, chunk >> 5) >>> (chunk & 31)) & 1) === 1;
  }

  /** Says that the chunk's verified data is in the data file. Threads see it at once. */
  set(chunk: number): void {
    this.settle(chunk);
    const bit = 1 << (chunk & 31);
    if ((Atomics.or(this.ready, chunk >> 5, bit) & bit) === 0) this.#readyCount++;
  }

  /** Takes it back. Readers that saw the bit may still read. */
  clear(chunk: number): void {
    const bit = 1 << (chunk & 31);
    if ((Atomics.and(this.ready, chunk >> 5, ~bit) & bit) !== 0) this.#readyCount--;
  }

  /** Writes the bits of `chunks`, whose data is synced, to the file and syncs it. */
  async persist(chunks: readonly number[]): Promise<void> {
    await this.write(chunks);
    await syncData(this.#fd);
  }

  /** Hands the bits of `chunks` to the kernel, which writes them when it likes. */
  async write(chunks: readonly number[]): Promise<void> {
    const pages = Map.groupBy(chunks, (chunk) => Math.floor((chunk >> 3) / pageBytes));
    for (const [page, members] of pages) {
      const position = chunkMapHeaderBytes + page * pageBytes;
      const size = Math.min(pageBytes, chunkMapFileBytes(this.chunkCount) - position);
      const bytes = new Uint8Array(size);
      await readAt(this.#fd, bytes, position);
      for (const chunk of members) {
        const at = (chunk >> 3) - page * pageBytes;
        bytes[at] = (bytes[at] as number) | (0x80 >> (chunk & 7));
      }
      await writeAt(this.#fd, bytes, position);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }

  #adopt({ allReady, bitmap }: { readonly allReady: boolean; readonly bitmap: Uint8Array }): void {
    for (let chunk = 0; chunk < this.chunkCount; chunk++) {
      if (!allReady && ((bitmap[chunk >> 3] as number) & (0x80 >> (chunk & 7))) === 0) continue;
      this.#kept[chunk >> 5] = (this.#kept[chunk >> 5] as number) | (1 << (chunk & 31));
      this.#keptCount++;
    }
  }
}

async function readMap(path: string, chunkCount: number): Promise<ReturnType<typeof readChunkMap>> {
  try {
    return readChunkMap(await readFile(path), chunkCount);
  } catch (error) {
    if (error instanceof RafsError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

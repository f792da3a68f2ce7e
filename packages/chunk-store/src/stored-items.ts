import type { ChunkInfo } from "./chunk-info.ts";

/**
 * What is fetched and decoded as one: an ordinary chunk, or a batch or zran context with all its members. Item numbers below `count`
 * are chunk indexes, those above are `count` + the number of the context; neighbours by number are neighbours in the stored blob.
 */
export class StoredItems {
  readonly info: ChunkInfo;
  /** Items are numbered below this. */
  readonly end: number;
  readonly #zran: boolean;
  /** Members of each context as linked lists of chunk index + 1; empty for blobs without contexts. */
  readonly #first: Uint32Array;
  readonly #next: Uint32Array;

  constructor(info: ChunkInfo) {
    this.info = info;
    const { count, contextCount } = info;
    this.end = count + contextCount;
    this.#first = new Uint32Array(contextCount);
    this.#next = new Uint32Array(contextCount === 0 ? 0 : count);
    this.#zran = contextCount > 0 && firstMember(info)?.zran === true;
    if (contextCount === 0) return;
    for (let chunk = count - 1; chunk >= 0; chunk--) {
      const context = contextOf(info, chunk);
      if (context < 0) continue;
      this.#next[chunk] = this.#first[context] as number;
      this.#first[context] = chunk + 1;
    }
  }

  itemOf(chunk: number): number {
    if (this.#next.length === 0) return chunk;
    const context = contextOf(this.info, chunk);
    return context < 0 ? chunk : this.info.count + context;
  }

  /** Number of the batch or zran context, −1 for an ordinary chunk. */
  contextOf(item: number): number {
    return item < this.info.count ? -1 : item - this.info.count;
  }

  isZran(item: number): boolean {
    return this.#zran && item >= this.info.count;
  }

  /** Chunks that an item decodes to, ascending; none for a number between items. */
  members(item: number): number[] {
    const context = this.contextOf(item);
    if (context < 0) return this.itemOf(item) === item ? [item] : [];
    const chunks: number[] = [];
    for (let chunk = this.#first[context] as number; chunk !== 0; chunk = this.#next[chunk - 1] as number) chunks.push(chunk - 1);
    return chunks;
  }

  /** First stored byte; −1 for a number that is no item. */
  storedOffset(item: number): number {
    const context = this.contextOf(item);
    if (context < 0) return this.itemOf(item) === item ? this.info.compressedOffset(item) : -1;
    if (this.#zran) return this.info.zranContext(context).inOffset;
    const first = this.#first[context] as number;
    return first === 0 ? -1 : this.info.compressedOffset(first - 1);
  }

  storedSize(item: number): number {
    const context = this.contextOf(item);
    if (context < 0) return this.info.compressedSize(item);
    return this.#zran ? this.info.zranContext(context).inLength : this.info.batchContext(context).compressedSize;
  }

  /** Bytes the item decodes to. */
  decodedSize(item: number): number {
    const context = this.contextOf(item);
    if (context < 0) return this.info.uncompressedSize(item);
    return this.#zran ? this.info.zranContext(context).outLength : this.info.batchContext(context).uncompressedSize;
  }
}

function contextOf(info: ChunkInfo, chunk: number): number {
  const batch = info.batchOf(chunk);
  return batch >= 0 ? batch : info.zranOf(chunk);
}

function firstMember(info: ChunkInfo): { readonly zran: boolean } | undefined {
  for (let chunk = 0; chunk < info.count; chunk++) {
    if (info.zranOf(chunk) >= 0) return { zran: true };
    if (info.batchOf(chunk) >= 0) return { zran: false };
  }
  return undefined;
}

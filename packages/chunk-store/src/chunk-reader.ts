import { type BlobRecord, hasBlobMeta, metaBlobId as recordedMetaBlobId } from "@nydus-ts/rafs-format";
import type { BlobBackend } from "./backend.ts";
import { readMeta } from "./blob-meta-source.ts";
import { BufferPool } from "./buffer-pool.ts";
import type { ChunkInfo } from "./chunk-info.ts";
import { decodeItem } from "./decode-item.ts";
import { ChunkStoreError } from "./errors.ts";
import { decodedContextBytesMax } from "./limits.ts";
import { StoredItems } from "./stored-items.ts";
import { type ChunkProof, verifyChunk } from "./verify-chunk.ts";

export interface ChunkReaderOptions extends ChunkProof {
  /** With the effective id (`effectiveBlobId`): it names the blob at the back end. */
  readonly blob: BlobRecord;
  /** Stays the caller's. */
  readonly backend: BlobBackend;
  /** The blob that holds the chunk info of a SEPARATE blob; default: as the record says. */
  readonly metaBlobId?: string | undefined;
  /** Where chunks lie, for blobs without blob meta (`recordedChunkInfo`). */
  readonly chunkInfo?: ChunkInfo | undefined;
  /** For each request to the back end. */
  readonly deadlineMs: number;
  readonly signal: AbortSignal;
}

const pool = new BufferPool();

/**
 * Reads chunks of one blob one after the other, whatever kind of blob it is, without keeping them on disk: for programs that want every
 * byte once. Batches and zran outputs: the last ones decoded are kept in memory, at most `decodedContextBytesMax`.
 */
export class ChunkReader {
  readonly info: ChunkInfo;
  readonly #options: ChunkReaderOptions;
  readonly #items: StoredItems;
  /** Oldest first. */
  readonly #decoded = new Map<number, Uint8Array>();
  #decodedBytes = 0;

  private constructor(options: ChunkReaderOptions, info: ChunkInfo) {
    this.#options = options;
    this.info = info;
    this.#items = new StoredItems(info);
  }

  /** @throws ChunkStoreError CHUNK_UNSUPPORTED (nothing says where chunks lie), CHUNK_META, CHUNK_BACKEND, CHUNK_DEADLINE */
  static async open(options: ChunkReaderOptions): Promise<ChunkReader> {
    const { blob, backend, deadlineMs, signal } = options;
    if (options.chunkInfo !== undefined) return new ChunkReader(options, options.chunkInfo);
    if (!hasBlobMeta(blob)) {
      throw new ChunkStoreError("CHUNK_UNSUPPORTED", `blob ${blob.id} has no blob meta that says where its chunks lie`);
    }
    const limits = { deadlineMs, signal };
    const { opened } = await readMeta({
      blob,
      metaBlobId: options.metaBlobId ?? recordedMetaBlobId(blob, undefined),
      backend,
      read: (id, offset, length) => backend.read(id, { offset, length }, { ...limits, priority: "demand" }),
      limits,
    });
    return new ChunkReader(options, opened);
  }

  /**
   * The data of a chunk, verified. It may be shared memory of a decoded context: read it only.
   *
   * @throws ChunkStoreError CHUNK_RANGE, CHUNK_DIGEST, CHUNK_DECODE, CHUNK_BACKEND, CHUNK_DEADLINE
   */
  async read(chunk: number): Promise<Uint8Array> {
    const { blob } = this.#options;
    const { info } = this;
    if (!(Number.isInteger(chunk) && chunk >= 0 && chunk < info.count))
      throw new ChunkStoreError("CHUNK_RANGE", `blob ${blob.id} has no chunk ${chunk}, only ${info.count}`);
    const item = this.#items.itemOf(chunk);
    if (this.#items.storedOffset(item) < 0)
      throw new ChunkStoreError("CHUNK_RANGE", `blob ${blob.id}: nothing says where chunk ${chunk} lies`);
    try {
      const from = this.#items.contextOf(item) < 0 ? 0 : info.offsetInContext(chunk);
      const decoded = this.#decoded.get(item) ?? (await this.#decode(item));
      const data = decoded.subarray(from, from + info.uncompressedSize(chunk));
      verifyChunk(info, chunk, data, this.#options);
      return data;
    } catch (error) {
      if (!(error instanceof ChunkStoreError) || (error.code !== "CHUNK_DIGEST" && error.code !== "CHUNK_DECODE")) throw error;
      throw new ChunkStoreError(error.code, `blob ${blob.id}, stored at ${this.#items.storedOffset(item)}: ${error.message}`, {
        cause: error,
      });
    }
  }

  /**
   * The stored bytes of a chunk, whose data was verified; undefined for members of batches and zran contexts and for encrypted chunks: no
   * other blob can hold those as they are. Throws as `read`.
   */
  async readStored(chunk: number): Promise<Uint8Array | undefined> {
    await this.read(chunk);
    const item = this.#items.itemOf(chunk);
    if (this.#items.contextOf(item) >= 0 || this.info.isEncrypted(chunk)) return undefined;
    return await this.#fetch(item);
  }

  async #fetch(item: number): Promise<Uint8Array> {
    const { blob, backend, deadlineMs, signal } = this.#options;
    const range = { offset: this.#items.storedOffset(item), length: this.#items.storedSize(item) };
    return await backend.read(blob.id, range, { deadlineMs, signal, priority: "demand" });
  }

  async #decode(item: number): Promise<Uint8Array> {
    const { data } = await decodeItem(this.#options.blob, this.#items, item, await this.#fetch(item), pool, true);
    if (this.#items.contextOf(item) >= 0) this.#keep(item, data);
    return data;
  }

  #keep(item: number, data: Uint8Array): void {
    this.#decoded.set(item, data);
    this.#decodedBytes += data.length;
    for (const [oldest, { length }] of this.#decoded) {
      if (this.#decodedBytes <= decodedContextBytesMax || oldest === item) break;
      this.#decoded.delete(oldest);
      this.#decodedBytes -= length;
    }
  }
}

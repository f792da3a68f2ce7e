/** The data of an image's chunks, whatever its blobs are: native, batches, encrypted, gzip layers that stayed as they are, tarfs, version 5. */
import { basename } from "node:path";
import { type BlobBackend, ChunkReader, recordedChunkInfo } from "@nydus-ts/chunk-store";
import { type BlobRecord, type FileChunk, hasBlobMeta, hasFeature, metaBlobId } from "@nydus-ts/rafs-format";
import { type BootstrapFile, storedBlobId } from "./bootstrap-file.ts";
import { NydusImageError } from "./errors.ts";
import { blobReadDeadlineMs } from "./limits.ts";

const tarReadBytes = 1024 * 1024;

/** The record of a blob with the id under which the back end has it. */
export function storedBlob(file: BootstrapFile, blob: BlobRecord): BlobRecord {
  return { ...blob, id: storedBlobId(file, blob) };
}

export class ImageChunks {
  readonly #file: BootstrapFile;
  readonly #backend: BlobBackend;
  readonly #signal: AbortSignal;
  readonly #readers = new Map<number, Promise<ChunkReader>>();

  /** `backend` stays the caller's. Blobs are opened when the first of their chunks is read. */
  constructor(file: BootstrapFile, backend: BlobBackend, signal: AbortSignal) {
    this.#file = file;
    this.#backend = backend;
    this.#signal = signal;
  }

  /** The bytes of a file that a chunk holds, verified. @throws ChunkStoreError; RafsError */
  async read(chunk: FileChunk): Promise<Uint8Array> {
    this.#signal.throwIfAborted();
    const { bootstrap } = this.#file;
    const blob = bootstrap.blobs[chunk.blobIndex];
    if (hasFeature(blob, "tarfs")) {
      const range = { offset: chunk.uncompressedOffset, length: chunk.length };
      return await this.#backend.read(storedBlobId(this.#file, blob), range, this.#limits);
    }
    const reader = await this.#reader(blob);
    const data = await reader.read(chunk.chunkIndex);
    if (data.length < chunk.length) {
      throw new NydusImageError(
        "IMAGE_FILE",
        `chunk ${chunk.chunkIndex} of blob ${blob.id} has ${data.length} bytes, a file takes ${chunk.length} of it`,
      );
    }
    return data.subarray(0, chunk.length);
  }

  /**
   * All data of a blob, ascending, in pieces of at most a chunk, with gaps where nothing is. At most `length` bytes are asked of a tarfs blob.
   * @throws ChunkStoreError
   */
  async *blobData(blobIndex: number, length: number): AsyncGenerator<{ offset: number; data: Uint8Array }, void> {
    const blob = this.#file.bootstrap.blobs[blobIndex];
    if (hasFeature(blob, "tarfs")) {
      for (let offset = 0; offset < length; offset += tarReadBytes) {
        const range = { offset, length: Math.min(tarReadBytes, length - offset) };
        yield { offset, data: await this.#backend.read(storedBlobId(this.#file, blob), range, this.#limits) };
      }
      return;
    }
    const reader = await this.#reader(blob);
    for (let chunk = 0; chunk < reader.info.count; chunk++) {
      this.#signal.throwIfAborted();
      if (reader.info.uncompressedSize(chunk) > 0) yield { offset: reader.info.uncompressedOffset(chunk), data: await reader.read(chunk) };
    }
  }

  /** What knows the chunks of a blob, for blobs that are not tarfs. @throws ChunkStoreError */
  reader(blobIndex: number): Promise<ChunkReader> {
    return this.#reader(this.#file.bootstrap.blobs[blobIndex]);
  }

  get #limits() {
    return { deadlineMs: blobReadDeadlineMs, signal: this.#signal, priority: "demand" } as const;
  }

  #reader(blob: BlobRecord): Promise<ChunkReader> {
    let reader = this.#readers.get(blob.index);
    if (reader === undefined) {
      const { bootstrap, path } = this.#file;
      reader = ChunkReader.open({
        blob: storedBlob(this.#file, blob),
        backend: this.#backend,
        metaBlobId: metaBlobId(blob, basename(path)),
        chunkInfo: hasBlobMeta(blob) ? undefined : recordedChunkInfo(blob, bootstrap.chunkRecords()),
        digestOf: bootstrap.chunkDigests(blob.index),
        digester: blob.digester,
        ...this.#limits,
      });
      this.#readers.set(blob.index, reader);
    }
    return reader;
  }
}

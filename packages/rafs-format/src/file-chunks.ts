import type { FileChunk } from "./bootstrap.ts";

/** What the cursors of both versions tell of the chunks of the inode they stand at. */
export interface ChunkCursor {
  readonly chunkSize: number;
  readonly blockSize: number;
  load(nid: number): void;
  readonly size: number;
  readonly chunkCount: number;
  chunk(index: number): void;
  readonly chunkBlob: number;
  readonly chunkIndex: number;
  readonly chunkBlock: number;
}

/** The chunks of files, as objects: what bootstraps of both versions share. */
export class FileChunks {
  readonly chunkSize: number;
  readonly blockSize: number;
  readonly #cursor: ChunkCursor;

  constructor(cursor: ChunkCursor) {
    this.#cursor = cursor;
    this.chunkSize = cursor.chunkSize;
    this.blockSize = cursor.blockSize;
  }

  *chunksOf(nid: number, fromByte = 0): Generator<FileChunk, void> {
    const count = this.chunkCount(nid);
    for (let index = Math.floor(fromByte / this.chunkSize); index < count; index++) yield this.chunkOf(nid, index);
  }

  chunkCount(nid: number): number {
    this.#cursor.load(nid);
    return this.#cursor.chunkCount;
  }

  /** Chunk `index` of a file, below `chunkCount`. */
  chunkOf(nid: number, index: number): FileChunk {
    const cursor = this.#cursor;
    cursor.load(nid);
    cursor.chunk(index);
    const fileOffset = index * this.chunkSize;
    return {
      fileOffset,
      length: Math.min(this.chunkSize, cursor.size - fileOffset),
      blobIndex: cursor.chunkBlob,
      chunkIndex: cursor.chunkIndex,
      uncompressedOffset: cursor.chunkBlock * this.blockSize,
    };
  }
}

import type { StoredChunk } from "@nydus-ts/rafs-format/writer";

/** Takes the data of files, a chunk at a time, in the order of the source. */
export interface ChunkSink {
  /** A buffer for one chunk. It is asked for when the source stands at the chunk's first byte, and filled at once. */
  allocate(bytes: number): Uint8Array<ArrayBuffer>;
  /** Takes a filled buffer, which must not be touched afterwards. `isWholeFile`: the chunk is all that its file has. */
  add(data: Uint8Array<ArrayBuffer>, isWholeFile: boolean): Promise<StoredChunk>;
}

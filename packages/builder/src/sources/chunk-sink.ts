import type { StoredChunk, TreeNode } from "@nydus-ts/rafs-format/writer";

/** Where the record of a chunk goes: into the list of its file, which has room for it. */
export interface ChunkSlot {
  chunks: StoredChunk[];
  index: number;
  /** the chunk is all that its file has */
  isWholeFile: boolean;
}

/** Takes the data of files, a chunk at a time, in the order of the source. */
export interface ChunkSink {
  /** A buffer for one chunk. It is asked for when the source stands at the chunk's first byte, and filled at once. */
  allocate(bytes: number): Uint8Array | Promise<Uint8Array>;
  /** Takes a filled buffer, which must not be touched afterwards. The record is in its slot once `settle` was waited for, or before. */
  add(data: Uint8Array, slot: ChunkSlot): void | Promise<void>;
  /**
   * Takes all data of a node, which lies in a file from `offset` on and is read by the sink. A path has one byte per code unit. Absent: data
   * must be brought.
   */
  addFile?(from: { path: string; offset: number }, node: TreeNode): Promise<void>;
  /** Waits until all records are in their slots. Absent: they are as soon as `add` is done. */
  settle?(): Promise<void>;
}

/** A list that has room for the chunks of a node and no more: one that grows takes room for 17. */
export function roomForChunks(node: TreeNode, chunkSize: number): StoredChunk[] {
  node.chunks = new Array(Math.ceil(node.size / chunkSize));
  return node.chunks;
}

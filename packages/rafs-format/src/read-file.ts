import type { BlobRecord } from "./blob-record.ts";
import type { Bootstrap, FileChunk, Inode } from "./bootstrap.ts";
import { RafsError } from "./errors.ts";
import type { RandomAccessBootstrap } from "./random-access-bootstrap.ts";

/** Where the data of chunks comes from: a cache, a blob file, a registry. */
export interface ChunkSource {
  /** @returns the uncompressed bytes of the chunk, `chunk.length` of them or more. Whether they are the right ones is its concern. */
  read(chunk: FileChunk, blob: BlobRecord): Promise<Uint8Array>;
}

/**
 * Reads a regular file piece by piece, one chunk in memory at a time.
 *
 * @param range  bytes of the file, `end` not included; what passes the end of the file is left out
 * @throws RafsError RAFS_INODE (no regular file), RAFS_CHUNK, RAFS_SOURCE (a chunk that is too short); what the sources throw
 */
export async function* readFile(
  bootstrap: Bootstrap | RandomAccessBootstrap,
  nid: number,
  chunks: ChunkSource,
  range: { readonly start: number; readonly end: number } = { start: 0, end: Number.MAX_SAFE_INTEGER },
): AsyncGenerator<Uint8Array, void> {
  const inode: Inode = await bootstrap.inode(nid);
  if (inode.type !== "file") throw new RafsError("RAFS_INODE", `inode ${nid} is a ${inode.type}, no regular file`);
  const end = Math.min(range.end, inode.size);
  if (range.start >= end) return;
  for await (const chunk of bootstrap.chunksOf(nid, range.start)) {
    if (chunk.fileOffset >= end) return;
    const blob = bootstrap.blobs[chunk.blobIndex] as BlobRecord;
    const bytes = await chunks.read(chunk, blob);
    if (bytes.length < chunk.length)
      throw new RafsError("RAFS_SOURCE", `chunk ${chunk.chunkIndex} of blob ${blob.id}: ${bytes.length} of ${chunk.length} bytes`);
    const from = Math.max(0, range.start - chunk.fileOffset);
    yield bytes.subarray(from, Math.min(chunk.length, end - chunk.fileOffset));
  }
}

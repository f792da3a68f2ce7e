import { hasFeature } from "./blob-record.ts";
import type { Bootstrap, Inode } from "./bootstrap.ts";
import { RafsError } from "./errors.ts";
import { printable } from "./walk.ts";

/** Bytes of the smaller chunk reference: 8 in v6, a record of 80 in v5. */
const referenceBytes = 8;

/** What `checkBootstrap` met. */
export interface BootstrapSummary {
  /** Names, the root included. */
  readonly names: number;
  readonly inodes: number;
  readonly directories: number;
  readonly files: number;
  readonly symlinks: number;
  readonly xattrs: number;
  /** Chunk references of all files, each hardlinked inode once. */
  readonly chunks: number;
}

/**
 * Reads everything a bootstrap says once: every name, inode, xattr, symlink target, chunk reference and its chunk record, the
 * prefetch table, and in v5 every inode's digest. Inodes that claim the same bytes again and again are refused, so time is bounded by
 * the size of the bootstrap.
 *
 * @throws RafsError the first thing the format forbids; RAFS_CHUNK also for a chunk without record, or shorter than the file needs
 */
export function checkBootstrap(bootstrap: Bootstrap): BootstrapSummary {
  const counts = { names: 0, inodes: 0, directories: 0, files: 0, symlinks: 0, xattrs: 0, chunks: 0 };
  let xattrBytes = 0;
  const seen = new Set<number>();
  for (const { path, nid, inode } of bootstrap.walk()) {
    counts.names++;
    if (seen.has(nid)) continue;
    seen.add(nid);
    counts.inodes++;
    bootstrap.verifyDigest?.(nid);
    for (const [name, value] of bootstrap.xattrs(nid)) {
      counts.xattrs++;
      xattrBytes += name.length + value.length;
    }
    if (xattrBytes > bootstrap.byteLength)
      throw new RafsError("RAFS_XATTR", `xattrs up to ${printable(path)} hold more bytes than the bootstrap`);
    if (inode.type === "dir") counts.directories++;
    if (inode.type === "symlink") {
      counts.symlinks++;
      bootstrap.readLink(nid);
    }
    if (inode.type === "file") {
      counts.files++;
      const references = counts.chunks + inode.size / bootstrap.chunkSize;
      if (references * referenceBytes > bootstrap.byteLength) {
        throw new RafsError("RAFS_CHUNK", `files up to ${printable(path)} need more chunk references than the bootstrap has room for`);
      }
      counts.chunks += checkChunks(bootstrap, inode, path);
    }
  }
  for (const nid of bootstrap.prefetchNids) bootstrap.inode(nid);
  return counts;
}

function checkChunks(bootstrap: Bootstrap, inode: Inode, path: Uint8Array): number {
  let count = 0;
  for (const chunk of bootstrap.chunksOf(inode.nid)) {
    count++;
    const record = bootstrap.chunkRecord(chunk);
    const where = `chunk ${count - 1} of ${printable(path)}`;
    if (record === undefined) {
      throw new RafsError(
        "RAFS_CHUNK",
        `${where}: no record of chunk ${chunk.chunkIndex} of blob ${chunk.blobIndex} at ${chunk.uncompressedOffset}`,
      );
    }
    if (record.uncompressedSize < chunk.length) {
      throw new RafsError("RAFS_CHUNK", `${where}: ${record.uncompressedSize} bytes, the file needs ${chunk.length}`);
    }
    const blob = bootstrap.blobs[chunk.blobIndex];
    if (
      blob !== undefined &&
      !hasFeature(blob, "batch") &&
      record.compressedOffset + record.compressedSize > blob.compressedSize &&
      blob.compressedSize > 0
    ) {
      throw new RafsError("RAFS_CHUNK", `${where}: its stored bytes pass the end of blob ${blob.id}`);
    }
  }
  return count;
}

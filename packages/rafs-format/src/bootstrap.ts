import type { BlobRecord } from "./blob-record.ts";
import type { FileType } from "./constants.ts";

/** One inode, decoded. `nid` names it within its bootstrap: a v6 node number, a v5 index of the inode table. */
export interface Inode {
  readonly nid: number;
  readonly type: FileType;
  /** st_mode with the type bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** v6: a symlink's or file's length, a directory's data; at most 2^53 − 1. */
  readonly size: number;
  readonly nlink: number;
  /** The builder's inode number: equal for all names of a hardlinked inode. */
  readonly ino: number;
  /** Seconds since 1970, signed. */
  readonly mtime: bigint;
  readonly mtimeNsec: number;
  /** Device number of char and block devices, 0 for all else. */
  readonly rdev: number;
}

export interface DirectoryEntry {
  readonly name: Uint8Array;
  readonly nid: number;
  readonly type: FileType;
}

/** A piece of a file that is one chunk of a blob. */
export interface FileChunk {
  readonly fileOffset: number;
  /** Bytes of the chunk that belong to the file. */
  readonly length: number;
  readonly blobIndex: number;
  readonly chunkIndex: number;
  /** In the blob's uncompressed image. */
  readonly uncompressedOffset: number;
}

export interface WalkEntry {
  /** `/` for the root, else `/name/name`. */
  readonly path: Uint8Array;
  readonly nid: number;
  readonly inode: Inode;
}

/** An 80-byte chunk record, decoded. */
export interface ChunkRecord {
  /** Of the uncompressed data, 32 bytes, in place. */
  readonly digest: Uint8Array;
  readonly blobIndex: number;
  readonly chunkIndex: number;
  /** Bits of `chunkFlags`. */
  readonly flags: number;
  readonly compressedSize: number;
  readonly uncompressedSize: number;
  readonly compressedOffset: number;
  readonly uncompressedOffset: number;
  readonly fileOffset: number;
  /** CRC-32C of the uncompressed data; meaningful with flag HAS_CRC32 only. */
  readonly crc32c: number;
}

/**
 * A bootstrap, read in place: the tree of an image, its blobs and its chunk records. v5 and v6 have the same surface.
 * Names, paths and targets are bytes; arrays handed out may be views into the bootstrap. Every access is checked: what the format
 * forbids is a RafsError, thrown where it is met. `checkBootstrap` meets everything.
 */
export interface Bootstrap {
  readonly version: 5 | 6;
  readonly chunkSize: number;
  readonly blockSize: number;
  /** Bits of `superFlags`. */
  readonly flags: bigint;
  readonly rootNid: number;
  /** As the superblock says: v6 names, v5 unique inodes. Not checked against the tree. */
  readonly inodeCount: number;
  /** Bytes of the bootstrap file. */
  readonly byteLength: number;
  readonly blobs: readonly BlobRecord[];
  /** What to read first: nids of files, or of directories that stand for all files below them. */
  readonly prefetchNids: readonly number[];
  inode(nid: number): Inode;
  /** undefined when the directory has no such name. @throws RafsError RAFS_DIRECTORY when `dirNid` is no directory */
  lookup(dirNid: number, name: Uint8Array): number | undefined;
  /** Children in stored order, that is by name bytes, without `.` and `..`. */
  readDir(nid: number): Generator<DirectoryEntry, void>;
  readLink(nid: number): Uint8Array;
  /** Values by full name; the bytes of a name are the code units of its key (latin1). */
  xattrs(nid: number): Map<string, Uint8Array>;
  /** Chunks of a regular file in file order, from the one that holds byte `fromByte` (0); none of other inodes. */
  chunksOf(nid: number, fromByte?: number): Generator<FileChunk, void>;
  /**
   * All names, depth first, children by name bytes; a hardlinked inode once a name. Checks what a tree must be: dot entries, types in
   * directories, no directory reached twice, at most 2048 levels.
   */
  walk(): Generator<WalkEntry, void>;
  /** nid of an absolute path; `.`, `..` and symlinks are not followed. undefined when there is none. */
  resolve(path: string | Uint8Array): number | undefined;
  /**
   * The record of a chunk that `chunksOf` gave: v6 from the chunk table, v5 the inode's own, tarfs made up with an all-zero digest.
   * undefined when there is none. Of BATCH blobs the stored place is not in it; see `openBlobMeta`.
   */
  chunkRecord(chunk: FileChunk): ChunkRecord | undefined;
  /** All chunk records: v6 the chunk table, v5 those of all inodes. */
  chunkRecords(): Generator<ChunkRecord, void>;
  /** Digests of a blob's chunks by chunk index, from the chunk records; undefined where none is recorded. */
  chunkDigests(blobIndex: number): (chunkIndex: number) => Uint8Array | undefined;
  /** Records of a blob's chunks by chunk index, the last one where there are several; undefined where there is none. */
  recordedChunks(blobIndex: number): (chunkIndex: number) => ChunkRecord | undefined;
  /** v5 only: compares the recorded digest of an inode with its content. @throws RafsError RAFS_DIGEST */
  verifyDigest?(nid: number): void;
}

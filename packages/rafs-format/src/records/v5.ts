import { layout } from "../layout.ts";

/** RAFS v5 superblock, at byte 0. Source: spec/rafs.md 3.1. */
export const SUPERBLOCK_V5 = layout("RAFS v5 superblock", 8192, [
  ["magic", 0, "u32"],
  ["version", 4, "u32"],
  ["superblockSize", 8, "u32"],
  ["chunkSize", 12, "u32"],
  ["flags", 16, "u64"],
  ["inodeCount", 24, "u64"], // unique inodes
  ["inodeTableOffset", 32, "u64"],
  ["prefetchTableOffset", 40, "u64"],
  ["blobTableOffset", 48, "u64"],
  ["inodeTableEntries", 56, "u32"],
  ["prefetchTableEntries", 60, "u32"],
  ["blobTableSize", 64, "u32"], // bytes
  ["extendedBlobTableEntries", 68, "u32"],
  ["extendedBlobTableOffset", 72, "u64"],
  ["reserved", 80, 8112],
]);

/** Record of the extended blob table. Source: spec/rafs.md 3.5. */
export const EXTENDED_BLOB_V5 = layout("RAFS v5 extended blob record", 64, [
  ["chunkCount", 0, "u32"],
  ["features", 4, "u32"],
  ["uncompressedSize", 8, "u64"],
  ["compressedSize", 16, "u64"],
  ["reserved", 24, 40],
]);

/** Inode; name, symlink target, xattrs and chunk records follow. Source: spec/rafs.md 3.6. */
export const INODE_V5 = layout("RAFS v5 inode", 128, [
  ["digest", 0, 32],
  ["parent", 32, "u64"],
  ["ino", 40, "u64"],
  ["uid", 48, "u32"],
  ["gid", 52, "u32"],
  ["projectId", 56, "u32"],
  ["mode", 60, "u32"],
  ["size", 64, "u64"],
  ["blocks", 72, "u64"], // of 512 bytes
  ["flags", 80, "u64"],
  ["nlink", 88, "u32"],
  ["childIndex", 92, "u32"],
  ["childCount", 96, "u32"], // of a regular file: chunk records
  ["nameSize", 100, "u16"],
  ["symlinkSize", 102, "u16"],
  ["rdev", 104, "u32"],
  ["mtimeNsec", 108, "u32"],
  ["mtime", 112, "i64"],
  ["reserved", 120, "u64"],
]);

import { layout } from "../layout.ts";

/** EROFS superblock, 1024 bytes into the image. Source: spec/rafs.md 2.2; Linux fs/erofs/erofs_fs.h. */
export const SUPERBLOCK = layout("EROFS superblock", 128, [
  ["magic", 0, "u32"],
  ["checksum", 4, "u32"], // 0: RAFS has none
  ["featureCompat", 8, "u32"],
  ["blockBits", 12, "u8"], // 12, or 9 in tarfs mode
  ["extensionSlots", 13, "u8"], // 0
  ["rootNid", 14, "u16"],
  ["inodeCount", 16, "u64"], // names, hardlinks counted each
  ["buildTime", 24, "u64"],
  ["buildTimeNsec", 32, "u32"],
  ["blocks", 36, "u32"], // sum of the device slots' blocks
  ["metaBlock", 40, "u32"], // block address of the inode area
  ["xattrBlock", 44, "u32"], // 0: no shared xattrs
  ["uuid", 48, 16],
  ["volumeName", 64, 16],
  ["featureIncompat", 80, "u32"],
  ["union", 84, "u16"], // 0
  ["deviceCount", 86, "u16"],
  ["deviceSlot", 88, "u16"], // × 128 bytes; 11
  ["reserved", 90, 38],
]);

/** RAFS extension, right after the EROFS superblock. Source: spec/rafs.md 2.3. */
export const EXTENDED_SUPERBLOCK = layout("RAFS extended superblock", 256, [
  ["flags", 0, "u64"],
  ["blobTableOffset", 8, "u64"],
  ["blobTableSize", 16, "u32"],
  ["chunkSize", 20, "u32"],
  ["chunkTableOffset", 24, "u64"],
  ["chunkTableSize", 32, "u64"],
  ["prefetchTableOffset", 40, "u64"],
  ["prefetchTableSize", 48, "u32"],
  ["padding", 52, "u32"],
  ["reserved", 56, 200],
]);

/** EROFS device slot, one a blob, from byte 1408. Source: spec/rafs.md 2.4. */
export const DEVICE_SLOT = layout("device slot", 128, [
  ["blobId", 0, 64], // NUL padded
  ["blocks", 64, "u32"], // uncompressed size / block size
  ["mappedBlock", 68, "u32"], // in a flattened device
  ["reserved", 72, 56],
]);

/** Record of the blob table. Source: spec/rafs.md 2.5. */
export const BLOB_RECORD = layout("blob record", 256, [
  ["blobId", 0, 64], // NUL padded
  ["blobIndex", 64, "u32"],
  ["chunkSize", 68, "u32"],
  ["chunkCount", 72, "u32"],
  ["compressor", 76, "u32"],
  ["digester", 80, "u32"],
  ["features", 84, "u32"],
  ["compressedSize", 88, "u64"],
  ["uncompressedSize", 96, "u64"],
  ["tocSize", 104, "u32"],
  ["ciCompressor", 108, "u32"],
  ["ciOffset", 112, "u64"],
  ["ciCompressedSize", 120, "u64"],
  ["ciUncompressedSize", 128, "u64"],
  ["tocDigest", 136, 32],
  ["metaDigest", 168, 32], // of an encrypted blob: the key
  ["metaSize", 200, "u64"], // of an encrypted blob: first half of the IV
  ["cipherIv", 208, "u64"], // of an encrypted blob: second half of the IV
  ["cipher", 216, "u32"],
  ["reserved", 220, 36],
]);

/** Inode, extended form (low bit of `format` set). Source: spec/rafs.md 2.6. */
export const INODE_EXTENDED = layout("extended inode", 64, [
  ["format", 0, "u16"],
  ["xattrCount", 2, "u16"],
  ["mode", 4, "u16"],
  ["reserved", 6, "u16"],
  ["size", 8, "u64"],
  ["u", 16, "u32"], // block address, chunk format or rdev
  ["ino", 20, "u32"],
  ["uid", 24, "u32"],
  ["gid", 28, "u32"],
  ["mtime", 32, "i64"],
  ["mtimeNsec", 40, "u32"],
  ["nlink", 44, "u32"],
  ["reserved2", 48, 16],
]);

/** Inode, compact form (low bit of `format` clear). Source: spec/rafs.md 2.6. */
export const INODE_COMPACT = layout("compact inode", 32, [
  ["format", 0, "u16"],
  ["xattrCount", 2, "u16"],
  ["mode", 4, "u16"],
  ["nlink", 6, "u16"],
  ["size", 8, "u32"],
  ["reserved", 12, "u32"],
  ["u", 16, "u32"],
  ["ino", 20, "u32"],
  ["uid", 24, "u16"],
  ["gid", 26, "u16"],
  ["reserved2", 28, "u32"],
]);

/** Head of an inode's xattr area. Source: spec/rafs.md 2.10. */
export const XATTR_HEADER = layout("xattr header", 12, [
  ["nameFilter", 0, "u32"], // 0
  ["sharedCount", 4, "u8"], // 0
  ["reserved", 5, 7],
]);

/** Xattr entry; name suffix and value follow, padded to 4 bytes together. Source: spec/rafs.md 2.10. */
export const XATTR_ENTRY = layout("xattr entry", 4, [
  ["nameLength", 0, "u8"],
  ["prefix", 1, "u8"],
  ["valueSize", 2, "u16"],
]);

/** Directory entry; the names stand after the last entry of the block. Source: spec/rafs.md 2.8. */
export const DIRENT = layout("directory entry", 12, [
  ["nid", 0, "u64"],
  ["nameOffset", 8, "u16"],
  ["type", 10, "u8"],
  ["reserved", 11, "u8"],
]);

/** Chunk index entry of a file. Source: spec/rafs.md 2.9. */
export const CHUNK_INDEX = layout("chunk index entry", 8, [
  ["chunkIndexLow", 0, "u16"],
  ["blobIndexPlus1", 2, "u8"],
  ["chunkIndexHigh", 3, "u8"],
  ["block", 4, "u32"], // uncompressed offset in the blob / block size
]);

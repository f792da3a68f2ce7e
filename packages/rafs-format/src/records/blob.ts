import { layout } from "../layout.ts";

/** Chunk record of v5 inodes and of the v6 chunk table. Source: spec/rafs.md 3.7. */
export const CHUNK_RECORD = layout("chunk record", 80, [
  ["digest", 0, 32], // of the uncompressed data
  ["blobIndex", 32, "u32"],
  ["flags", 36, "u32"],
  ["compressedSize", 40, "u32"],
  ["uncompressedSize", 44, "u32"],
  ["compressedOffset", 48, "u64"],
  ["uncompressedOffset", 56, "u64"],
  ["fileOffset", 64, "u64"],
  ["chunkIndex", 72, "u32"],
  ["crc32c", 76, "u32"],
]);

/** Header of blob meta, right after the chunk info array. Source: spec/rafs.md 5.1. */
export const META_HEADER = layout("blob meta header", 4096, [
  ["magic", 0, "u32"],
  ["features", 4, "u32"], // not compared with the blob table: merge drops a bit there
  ["ciCompressor", 8, "u32"],
  ["ciEntries", 12, "u32"],
  ["ciOffset", 16, "u64"],
  ["ciCompressedSize", 24, "u64"],
  ["ciUncompressedSize", 32, "u64"],
  ["contextOffset", 40, "u64"],
  ["contextSize", 48, "u64"], // contexts and dictionaries
  ["contextCount", 56, "u32"],
  ["reserved", 60, 4032],
  ["magic2", 4092, "u32"],
]);

/** V1 chunk info record, two packed words. Source: spec/rafs.md 5.2. */
export const CHUNK_INFO_V1 = layout("V1 chunk info", 16, [
  ["uncompressed", 0, "u64"],
  ["compressed", 8, "u64"],
]);

/** V2 chunk info record, three packed words. Source: spec/rafs.md 5.3. */
export const CHUNK_INFO_V2 = layout("V2 chunk info", 24, [
  ["uncompressed", 0, "u64"],
  ["compressed", 8, "u64"],
  ["data", 16, "u64"],
]);

/** Batch context. Source: spec/rafs.md 5.4. */
export const BATCH_CONTEXT = layout("batch context", 40, [
  ["compressedSize", 0, "u32"],
  ["uncompressedSize", 4, "u32"],
  ["reserved", 8, 32],
]);

/** Zran context. Source: spec/rafs.md 5.5. */
export const ZRAN_CONTEXT = layout("zran context", 40, [
  ["inOffset", 0, "u64"],
  ["outOffset", 8, "u64"],
  ["dictionaryOffset", 16, "u64"],
  ["inLength", 24, "u32"],
  ["outLength", 28, "u32"],
  ["dictionarySize", 32, "u32"],
  ["primeByte", 36, "u8"],
  ["primeBits", 37, "u8"],
  ["reserved", 38, "u16"],
]);

/** Tar header that follows a section of a blob. Source: spec/rafs.md 6.1; GNU tar manual, "Basic Tar Format". */
export const TAR_HEADER = layout("tar header", 512, [
  ["name", 0, 100],
  ["mode", 100, 8],
  ["uid", 108, 8],
  ["gid", 116, 8],
  ["size", 124, 12], // octal text
  ["mtime", 136, 12],
  ["checksum", 148, 8],
  ["type", 156, "u8"],
  ["linkName", 157, 100],
  ["magic", 257, 8], // "ustar  \0"
  ["rest", 265, 247],
]);

/** Entry of the table of contents at the end of a blob. Source: spec/rafs.md 6.2. */
export const TOC_ENTRY = layout("ToC entry", 128, [
  ["flags", 0, "u32"],
  ["reserved", 4, "u32"],
  ["name", 8, 16],
  ["digest", 24, 32], // SHA-256 of the uncompressed section
  ["offset", 56, "u64"],
  ["compressedSize", 64, "u64"],
  ["uncompressedSize", 72, "u64"],
  ["reserved2", 80, 48],
]);

/** Head of a chunk map file; the bitmap follows. Source: spec/rafs.md 8.1. */
export const CHUNK_MAP_HEADER = layout("chunk map header", 4096, [
  ["magic", 0, "u32"],
  ["version", 4, "u32"],
  ["magic2", 8, "u32"],
  ["allReady", 12, "u32"],
  ["reserved", 16, 4080],
]);

/** Numbers of the RAFS formats. Source: spec/rafs.md, section 1. */

export const rafsV6Magic = 0xe0f5e1e2;
export const rafsV5Magic = 0x52414653;
export const rafsV5Version = 0x500;
export const metaMagic = 0xb10bb10b;
export const chunkMapMagic1 = 0x424d4150;
export const chunkMapMagic2 = 0x434d4150;
export const chunkMapAllReady = 0x4d4d4150;

/** Value of `featureCompat` that says "RAFS v6", and the only `featureIncompat` a v6 image may have (chunked files, device table). */
export const compatRafsV6 = 0x4000_0000;
export const incompatRafsV6 = 0x0000_000c;

export const superblockOffset = 1024;
export const extendedSuperblockOffset = 1152;
export const deviceSlotOffset = 1408;
/** Inodes of v6 lie on multiples of this many bytes; a nid counts them. */
export const inodeSlotSize = 32;

/** Super flags, 64 bits (section 1.3). */
export const superFlags = {
  compressionNone: 0x1n,
  compressionLz4: 0x2n,
  hashBlake3: 0x4n,
  hashSha256: 0x8n,
  explicitUidGid: 0x10n,
  hasXattr: 0x20n,
  compressionGzip: 0x40n,
  compressionZstd: 0x80n,
  inlinedChunkDigest: 0x100n,
  tarfsMode: 0x200n,
  encryptionNone: 0x100_0000n,
  encryptionAes128Xts: 0x200_0000n,
  /** Six reserved bits that readers accept and ignore. */
  preserved: 0xfc00_0000n,
} as const;

/** Feature bits of a blob, 32 bits (section 1.4). */
export const blobFeatures = {
  aligned: 0x1,
  inlinedFsMeta: 0x2,
  chunkInfoV2: 0x4,
  zran: 0x8,
  separate: 0x10,
  inlinedChunkDigest: 0x20,
  tarfs: 0x40,
  batch: 0x80,
  encrypted: 0x100,
  chunkDictGenerated: 0x200,
  separatedWithPrefetchFiles: 0x400,
  external: 0x800,
  hasTarHeader: 0x1000_0000,
  hasToc: 0x2000_0000,
  capTarToc: 0x4000_0000,
} as const;

/** Flags of an 80-byte chunk record (section 1.5). */
export const chunkFlags = { compressed: 0x1, hole: 0x2, encrypted: 0x4, batch: 0x8, crc32: 0x10 } as const;

/** Flags in bits 56…63 of the first word of a V2 chunk info record (section 5.3). */
export const chunkInfoV2Flags = { compressed: 1, zran: 2, batch: 4, encrypted: 8, crc32: 16 } as const;

/** Flags of a v5 inode (section 1.6). */
export const inodeFlagsV5 = { symlink: 0x1, hardlink: 0x2, xattr: 0x4, hasHole: 0x8 } as const;

/** Flags of a ToC entry: how the section is stored (section 6.2). */
export const tocFlags = { raw: 1, zstd: 2, lz4Block: 4 } as const;

export const compressors = ["none", "lz4_block", "gzip", "zstd"] as const;
export const digesters = ["blake3", "sha256"] as const;
export const ciphers = ["none", "aes-128-xts", "aes-256-xts", "aes-256-gcm"] as const;
export type Compressor = (typeof compressors)[number];
export type Digester = (typeof digesters)[number];
export type Cipher = (typeof ciphers)[number];

/** Data layouts of a v6 inode, bits 1…3 of its format word (section 2.6). */
export const inodeLayouts = { plain: 0, inline: 2, chunkBased: 4 } as const;

/** Bit of the chunk format word that says "8-byte index entries"; always set by RAFS (section 2.9). */
export const chunkFormatIndexes = 0x20;

/** File types of a v6 directory entry (section 2.8); the position is the number. */
export const direntTypes = ["unknown", "file", "dir", "char", "block", "fifo", "socket", "symlink"] as const;
export type FileType = Exclude<(typeof direntTypes)[number], "unknown">;

/** `st_mode & modeTypeMask` (inode(7)). */
export const modeTypeMask = 0o170000;
export const modeTypes = {
  fifo: 0o010000,
  char: 0o020000,
  dir: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
} as const satisfies Record<FileType, number>;

/** Xattr prefixes of v6 by index (section 2.10); 2 and 3 are whole names with an empty suffix. */
export const xattrPrefixes = [
  undefined,
  "user.",
  "system.posix_acl_access",
  "system.posix_acl_default",
  "trusted.",
  undefined,
  "security.",
] as const;

/** Names of the sections of a blob, in their tar headers and ToC entries (section 6). */
export const sectionNames = {
  data: "image.blob",
  meta: "blob.meta",
  metaHeader: "blob.meta.header",
  digests: "blob.digest",
  bootstrap: "image.boot",
  toc: "rafs.blob.toc",
} as const;

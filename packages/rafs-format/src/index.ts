export { type BatchContext, BlobMeta, checkChunkInfoSize, openBlobMeta, type ZranContext } from "./blob-meta.ts";
export { type BlobRecord, effectiveBlobId, hasBlobMeta, hasFeature, hasMisplacedMeta, metaBlobId } from "./blob-record.ts";
export type { Bootstrap, ChunkRecord, DirectoryEntry, FileChunk, Inode, WalkEntry } from "./bootstrap.ts";
export { BootstrapV5 } from "./bootstrap-v5.ts";
export { BootstrapV6 } from "./bootstrap-v6.ts";
export {
  cacheFileNames,
  chunkMapFileBytes,
  chunkMapHeaderBytes,
  encodeChunkMapHeader,
  encodeMetaFile,
  metaFileBytes,
  readChunkMap,
  readMetaFile,
} from "./cache-files.ts";
export { type BootstrapSummary, checkBootstrap } from "./check.ts";
export { readChunkRecord } from "./chunk-table.ts";
export {
  blobFeatures,
  type Cipher,
  type Compressor,
  chunkFlags,
  chunkFormatIndexes,
  chunkInfoV2Flags,
  chunkMapAllReady,
  chunkMapMagic1,
  chunkMapMagic2,
  ciphers,
  compatRafsV6,
  compressors,
  type Digester,
  deviceSlotOffset,
  digesters,
  direntTypes,
  extendedSuperblockOffset,
  type FileType,
  incompatRafsV6,
  inodeFlagsV5,
  inodeLayouts,
  inodeSlotSize,
  metaMagic,
  modeTypeMask,
  modeTypes,
  rafsV5Magic,
  rafsV5Version,
  rafsV6Magic,
  sectionNames,
  superblockOffset,
  superFlags,
  tocFlags,
  xattrPrefixes,
} from "./constants.ts";
export { crc32c } from "./crc32c.ts";
export { RafsV5Cursor } from "./cursor-v5.ts";
export { RafsV6Cursor } from "./cursor-v6.ts";
export { RafsError, type RafsErrorCode } from "./errors.ts";
export { type Field, type FieldType, type Layout, layout } from "./layout.ts";
export {
  blobCompressedBytesMax,
  blobsMax,
  blobUncompressedBytesMax,
  chunkBytesMax,
  chunkBytesMin,
  chunkInfoBytesMax,
  chunksPerBlobMax,
  nameBytesMax,
  symlinkBytesMax,
} from "./limits.ts";
export { checkMetaHeader, locateBlobMeta, type MetaHeader, metaHeaderBytes, metaTrailerBytes, readMetaHeader } from "./meta-header.ts";
export { openBootstrap, openCursor } from "./open-bootstrap.ts";
export type { PageCacheOptions, PageStats, RandomAccessSource } from "./random-access.ts";
export { openRandomAccess, type RandomAccessBootstrap } from "./random-access-bootstrap.ts";
export { type ChunkSource, readFile } from "./read-file.ts";
export {
  BATCH_CONTEXT,
  CHUNK_INFO_V1,
  CHUNK_INFO_V2,
  CHUNK_MAP_HEADER,
  CHUNK_RECORD,
  META_HEADER,
  TAR_HEADER,
  TOC_ENTRY,
  ZRAN_CONTEXT,
} from "./records/blob.ts";
export { EXTENDED_BLOB_V5, INODE_V5, SUPERBLOCK_V5 } from "./records/v5.ts";
export {
  BLOB_RECORD,
  CHUNK_INDEX,
  DEVICE_SLOT,
  DIRENT,
  EXTENDED_SUPERBLOCK,
  INODE_COMPACT,
  INODE_EXTENDED,
  SUPERBLOCK,
  XATTR_ENTRY,
  XATTR_HEADER,
} from "./records/v6.ts";
export { bufferSource, fileSource, type HttpSourceOptions, httpSource, type ReadableFile } from "./sources.ts";
export { isBootstrapV5, type SuperblockV5, withoutExtendedTable } from "./superblock-v5.ts";
export { isBootstrapV6, type SuperblockV6 } from "./superblock-v6.ts";
export { readTarHeader, type SectionHeader } from "./tar-header.ts";
export {
  type BlobSection,
  checkSection,
  findInlinedBootstrap,
  readDigestArray,
  readKnownToc,
  readToc,
  type Toc,
  tocEntry,
  tocTailBytes,
} from "./toc.ts";

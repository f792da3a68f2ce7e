export { blobEntry } from "@nydus-ts/rafs-format/writer";
export type { BlobEntry, TreeNode } from "@nydus-ts/rafs-format/writer";
export { adoptImage } from "./adopt-version.ts";
export { type Destination, writeArtifact, writeFileWhole } from "./artifact.ts";
export type { CacheDestination, Version5Options } from "./blob-writer.ts";
export type { FinishedBlob } from "./built-blob.ts";
export type { ChunkSource } from "./chunk-dictionary.ts";
export { type Compressor, compressorNumbers, type Digester, digesterNumbers } from "./codecs.ts";
export { countDropped } from "./collect.ts";
export { CompressPool } from "./compress-pool.ts";
export {
  type CreateOptions,
  type CreateResult,
  type CreateSource,
  createImage,
  type ParentImage,
  writeExternalBootstrap,
} from "./create.ts";
export { type BlobKey, newBlobKey } from "./encryption.ts";
export { BuilderError, type BuilderErrorCode } from "./errors.ts";
export { type ExternalFile, type ExternalFiles, writeBootstrapBlob } from "./external.ts";
export { applyLayers, readArchive, readLayerTree } from "./layer-tree.ts";
export { chunkSizeDefault, chunkSizeMax, chunkSizeMin } from "./limits.ts";
export { type LoadedImage, loadChunks, loadImage, withoutInlinedBootstrap } from "./load-tree.ts";
export { type MergeOptions, type MergeResult, mergeLayers } from "./merge.ts";
export { cloneTree } from "./overlay.ts";
export { type PrefetchPatterns, type PrefetchPolicy, parsePrefetchPatterns } from "./prefetch.ts";
export { type ChunkBytes, RepackedBlob, type RepackOptions } from "./repack.ts";
export type { ChunkSink } from "./sources/chunk-sink.ts";
export type { XattrReader } from "./sources/directory.ts";
export { readPieces } from "./sources/file-pieces.ts";
export type { WhiteoutSpec } from "./whiteouts.ts";
export { IndexThreads } from "./zran/index-threads.ts";

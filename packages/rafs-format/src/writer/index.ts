export { blobEntry } from "./blob-entry.ts";
export {
  type ContextArea,
  type MetaHeader,
  type TocSection,
  writeBatchContexts,
  writeChunkInfo,
  writeMetaHeader,
  writeSectionHeader,
  writeToc,
} from "./blob-tail.ts";
export { type BootstrapOptions, writeBootstrap } from "./bootstrap.ts";
export { writeBootstrapV5 } from "./bootstrap-v5.ts";
export { type BuildBlob, type BuildEntry, type BuildOptions, buildBootstrap } from "./build-bootstrap.ts";
export { directoryBytes, placeTree, roundUp } from "./placement.ts";
export {
  type Batch,
  type BlobEntry,
  forEachDirectory,
  type HardlinkIdentity,
  type NodeAttributes,
  newBlobEntry,
  numberTree,
  type StoredChunk,
  TreeNode,
} from "./tree.ts";
export { splitXattrName, xattrAreaBytes } from "./xattrs.ts";

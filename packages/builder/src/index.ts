export { type Destination, writeFileWhole } from "./artifact.ts";
export { ChunkDictionary, type FinishedBlob } from "./blob-writer.ts";
export { type Compressor, compressorNumbers, type Digester, digesterNumbers } from "./codecs.ts";
export { type CreateOptions, type CreateResult, type CreateSource, createImage, writeEmptyExternalBootstrap } from "./create.ts";
export { BuilderError, type BuilderErrorCode } from "./errors.ts";
export { chunkSizeDefault, chunkSizeMax, chunkSizeMin } from "./limits.ts";
export { type PrefetchPatterns, type PrefetchPolicy, parsePrefetchPatterns } from "./prefetch.ts";
export type { XattrReader } from "./sources/directory.ts";
export type { WhiteoutSpec } from "./whiteouts.ts";

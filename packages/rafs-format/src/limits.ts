import assert from "node:assert/strict";

/** Bytes of one chunk's uncompressed data. Larger values in an image are refused; nobody has to hold more in memory for one chunk. */
export const chunkBytesMax = 16 * 1024 * 1024;
export const chunkBytesMin = 4096;

/** Chunks in one blob; an image that says more is refused. 24 bits, as in a v6 chunk index entry. */
export const chunksPerBlobMax = 2 ** 24;

/** Blobs in one v6 image: index + 1 is stored in 8 bits, and the original's builder stops at 255. */
export const blobsMax = 255;

/** Stored and uncompressed bytes of one v6 blob; a V1 chunk info record has that many bits. Beyond: refused. */
export const blobCompressedBytesMax = 2 ** 40;
export const blobUncompressedBytesMax = 2 ** 44;

/** Bytes of one file name (Linux NAME_MAX). A longer name could not be looked up, so it is refused. */
export const nameBytesMax = 255;

/** Bytes of a symlink's target (Linux PATH_MAX); the original's v6 reader refuses more. */
export const symlinkBytesMax = 4096;

/** Path components below the root when an image is walked. PATH_MAX allows 2048 of them; deeper is refused, not recursed into. */
export const depthMax = 2048;

/**
 * Directories that a walk remembers to refuse one that has two names: those met so far in the directories on its path. 2^20 of them
 * take some 40 MiB; an image with more beside one path is refused.
 */
export const walkDirectoriesMax = 2 ** 20;

/** Bytes of a v5 bootstrap. */
export const bootstrapV5BytesMax = 0x8000_0000;

/** Bytes of a ToC with its tar header, as the blob table gives it. */
export const tocBytesMin = 512;
export const tocBytesMax = 65536;

/** Bytes at the end of a blob that are read to find a ToC nobody announced. */
export const tocProbeBytes = 4096;

/** Bytes of a bootstrap inside a blob, uncompressed; checked before anything is allocated for it. */
export const inlinedBootstrapBytesMax = 2 ** 30;

/** Bytes of one preset dictionary of a zran context: the deflate window. */
export const zranDictionaryBytesMax = 32768;

/**
 * Uncompressed bytes of a blob's chunk info with contexts and dictionaries; checked before anything is allocated.
 * 24 bytes a record, and for zran 40 bytes and a dictionary for every context; 2 GiB holds the index of a 60 GiB layer.
 */
export const chunkInfoBytesMax = 2 ** 31;

assert(chunksPerBlobMax * 24 <= chunkInfoBytesMax, "chunkInfoBytesMax holds the records of a full blob");

import assert from "node:assert/strict";

/** Chunk sizes, bytes, powers of two. Source: spec/rafs.md, section 1.1 */
export const chunkSizeMin = 0x1000;
export const chunkSizeMax = 0x1000000;
export const chunkSizeDefault = 0x100000;

/** Chunks of one blob: the index has 24 bits and the last value is kept free. Beyond it the build fails with BUILD_LIMIT. */
export const chunksPerBlobMax = 0xffffff;

/** Blobs of one image: blob index + 1 is stored in eight bits. Beyond it the build fails with BUILD_LIMIT. */
export const blobsMax = 254;

/**
 * Uncompressed bytes that wait for compression or for their turn to be written. Each may hold a second, compressed copy, so a build keeps to
 * about twice this. Beyond it the source waits. At least one chunk is always let through, so the limit can be below the chunk size.
 */
export const bytesInFlightMax = 12 * 1024 * 1024;

/** Chunks in flight, for builds of tiny files: each is a request to the thread pool. Beyond it the source waits. */
export const chunksInFlightMax = 256;

/** Threads that compress. More than the machine has cores is of no use; beyond eight, reading the source on one thread is the limit. */
export const compressThreadsMax = 8;

/** Chunks handed to a thread at a time: one it works on, and some small ones behind it so that it does not wait for the next. */
export const jobsPerThreadMax = 4;

/** Bytes that are compressed before threads are started: starting one takes 40 ms, which a small image should not pay. */
export const threadStartBytes = 2 * 1024 * 1024;

/** Bytes of output buffers that a compression thread leaves to the garbage collector before it calls it. */
export const threadGarbageBytesMax = 8 * 1024 * 1024;

/** Bytes of chunk buffers that wait to be filled again. As many as can be in flight; more are freed. */
export const spareBytesMax = 12 * 1024 * 1024;

/** Bytes gathered before they are written to the output file, so that tiny chunks do not cost a system call each. */
export const writeBatchBytes = 1024 * 1024;

/** Bytes of an extended tar header (long name, pax records). Linux bounds a path to 4 KiB; xattrs may have 64 KiB each. Beyond it BUILD_TAR. */
export const tarExtensionBytesMax = 16 * 1024 * 1024;

/** Bytes of an eStargz table of contents: about 300 a file. Beyond it BUILD_LIMIT. */
export const tocJsonBytesMax = 256 * 1024 * 1024;

/** Depth of a path. Linux bounds paths to 4096 bytes, so to 2048 components. Beyond it BUILD_LIMIT. */
export const pathDepthMax = 2048;

/** Bytes of a file name. Source: spec/rafs.md, section 1.1 */
export const nameBytesMax = 255;

/** Bytes of a link target: the reader refuses more than 4096. Beyond it BUILD_LIMIT. */
export const linkTargetBytesMax = 4096;

assert(bytesInFlightMax >= chunkSizeDefault && chunkSizeMax >= chunkSizeDefault);

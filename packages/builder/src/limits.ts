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
 * Bytes of chunks that are read, packed or wait to be written, for all blobs that are built at the same time. Results take the place of the
 * data, so a build keeps to about this. Beyond it the source waits. A few buffers are always let through, so the limit can be below the
 * chunk size.
 */
export const bytesInFlightMax = 8 * 1024 * 1024;

/** Bytes of a buffer that chunks are packed in: small files share one, so that they do not cost a message each. At least a chunk fits in. */
export const packBufferBytesMin = 1024 * 1024;

/** Bytes behind what a buffer takes: encoders ask for room for the worst, which for a chunk of 16 MiB is 65,809 bytes more than it has. */
export const packSlackBytes = 68 * 1024;

/** Chunks in one buffer, for builds of tiny files: so much is lost in a failure, and so long a thread is busy. */
export const chunksPerBufferMax = 256;

/** Threads that pack. More than the machine has cores is of no use; beyond eight, reading the source on one thread is the limit. */
export const compressThreadsMax = 8;

/** Buffers handed to a thread at a time: one it works on, and one behind it so that it does not wait for the next. */
export const jobsPerThreadMax = 2;

/** Bytes that are packed before threads are started: starting one takes 40 ms, which a small image should not pay. */
export const threadStartBytes = 2 * 1024 * 1024;

/** Bytes of a decoder's buffers that were used and dropped, after which young objects are collected. */
export const youngGarbageBytesMax = 2 * 1024 * 1024;

/** Bytes gathered before they are written to the output file, so that tiny chunks do not cost a system call each. */
export const writeBatchBytes = 1024 * 1024;

/** Bytes written after which the disk is told to begin with them: at 300 MB/s a pause of the writer is 50 ms, and a sync costs the disk a few. */
export const syncBehindBytes = 16 * 1024 * 1024;

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

/** Symbolic links on the way of a tar member: as many as containerd follows. Beyond it the archive is refused with BUILD_TAR. */
export const linksFollowedMax = 255;

/** Bytes of the path that links lead to, which Linux would not take longer: it is looked up anew at each link. Beyond it BUILD_LIMIT. */
export const followedPathBytesMax = 4096;

assert(bytesInFlightMax >= chunkSizeDefault && chunkSizeMax >= chunkSizeDefault);

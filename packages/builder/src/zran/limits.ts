import assert from "node:assert/strict";

/** Deflate window: what a match can reach, and the size of a preset dictionary. Source: RFC 1951; spec/rafs.md, section 1.1 */
export const windowBytes = 32768;

/** Pieces in which input is decoded. The positions that images record depend on it: the original reads in pieces of this size. Source: nydus-image.md 6.4 */
export const inputPieceBytes = 65536;

/** Output kept besides the window. More does not make it faster. */
export const outputBytes = 512 * 1024;

/** Bytes of a gzip member's header: its name and comment have no length of their own. Beyond it BUILD_LIMIT. */
export const memberHeaderBytesMax = 256 * 1024;

/** Where contexts are cut, in bytes; independent of the chunk size. Source: spec/nydus-image.md, section 6.4 */
export const contextInputBytesMin = 512 * 1024;
export const contextInputBytesMax = 1024 * 1024;
export const contextOutputBytesMax = 2 * 1024 * 1024;

/** Output of one context, which a reader holds in memory: one chunk of the largest size can pass the limit above. Source: spec/rafs.md, section 10 */
export const contextOutputBytesRefused = 16 * 1024 * 1024;

/** Dictionaries in memory: those of about 200 MB of a layer. Beyond it they go to a temporary file, and the index is put together there. */
export const dictionaryBytesKept = 8 * 1024 * 1024;

/** Bytes of a piece of a layer that goes to a thread, and pieces that are there at the same time: the thread works while others come in. */
export const threadPieceBytes = 256 * 1024;
export const threadPiecesMax = 4;

/** Members and chunks that a thread tells at a time. */
export const foundChunksPerMessage = 256;

/** Bytes of layers that are indexed before threads are started: starting one takes 40 ms, which small layers should not pay. */
export const indexThreadStartBytes = 2 * 1024 * 1024;

assert(outputBytes >= windowBytes && inputPieceBytes >= 1024);

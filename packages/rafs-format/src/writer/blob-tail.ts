/** What follows the chunks of a blob: chunk info records, their header, tar headers, table of contents. Source: spec/rafs.md, sections 5 and 6 */
import assert from "node:assert/strict";
import { chunkFlags, chunkInfoV2Flags, metaMagic } from "../constants.ts";
import { RafsError } from "../errors.ts";
import { BATCH_CONTEXT, CHUNK_INFO_V1, CHUNK_INFO_V2, META_HEADER, TAR_HEADER, TOC_ENTRY } from "../records/blob.ts";
import type { Batch, StoredChunk } from "./tree.ts";

/** Chunk info array; record i belongs to chunk index i. Chunks in a batch need version 2. */
export function writeChunkInfo(chunks: readonly StoredChunk[], options: { version: 1 | 2 }): Buffer {
  const recordSize = options.version === 1 ? CHUNK_INFO_V1.recordSize : CHUNK_INFO_V2.recordSize;
  const out = Buffer.alloc(chunks.length * recordSize);
  for (const [i, chunk] of chunks.entries()) {
    assert.equal(chunk.index, i, "chunks come in index order");
    assert.equal(chunk.uncompressedOffset % 4096, 0, "chunks of v6 are aligned");
    assert(options.version === 2 || !chunk.place, "batches need version 2");
    if (options.version === 1) writeV1(out, i * recordSize, chunk);
    else writeV2(out, i * recordSize, chunk);
  }
  return out;
}

function writeV1(out: Buffer, at: number, chunk: StoredChunk): void {
  const uncompressed = BigInt(chunk.uncompressedSize - 1);
  const compressed = BigInt(chunk.compressedSize - 1);
  out.writeBigUInt64LE(
    BigInt(chunk.uncompressedOffset) | ((uncompressed >> 20n) << 8n) | ((uncompressed & 0xfffffn) << 44n),
    at + CHUNK_INFO_V1.uncompressed,
  );
  out.writeBigUInt64LE(
    BigInt(chunk.compressedOffset) | ((compressed >> 20n) << 40n) | ((compressed & 0xfffffn) << 44n),
    at + CHUNK_INFO_V1.compressed,
  );
}

function writeV2(out: Buffer, at: number, chunk: StoredChunk): void {
  if (chunk.compressedSize >= 2 ** 24) {
    throw new RafsError(
      "RAFS_CHUNK",
      `chunk ${chunk.index} is stored in ${chunk.compressedSize} bytes: V2 chunk info holds less than 2^24; use a smaller chunk size`,
    );
  }
  const { place } = chunk;
  let flags = 0;
  if (place) flags |= chunkInfoV2Flags.compressed | chunkInfoV2Flags.batch;
  else if (chunk.flags & chunkFlags.compressed) flags |= chunkInfoV2Flags.compressed;
  if (chunk.flags & chunkFlags.encrypted) flags |= chunkInfoV2Flags.encrypted;
  // The data word of a member of a batch says where it lies, so there is no room for its checksum.
  const hasCrc = !place && (chunk.flags & chunkFlags.crc32) !== 0;
  if (hasCrc) flags |= chunkInfoV2Flags.crc32;
  out.writeBigUInt64LE(
    BigInt(chunk.uncompressedOffset / 4096) | (BigInt(chunk.uncompressedSize - 1) << 32n) | (BigInt(flags) << 56n),
    at + CHUNK_INFO_V2.uncompressed,
  );
  const storedOffset = place?.batch.storedOffset ?? chunk.compressedOffset;
  out.writeBigUInt64LE(BigInt(storedOffset) | (BigInt(chunk.compressedSize) << 40n), at + CHUNK_INFO_V2.compressed);
  const word = place ? (BigInt(place.batch.index) << 32n) | BigInt(place.offset) : BigInt(hasCrc ? chunk.crc32 : 0);
  out.writeBigUInt64LE(word, at + CHUNK_INFO_V2.data);
}

/** One context a batch, in index order: they follow the chunk info records. Source: spec/rafs.md, section 5.4 */
export function writeBatchContexts(batches: readonly Batch[]): Buffer {
  const out = Buffer.alloc(batches.length * BATCH_CONTEXT.recordSize);
  for (const [i, batch] of batches.entries()) {
    assert.equal(batch.index, i, "batches come in index order");
    out.writeUInt32LE(batch.storedSize, i * BATCH_CONTEXT.recordSize + BATCH_CONTEXT.compressedSize);
    out.writeUInt32LE(batch.plainSize, i * BATCH_CONTEXT.recordSize + BATCH_CONTEXT.uncompressedSize);
  }
  return out;
}

export interface MetaHeader {
  features: number;
  ciCompressor: number;
  ciEntries: number;
  ciOffset: number;
  ciCompressedSize: number;
  ciUncompressedSize: number;
  contexts?: ContextArea | undefined;
}

/** Contexts behind the chunk info records. Source: spec/rafs.md, section 5.1 */
export interface ContextArea {
  count: number;
  /** of the first context, in the plain chunk info */
  offset: number;
  /** contexts and dictionaries */
  size: number;
}

/** Header of the blob meta, which follows the chunk info array. */
export function writeMetaHeader(values: MetaHeader): Buffer {
  const out = Buffer.alloc(META_HEADER.recordSize);
  out.writeUInt32LE(metaMagic, META_HEADER.magic);
  out.writeUInt32LE(values.features, META_HEADER.features);
  out.writeUInt32LE(values.ciCompressor, META_HEADER.ciCompressor);
  out.writeUInt32LE(values.ciEntries, META_HEADER.ciEntries);
  out.writeBigUInt64LE(BigInt(values.ciOffset), META_HEADER.ciOffset);
  out.writeBigUInt64LE(BigInt(values.ciCompressedSize), META_HEADER.ciCompressedSize);
  out.writeBigUInt64LE(BigInt(values.ciUncompressedSize), META_HEADER.ciUncompressedSize);
  if (values.contexts) {
    out.writeBigUInt64LE(BigInt(values.contexts.offset), META_HEADER.contextOffset);
    out.writeBigUInt64LE(BigInt(values.contexts.size), META_HEADER.contextSize);
    out.writeUInt32LE(values.contexts.count, META_HEADER.contextCount);
  }
  out.writeUInt32LE(metaMagic, META_HEADER.magic2);
  return out;
}

/** Tar header that follows a section of `size` bytes. Section 6.1: mode, uid and gid stay NUL, the magic is GNU's. */
export function writeSectionHeader(name: string, size: number): Buffer {
  const out = Buffer.alloc(TAR_HEADER.recordSize);
  out.write(name, TAR_HEADER.name, "latin1");
  out.write(size.toString(8).padStart(11, "0"), TAR_HEADER.size, "latin1");
  out.write("00000000000", TAR_HEADER.mtime, "latin1");
  out.write("0", TAR_HEADER.type, "latin1");
  out.write("ustar  \0", TAR_HEADER.magic, "latin1");
  out.fill(" ", TAR_HEADER.checksum, TAR_HEADER.checksum + 8, "latin1");
  const sum = out.reduce((total, byte) => total + byte, 0);
  out.write(sum.toString(8).padStart(7, "0") + "\0", TAR_HEADER.checksum, "latin1");
  return out;
}

export interface TocSection {
  flags: number;
  name: string;
  /** SHA-256 of the uncompressed section */
  digest: Uint8Array;
  offset: number;
  compressedSize: number;
  uncompressedSize: number;
}

/** Table of contents with its own tar header: the end of the blob. */
export function writeToc(sections: readonly TocSection[], tocName: string): Buffer {
  const out = Buffer.alloc(sections.length * TOC_ENTRY.recordSize);
  for (const [i, section] of sections.entries()) {
    const at = i * TOC_ENTRY.recordSize;
    out.writeUInt32LE(section.flags, at + TOC_ENTRY.flags);
    out.write(section.name, at + TOC_ENTRY.name, "latin1");
    out.set(section.digest, at + TOC_ENTRY.digest);
    out.writeBigUInt64LE(BigInt(section.offset), at + TOC_ENTRY.offset);
    out.writeBigUInt64LE(BigInt(section.compressedSize), at + TOC_ENTRY.compressedSize);
    out.writeBigUInt64LE(BigInt(section.uncompressedSize), at + TOC_ENTRY.uncompressedSize);
  }
  return Buffer.concat([out, writeSectionHeader(tocName, out.length)]);
}

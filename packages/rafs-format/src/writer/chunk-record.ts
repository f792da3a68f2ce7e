import { chunkFlags } from "../constants.ts";
import { CHUNK_RECORD } from "../records/blob.ts";
import type { StoredChunk } from "./tree.ts";

/** 80-byte chunk record, shared by the v6 chunk table and v5 inodes. Source: spec/rafs.md, section 3.7 */
export function writeChunkRecord(out: Buffer, at: number, chunk: StoredChunk, blobIndex: number, fileOffset: number): void {
  out.set(chunk.digest, at + CHUNK_RECORD.digest);
  out.writeUInt32LE(blobIndex, at + CHUNK_RECORD.blobIndex);
  out.writeUInt32LE(chunk.flags, at + CHUNK_RECORD.flags);
  out.writeUInt32LE(chunk.compressedSize, at + CHUNK_RECORD.compressedSize);
  out.writeUInt32LE(chunk.uncompressedSize, at + CHUNK_RECORD.uncompressedSize);
  out.writeBigUInt64LE(BigInt(chunk.compressedOffset), at + CHUNK_RECORD.compressedOffset);
  out.writeBigUInt64LE(BigInt(chunk.uncompressedOffset), at + CHUNK_RECORD.uncompressedOffset);
  out.writeBigUInt64LE(BigInt(fileOffset), at + CHUNK_RECORD.fileOffset);
  out.writeUInt32LE(chunk.index, at + CHUNK_RECORD.chunkIndex);
  out.writeUInt32LE(chunk.flags & chunkFlags.crc32 ? chunk.crc32 : 0, at + CHUNK_RECORD.crc32c);
}

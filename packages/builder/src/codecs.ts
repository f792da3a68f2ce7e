/** Names, numbers and encoders of compressors and digests. Source: spec/rafs.md, section 1.2; spec/nydus-image.md, sections 5.3 and 5.4 */
import { createHash, hash } from "node:crypto";
import { zstdCompressSync } from "node:zlib";
import { blake3 } from "@napi-rs/blake-hash";
import { compressSync as lz4Compress } from "lz4-napi";

export const compressorNumbers = { none: 0, lz4_block: 1, gzip: 2, zstd: 3 } as const;
export type Compressor = "none" | "lz4_block" | "zstd";
export const digesterNumbers = { blake3: 0, sha256: 1 } as const;
export type Digester = keyof typeof digesterNumbers;

/** lz4-napi puts the uncompressed size in front of the block; RAFS knows it from the chunk record. */
const lz4SizePrefixBytes = 4;

/** Largest output of zstd for `size` bytes. Source: ZSTD_COMPRESSBOUND in zstd.h */
export function zstdBound(size: number): number {
  return size + (size >>> 8) + (size < 131072 ? (131072 - size) >>> 11 : 0);
}

export interface Compressed {
  bytes: Uint8Array;
  compressed: boolean;
}

/**
 * Compresses in this thread. What does not get smaller is kept as it is.
 *
 * zstd only by its synchronous call: it hands everything over at once, so the frame records its content size and is made in one shot. The
 * asynchronous call gives other bytes, and an image must not depend on the path its chunks took.
 */
export function compressHere(data: Uint8Array, compressor: Compressor): Compressed {
  if (compressor === "none" || data.length === 0) return { bytes: data, compressed: false };
  const bytes =
    compressor === "zstd"
      ? zstdCompressSync(data, { chunkSize: Math.max(64, zstdBound(data.length)) })
      : lz4Compress(Buffer.from(data.buffer, data.byteOffset, data.length)).subarray(lz4SizePrefixBytes);
  return bytes.length < data.length ? { bytes, compressed: true } : { bytes: data, compressed: false };
}

export function digest(data: Uint8Array, digester: Digester): Uint8Array {
  return digester === "blake3" ? blake3(data) : hash("sha256", data, "buffer");
}

export function digestInto(target: Uint8Array, at: number, data: Uint8Array, digester: Digester): void {
  target.set(digest(data, digester), at);
}

export function sha256(...parts: Uint8Array[]): Buffer {
  const running = createHash("sha256");
  for (const part of parts) running.update(part);
  return running.digest();
}

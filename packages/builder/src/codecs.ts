/** Names, numbers and encoders of compressors and digests. Source: spec/rafs.md, section 1.2; spec/nydus-image.md, sections 5.3 and 5.4 */
import { blake3 } from "@napi-rs/blake-hash";
import { compressLz4 } from "./lz4.ts";
import { onDemand } from "./on-demand.ts";
import { compressZstd } from "./zstd.ts";

export const compressorNumbers = { none: 0, lz4_block: 1, gzip: 2, zstd: 3 } as const;
export type Compressor = "none" | "lz4_block" | "zstd";
export const digesterNumbers = { blake3: 0, sha256: 1 } as const;
export type Digester = keyof typeof digesterNumbers;

export interface Compressed {
  bytes: Uint8Array;
  compressed: boolean;
}

/** Compresses in this thread. What does not get smaller is kept as it is. */
export function compressHere(data: Uint8Array, compressor: Compressor): Compressed {
  const bytes = encode(data, compressor);
  return bytes.length < data.length ? { bytes: new Uint8Array(bytes), compressed: true } : { bytes: data, compressed: false };
}

/**
 * The same, put where `target` starts, which may be the data's own memory or before it; in memory of its own, with some room behind, it is
 * not copied. Returns how many bytes were put there; as many as
 * the data has: it did not get smaller, or `refuses` said so, and went there as it is.
 */
export function compressTo(target: Uint8Array, data: Uint8Array, compressor: Compressor, refuses: (bytes: Uint8Array) => boolean): number {
  const bytes = encode(data, compressor, target.buffer === data.buffer ? undefined : target);
  const stored = bytes.length >= data.length || refuses(bytes) ? data : bytes;
  if (stored.buffer !== target.buffer || stored.byteOffset !== target.byteOffset) target.set(stored);
  return stored.length;
}

/** Put into `target` if that has room; else valid until the next call in this thread. */
function encode(data: Uint8Array, compressor: Compressor, target?: Uint8Array): Uint8Array {
  if (compressor === "none" || data.length === 0) return data;
  return compressor === "zstd" ? compressZstd(data, target) : compressLz4(data, target);
}

export function digest(data: Uint8Array, digester: Digester): Uint8Array {
  return digester === "blake3" ? blake3(data) : onDemand.crypto.hash("sha256", data, "buffer");
}

export function digestInto(target: Uint8Array, at: number, data: Uint8Array, digester: Digester): void {
  target.set(digest(data, digester), at);
}

export function sha256(...parts: Uint8Array[]): Buffer {
  const running = onDemand.crypto.createHash("sha256");
  for (const part of parts) running.update(part);
  return running.digest();
}

import { createDecipheriv } from "node:crypto";
import { ChunkStoreError, describeCause } from "../errors.ts";

const blockBytes = 16;
const paddedBytes = 18;

/**
 * Decrypts one stored item: AES-128-XTS, the whole item one data unit, ciphertext stealing for lengths that are no multiple of 16.
 * Items that were shorter than 16 bytes come back without their padding.
 *
 * @param key  32 bytes: data key, then tweak key
 * @param iv  16 bytes, the tweak; the same for every item of a blob
 * @throws ChunkStoreError CHUNK_DECODE
 * Source: spec/rafs.md 4.3
 */
export function decryptXts(stored: Uint8Array, key: Uint8Array, iv: Uint8Array): Uint8Array {
  if (stored.length < blockBytes) throw new ChunkStoreError("CHUNK_DECODE", `aes-128-xts: item of ${stored.length} bytes, at least 16`);
  let plain: Uint8Array;
  try {
    plain = createDecipheriv("aes-128-xts", key, iv).update(stored);
  } catch (cause) {
    throw new ChunkStoreError("CHUNK_DECODE", `aes-128-xts: ${describeCause(cause)}`, { cause });
  }
  if (plain.length !== paddedBytes || plain[16] !== 0x78 || plain[17] !== 0x90) return plain;
  const padding = plain[15] as number;
  if (padding >= blockBytes) throw new ChunkStoreError("CHUNK_DECODE", `aes-128-xts: padding of ${padding} bytes in a block of 16`);
  return plain.subarray(0, blockBytes - padding);
}

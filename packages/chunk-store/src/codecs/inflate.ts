import { constants, inflateRawSync } from "node:zlib";
import { ChunkStoreError, describeCause } from "../errors.ts";

/** Output beyond what is wanted: the input of a zran context may hold a few symbols of the next chunk. */
const surplusBytesMax = 64 * 1024;

export interface Inflated {
  readonly data: Uint8Array;
  /** Input bytes used; fewer than given when the deflate stream ended before. */
  readonly consumed: number;
}

/**
 * Decodes a raw deflate stream as far as the input goes. The output is at most 64 KiB longer than `sizeMax`.
 *
 * @throws ChunkStoreError CHUNK_DECODE
 */
export function inflateRaw(input: Uint8Array, sizeMax: number, dictionary?: Uint8Array): Inflated {
  try {
    const options = { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: sizeMax + surplusBytesMax, info: true };
    const result = inflateRawSync(input, dictionary === undefined || dictionary.length === 0 ? options : { ...options, dictionary });
    const { buffer, engine } = result as unknown as { buffer: Uint8Array; engine: { bytesWritten: number } };
    return { data: buffer, consumed: engine.bytesWritten };
  } catch (cause) {
    throw new ChunkStoreError("CHUNK_DECODE", `deflate: ${describeCause(cause)}`, { cause });
  }
}

/**
 * Length of the gzip member header at `offset` (RFC 1952).
 *
 * @throws ChunkStoreError CHUNK_DECODE when there is none or it is cut off
 */
export function gzipHeaderBytes(input: Uint8Array, offset: number): number {
  if (!isGzipMember(input, offset)) throw new ChunkStoreError("CHUNK_DECODE", "gzip: no member header where one must be");
  const flags = input[offset + 3] as number;
  let at = offset + 10;
  if ((flags & 4) !== 0) at += 2 + ((input[at] ?? 0) | ((input[at + 1] ?? 0) << 8));
  for (const named of [8, 16]) {
    if ((flags & named) === 0) continue;
    const nul = input.indexOf(0, at);
    at = nul < 0 ? input.length : nul + 1;
  }
  if ((flags & 2) !== 0) at += 2;
  if (at >= input.length) throw new ChunkStoreError("CHUNK_DECODE", "gzip: member header is cut off");
  return at - offset;
}

export const isGzipMember = (input: Uint8Array, offset: number): boolean =>
  input[offset] === 0x1f && input[offset + 1] === 0x8b && input[offset + 2] === 8;

/** A tar pads its members to 512 bytes, and eStargz compresses the padding with the last chunk of a file. Source: stargz-snapshotter, docs/estargz.md */
const tarPaddingMax = 511;

/**
 * Decodes one gzip member, of which the first `size` bytes are the chunk and the rest is the padding of a tar. What follows the member is
 * left alone.
 *
 * @throws ChunkStoreError CHUNK_DECODE
 */
export function decompressGzip(stored: Uint8Array, size: number): Uint8Array {
  const { data } = inflateRaw(stored.subarray(gzipHeaderBytes(stored, 0)), size);
  if (data.length < size || data.length > size + tarPaddingMax)
    throw new ChunkStoreError("CHUNK_DECODE", `gzip: decodes to ${data.length} bytes, recorded are ${size}`);
  return data.subarray(0, size);
}

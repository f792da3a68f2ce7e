import type { ZranContext } from "@nydus-ts/rafs-format";
import { ChunkStoreError } from "../errors.ts";
import { gzipHeaderBytes, inflateRaw, isGzipMember } from "./inflate.ts";

const gzipTrailerBytes = 8;

/**
 * Decodes the output of a zran context: deflate data from the middle of a gzip file.
 *
 * @param input  the gzip file's bytes [inOffset, inOffset + inLength)
 * @returns exactly `outLength` bytes
 * @throws ChunkStoreError CHUNK_DECODE
 * Source: spec/rafs.md 5.5
 */
export function decodeZran(input: Uint8Array, context: ZranContext): Uint8Array {
  try {
    return decodeFrom(primed(input, context), context.dictionary, context.outLength);
  } catch (error) {
    const recovered = decodeFromMember(input, context);
    if (recovered === undefined) throw error;
    return recovered;
  }
}

/**
 * The context may name the end of a member, where the original's images can't be read by the original: the next member follows the
 * trailer. undefined when none begins there.
 */
export function decodeFromMember(input: Uint8Array, context: ZranContext): Uint8Array | undefined {
  if (!isGzipMember(input, gzipTrailerBytes)) return undefined;
  const member = input.subarray(gzipTrailerBytes);
  return decodeFrom(member.subarray(gzipHeaderBytes(member, 0)), undefined, context.outLength);
}

/** Raw deflate data, then perhaps more whole gzip members, until `size` bytes are there. */
function decodeFrom(start: Uint8Array, dictionary: Uint8Array | undefined, size: number): Uint8Array {
  const parts: Uint8Array[] = [];
  let missing = size;
  let input = start;
  let window = dictionary;
  for (;;) {
    const { data, consumed } = inflateRaw(input, missing, window);
    parts.push(data.length > missing ? data.subarray(0, missing) : data);
    missing -= Math.min(missing, data.length);
    if (missing === 0) return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
    const member = input.subarray(consumed + gzipTrailerBytes);
    if (consumed + gzipTrailerBytes >= input.length) {
      throw new ChunkStoreError("CHUNK_DECODE", `zran: the input ends ${missing} bytes before the ${size} recorded`);
    }
    input = member.subarray(gzipHeaderBytes(member, 0));
    window = undefined;
  }
}

/**
 * The stream begins with some bits of the byte before the input. Node's zlib has no `inflatePrime`, and the stream must not be
 * shifted (stored blocks lie on the byte borders of the original): so empty, non-final blocks fill the byte up to those bits.
 */
function primed(input: Uint8Array, { primeBits, primeByte }: ZranContext): Uint8Array {
  if (primeBits === 0) return input;
  const bits = new BitWriter();
  const fill = (8 - primeBits) & 7;
  if (fill % 2 === 1) writeEmptyDynamicBlock(bits);
  // An empty fixed block has 10 bits, 2 modulo 8; the dynamic one has 93, 5 modulo 8.
  const left = (fill % 2 === 1 ? fill + 3 : fill) & 7;
  for (let blocks = left / 2; blocks > 0; blocks--) bits.write(0b010, 10);
  bits.write(primeByte >> (8 - primeBits), primeBits);
  return Buffer.concat([bits.finish(), input]);
}

/** A dynamic Huffman block with end-of-block as its only literal code (RFC 1951, 3.2.7): 93 bits. */
function writeEmptyDynamicBlock(bits: BitWriter): void {
  bits.write(0, 1);
  bits.write(2, 2);
  bits.write(0, 5);
  bits.write(0, 5);
  bits.write(14, 4);
  // Lengths of the code length codes in the order 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1.
  for (const length of [0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]) bits.write(length, 3);
  // Codes: 0 is `0`, 1 is `10`, 18 is `11`; Huffman codes go most significant bit first.
  bits.write(0b11, 2);
  bits.write(127, 7);
  bits.write(0b11, 2);
  bits.write(107, 7);
  bits.write(0b01, 2);
  bits.write(0, 1);
  bits.write(0, 1);
}

class BitWriter {
  readonly #bytes: number[] = [];
  #current = 0;
  #filled = 0;

  /** Least significant bit first. */
  write(value: number, count: number): void {
    for (let bit = 0; bit < count; bit++) {
      this.#current |= ((value >> bit) & 1) << this.#filled;
      if (++this.#filled === 8) {
        this.#bytes.push(this.#current);
        this.#current = 0;
        this.#filled = 0;
      }
    }
  }

  finish(): Uint8Array {
    if (this.#filled !== 0) throw new TypeError("the bits do not end on a byte border");
    return Uint8Array.from(this.#bytes);
  }
}

/** Gzip files of several kinds, and a decoder of contexts that uses nothing of the builder. */
import { execFileSync } from "node:child_process";
import { constants, crc32, deflateRawSync, gzipSync, inflateRawSync } from "node:zlib";

/** Bytes that compress here well and there not at all; the same for the same seed. */
export function mixedBytes(length: number, seed: number): Buffer {
  const out = Buffer.alloc(length);
  let state = seed | 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  for (let at = 0; at < length; ) {
    const run = Math.min(length - at, 200 + (next() % 60_000));
    const kind = next() % 4;
    for (let i = 0; i < run; i++, at++) {
      if (kind === 0) out[at] = next();
      else if (kind === 1) out[at] = 0;
      else if (kind === 2) out[at] = 97 + (next() % 7);
      else out[at] = at >= 4000 ? out[at - 1 - (next() % 3999)] : next();
    }
  }
  return out;
}

type Encoder = (data: Buffer) => Buffer;

/** A gzip member around a deflate stream that is made of several, with empty stored blocks between. */
function flushed(data: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < data.length; at += 100_001) {
    const isLast = at + 100_001 >= data.length;
    const finishFlush = isLast ? constants.Z_FINISH : constants.Z_SYNC_FLUSH;
    parts.push(deflateRawSync(data.subarray(at, at + 100_001), { finishFlush, level: (at % 9) + 1 }));
  }
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32(data), 0);
  trailer.writeUInt32LE(data.length, 4);
  // Extra field, name and comment, as RFC 1952 has them.
  const header = Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 4 | 8 | 16, 0, 0, 0, 0, 0, 3, 3, 0, 1, 2, 3]), Buffer.from("name\0comment\0")]);
  return Buffer.concat([header, ...parts, trailer]);
}

function members(data: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < data.length; at += 77_777) parts.push(gzipSync(data.subarray(at, at + 77_777), { level: 1 + (at % 9) }));
  return Buffer.concat(parts);
}

export const encoders: ReadonlyArray<[name: string, encode: Encoder]> = [
  ["zlib level 1", (data) => gzipSync(data, { level: 1 })],
  ["zlib level 6", (data) => gzipSync(data, { level: 6 })],
  ["zlib level 9", (data) => gzipSync(data, { level: 9 })],
  ["stored blocks", (data) => gzipSync(data, { level: 0 })],
  ["fixed codes", (data) => gzipSync(data, { strategy: constants.Z_FIXED })],
  ["Huffman codes only", (data) => gzipSync(data, { strategy: constants.Z_HUFFMAN_ONLY })],
  ["runs only", (data) => gzipSync(data, { strategy: constants.Z_RLE })],
  ["a window of 512 bytes", (data) => gzipSync(data, { windowBits: 9, memLevel: 1 })],
  ["flushed streams, a header with every field", flushed],
  ["several members", members],
  ["gzip(1)", (data) => execFileSync("gzip", ["-9nc"], { input: data, maxBuffer: 2 ** 30 })],
  ["gzip(1) --rsyncable", (data) => execFileSync("gzip", ["--rsyncable", "-nc"], { input: data, maxBuffer: 2 ** 30 })],
];

export interface Context {
  inPosition: number;
  inLength: number;
  outLength: number;
  primeBits: number;
  primeByte: number;
  dictionary: Uint8Array;
}

/** Inflates a context with node:zlib: bits of the byte before go in front of a whole stream of empty blocks. Source: spec/rafs.md 5.5 */
export function inflateContext(file: Buffer, context: Context): Buffer {
  let input = Buffer.concat([
    primer(context.primeBits, context.primeByte),
    file.subarray(context.inPosition, context.inPosition + context.inLength),
  ]);
  let dictionary: Uint8Array | undefined = context.dictionary.length > 0 ? context.dictionary : undefined;
  const parts: Buffer[] = [];
  let bytes = 0;
  while (bytes < context.outLength) {
    const result = inflateRawSync(input, { finishFlush: constants.Z_SYNC_FLUSH, info: true, ...(dictionary ? { dictionary } : {}) });
    const { buffer, engine } = result as unknown as { buffer: Buffer; engine: { bytesWritten: number } };
    parts.push(buffer);
    bytes += buffer.length;
    if (bytes >= context.outLength) break;
    const member = input.subarray(engine.bytesWritten + 8);
    if (member[0] !== 0x1f) throw new Error(`a context ends ${context.outLength - bytes} bytes early`);
    input = member.subarray(10);
    dictionary = undefined;
  }
  return Buffer.concat(parts).subarray(0, context.outLength);
}

/** Empty blocks that leave exactly `bits` bits of their last byte to `byte`'s upper bits. */
function primer(bits: number, byte: number): Buffer {
  if (bits === 0) return Buffer.alloc(0);
  const stream: number[] = [];
  const emptyFixed = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
  const fill = 8 - bits;
  if (fill % 2 === 1) stream.push(...emptyDynamic());
  while (stream.length % 8 !== fill) stream.push(...emptyFixed);
  for (let bit = fill; bit < 8; bit++) stream.push((byte >> bit) & 1);
  const out = Buffer.alloc(stream.length / 8);
  for (const [i, bit] of stream.entries()) out[i >> 3] |= bit << (i & 7);
  return out;
}

/** 93 bits: a dynamic block whose only literal code is that of its end. */
function emptyDynamic(): number[] {
  const bits: number[] = [];
  const number = (value: number, count: number) => {
    for (let bit = 0; bit < count; bit++) bits.push((value >> bit) & 1);
  };
  number(0, 1);
  number(2, 2);
  number(0, 5);
  number(0, 5);
  number(14, 4);
  for (const length of [0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]) number(length, 3);
  bits.push(1, 1);
  number(127, 7);
  bits.push(1, 1);
  number(107, 7);
  bits.push(1, 0, 0, 0);
  return bits;
}

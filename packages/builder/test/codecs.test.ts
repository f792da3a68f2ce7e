import { randomBytes } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";
import { crc32c as portableCrc32c } from "@nydus-ts/rafs-format";
import { crc32c } from "@node-rs/crc32";
import { uncompressSync } from "lz4-napi";
import { describe, expect, test } from "vitest";
import { compressHere, compressInPlace } from "../src/codecs.ts";
import { compressByZlib, compressZstd } from "../src/zstd.ts";

/** Of sizes on both sides of every limit of the encoders, that compress well, a little and not at all; in memory that threads share, as chunks are. */
function samples(): Buffer[] {
  const sizes = [1, 2, 63, 64, 4095, 4096, 16_384, 131_071, 131_072, 300_000, 0x100000, 0x100001, 0x400000];
  return sizes.flatMap((size) => [shared(randomBytes(size)), shared(words(size)), shared(Buffer.alloc(size))]);
}

function words(size: number): Buffer {
  const words = Array.from({ length: Math.ceil(size / 8) }, (_, i) => `${(i * 2654435761) % 1009} nydus `);
  return Buffer.from(words.join("").slice(0, size));
}

function shared(bytes: Buffer): Buffer {
  const copy = Buffer.from(new SharedArrayBuffer(bytes.length));
  bytes.copy(copy);
  return copy;
}

test("zstd called without node:zlib gives the frames of node:zlib, whatever was compressed before with the same context", () => {
  for (const data of [...samples(), ...samples().reverse()]) {
    expect(Buffer.from(compressZstd(data)).equals(compressByZlib(data)), `${data.length} bytes`).toBe(true);
  }
});

test("the CRC-32C of the builder is that of the readers", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  for (const data of samples()) expect(crc32c(data.subarray(1))).toBe(portableCrc32c(data.subarray(1)));
});

describe.each(["zstd", "lz4_block"] as const)("%s", (compressor) => {
  const decode = (bytes: Uint8Array, size: number): Buffer => {
    if (compressor === "zstd") return zstdDecompressSync(bytes);
    const prefix = Buffer.alloc(4);
    prefix.writeUInt32LE(size);
    return uncompressSync(Buffer.concat([prefix, bytes]));
  };

  test("what was compressed stays as it is when more is compressed, and decodes to what it was", () => {
    const all = samples().map((data) => ({ data, result: compressHere(data, compressor) }));
    for (const { data, result } of all) {
      expect(result.bytes.length).toBeLessThanOrEqual(data.length);
      const decoded = result.compressed ? decode(result.bytes, data.length) : result.bytes;
      expect(data.equals(decoded)).toBe(true);
    }
    expect(new Set(all.map(({ result }) => result.compressed))).toEqual(new Set([true, false]));
  });

  test("in place it gives the same, and what is refused or does not get smaller is left alone", () => {
    for (const data of samples()) {
      const before = Buffer.from(data);
      const { bytes, compressed } = compressHere(data, compressor);
      expect(compressInPlace(data, compressor, () => true)).toBe(data.length);
      expect(data.equals(before)).toBe(true);
      expect(compressInPlace(data, compressor, () => false)).toBe(bytes.length);
      expect(data.subarray(0, bytes.length).equals(compressed ? bytes : before)).toBe(true);
    }
  });
});

import { randomBytes } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";
import { crc32c as portableCrc32c } from "@nydus-ts/rafs-format";
import { crc32c } from "@node-rs/crc32";
import { uncompressSync } from "lz4-napi";
import { describe, expect, test, vi } from "vitest";
import { compressHere, compressTo } from "../src/codecs.ts";
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

test("lz4 without its library is one line that names the package and what to do", async () => {
  const arch = Object.getOwnPropertyDescriptor(process, "arch")!;
  vi.resetModules();
  Object.defineProperty(process, "arch", { ...arch, value: "pdp11" });
  try {
    const { compressLz4 } = await import("../src/lz4.ts");
    expect(() => compressLz4(Buffer.from("data"))).toThrow(
      /^lz4_block needs the package @lmdb\/lmdb-linux-pdp11: .+; install it .+, or use zstd$/,
    );
  } finally {
    Object.defineProperty(process, "arch", arch);
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

  test.each([0, 1, 4096])("it gives the same in place and %i bytes before the data, and what is refused goes there as it is", (gap) => {
    for (const sample of samples()) {
      const memory = Buffer.from(new SharedArrayBuffer(gap + sample.length));
      const data = memory.subarray(gap);
      sample.copy(data);
      const { bytes } = compressHere(sample, compressor);
      expect(compressTo(memory, data, compressor, () => false)).toBe(bytes.length);
      expect(memory.subarray(0, bytes.length).equals(bytes)).toBe(true);
      sample.copy(data);
      expect(compressTo(memory, data, compressor, () => true)).toBe(sample.length);
      expect(memory.subarray(0, sample.length).equals(sample)).toBe(true);
    }
  });

  test.each([0, 0x11000])("it gives the same in memory of its own that is %i bytes longer than the data", (slack) => {
    for (const sample of samples()) {
      const memory = Buffer.from(new SharedArrayBuffer(sample.length + slack));
      const { bytes } = compressHere(sample, compressor);
      expect(compressTo(memory, sample, compressor, () => false)).toBe(bytes.length);
      expect(memory.subarray(0, bytes.length).equals(bytes)).toBe(true);
      expect(compressTo(memory, sample, compressor, () => true)).toBe(sample.length);
      expect(memory.subarray(0, sample.length).equals(sample)).toBe(true);
    }
  });
});

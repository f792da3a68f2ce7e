import { createHash, randomBytes } from "node:crypto";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { decompressLayer } from "../src/sources/decompress.ts";

/** Half of it can not be compressed, so that pieces end anywhere in what the decoder is given and gives. */
const plain = Buffer.concat(Array.from({ length: 40 }, (_, i) => (i % 2 ? randomBytes(70_001) : Buffer.alloc(50_003, i))));
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** One buffer for all pieces, as a source may have: each is valid only until the next is asked for. */
async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  const shared = Buffer.alloc(size);
  for (let at = 0; at < bytes.length; at += size) {
    const piece = bytes.subarray(at, at + size);
    shared.set(piece);
    yield shared.subarray(0, piece.length);
    shared.fill(0xee);
  }
}

describe.each([
  ["gzip", (bytes: Buffer) => gzipSync(bytes, { level: 1 })],
  ["two members of gzip", (bytes: Buffer) => Buffer.concat([gzipSync(bytes.subarray(0, 999_999)), gzipSync(bytes.subarray(999_999))])],
  ["zstd", (bytes: Buffer) => zstdCompressSync(bytes)],
  ["nothing", (bytes: Buffer) => bytes],
] as const)("a layer compressed with %s", (_name, compress) => {
  test.each([1000, 65_536, 262_144, 300_000, 10_000_000])("is what it was when it comes in pieces of %i bytes", async (size) => {
    const hash = createHash("sha256");
    for await (const piece of decompressLayer(inPieces(compress(plain), size))) hash.update(piece);
    expect(hash.digest("hex")).toBe(sha256(plain));
  });
});

test("the memory of a decoder's output is given back as it is used, without a garbage collection", async () => {
  const buffers = new Set<ArrayBufferLike>();
  for await (const piece of decompressLayer(inPieces(gzipSync(plain), 65_536))) buffers.add(piece.buffer);
  expect(buffers.size).toBeGreaterThan(5);
  // The last one was not filled.
  expect([...buffers].filter(({ byteLength }) => byteLength > 0).length).toBeLessThanOrEqual(1);
});

// Stored data of chunks: every compressor, and zran contexts with the gzip data they resume in. Native decoders see hostile bytes here.
import { readFileSync } from "node:fs";
import { deflateRawSync, gzipSync, zstdCompressSync } from "node:zlib";
import { ChunkStoreError, decodeZran, decompress } from "@nydus-ts/chunk-store";
import { type Compressor, hasFeature, openBlobMeta, type ZranContext } from "@nydus-ts/rafs-format";
import { compressSync } from "lz4-napi";
import { goldenSource } from "../golden-files.ts";
import { chunkInfoOf } from "../stored-meta.ts";
import type { Seed, Target } from "../target.ts";

export const target: Target = {
  name: "chunks",
  seeds: (golden) => [...stored(), ...resumed(golden)],
  accepts: (error) => error instanceof ChunkStoreError,
};

/** Text that compresses, and some that does not. */
const data = Buffer.concat([
  readFileSync(import.meta.filename),
  Buffer.from(Array.from({ length: 3000 }, (_, at) => (at * at * 7) & 0xff)),
]);

function stored(): Seed[] {
  const forms: readonly (readonly [Compressor, Uint8Array])[] = [
    ["zstd", zstdCompressSync(data)],
    // lz4-napi puts the size in front, which a block of RAFS has not.
    ["lz4_block", compressSync(data).subarray(4)],
    ["gzip", gzipSync(data)],
    ["none", data],
  ];
  return forms.map(([compressor, bytes]) => ({
    name: compressor,
    bytes,
    read: (mutated) => {
      const found = decompress(compressor, mutated, new Uint8Array(data.length));
      if (found.length !== data.length) throw new Error(`${found.length} bytes, ${data.length} were asked for`);
    },
  }));
}

function resumed(golden: string | undefined): Seed[] {
  const plain: ZranContext = { ...noContext, inLength: 0, outLength: data.length };
  const seeds = [zranSeed("a deflate stream", deflateRawSync(data), plain)];
  for (const { name, blob, ci, header } of chunkInfoOf(golden)) {
    const gzip = hasFeature(blob, "zran") ? sourceOf(golden, blob.compressedSize) : undefined;
    if (gzip === undefined) continue;
    const meta = openBlobMeta(ci, header, blob);
    const used = new Set(Array.from({ length: meta.count }, (_, chunk) => meta.zranOf(chunk)).filter((context) => context >= 0));
    for (const index of [...used].slice(0, 4)) {
      const context = meta.zranContext(index);
      seeds.push(zranSeed(`${name}, context ${index}`, gzip.subarray(context.inOffset, context.inOffset + context.inLength), context));
    }
  }
  return seeds;
}

const noContext = { inOffset: 0, outOffset: 0, primeBits: 0, primeByte: 0, dictionary: new Uint8Array(0) };

function zranSeed(name: string, bytes: Uint8Array, context: ZranContext): Seed {
  return {
    name,
    bytes,
    read: (mutated) => {
      // The context was mutated too, as far as `openBlobMeta` lets it through.
      const changed = { ...context, primeBits: mutated.length % 3 === 0 ? mutated.length % 8 : context.primeBits };
      const found = decodeZran(mutated, changed);
      if (found.length !== context.outLength) throw new Error(`${found.length} bytes, ${context.outLength} were asked for`);
    },
  };
}

/** The layer of a reference case, by its size. */
function sourceOf(golden: string | undefined, size: number): Buffer | undefined {
  return ["plain.tar.gz", "plain-2members.tar.gz", "plain.estargz", "big.tar.gz"]
    .map((name) => goldenSource(golden, name))
    .find((bytes) => bytes?.length === size);
}

// Bootstraps unpacked to tars, and the tars read again: no name leads out of the tree, and nothing gets lost on the way.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { BuilderError, type ChunkSink, readLayerTree } from "@nydus-ts/builder";
import { type FileChunk, openBootstrap, RafsError } from "@nydus-ts/rafs-format";
import { newBlobEntry, type TreeNode } from "@nydus-ts/rafs-format/writer";
import { writeMembers } from "../../packages/nydus-image/src/commands/unpack.ts";
import { NydusImageError } from "../../packages/nydus-image/src/errors.ts";
import type { ImageChunks } from "../../packages/nydus-image/src/image-chunks.ts";
import { goldenFiles } from "../golden-files.ts";
import type { Target } from "../target.ts";

const fixtures = join(import.meta.dirname, "../../packages/rafs-format/test/fixtures");
/** Bytes of a tar; what a damaged inode says beyond is not written. */
const tarBytesMax = 4 * 1024 * 1024;
const imageBytesMax = 64 * 1024;
const never = new AbortController().signal;

class TooLarge extends Error {}

export const target: Target = {
  name: "unpacked",
  seeds: (golden) =>
    [
      ...["plain-v6.boot", "plain-v5.boot"].map((name) => ({ name, bytes: readFileSync(join(fixtures, name)) })),
      ...goldenFiles(golden, /^bootstrap$/).filter(({ bytes }) => bytes.length <= imageBytesMax),
    ].map(({ name, bytes }) => ({ name, bytes, read })),
  accepts: (error) =>
    error instanceof RafsError || error instanceof NydusImageError || error instanceof BuilderError || error instanceof TooLarge,
};

async function read(bytes: Uint8Array): Promise<void> {
  const bootstrap = openBootstrap(bytes);
  const parts: Buffer[] = [];
  let size = 0;
  const sink = {
    async writeFile(part: Uint8Array): Promise<void> {
      size += part.length;
      if (size > tarBytesMax) throw new TooLarge();
      parts.push(Buffer.from(part));
    },
  };
  // Zeros stand for the data: of a chunk that says it is larger than any, nothing is made.
  const zeros = { read: async ({ length }: FileChunk) => new Uint8Array(Math.min(length, tarBytesMax + 1)) } as unknown as ImageChunks;
  await writeMembers(sink, bootstrap, zeros, never);
  const tree = await readLayerTree(pieces(parts), nowhere());
  const expected = [...bootstrap.walk()].filter(({ inode }) => inode.type !== "socket").length;
  const found = countNames(tree, "");
  // A member of an eStargz layer's own is left out when a tar is read.
  if (found > expected || found < expected - 3) throw new Error(`${expected} names were unpacked, ${found} are in the tar`);
}

async function* pieces(parts: readonly Buffer[]): AsyncGenerator<Uint8Array> {
  yield* parts;
}

function countNames(node: TreeNode, path: string): number {
  let count = 1;
  for (const [name, child] of node.children ?? []) {
    if (name === "" || name === "." || name === ".." || name.includes("/")) throw new Error(`name ${JSON.stringify(`${path}/${name}`)}`);
    count += countNames(child, `${path}/${name}`);
  }
  return count;
}

function nowhere(): ChunkSink {
  const blob = newBlobEntry({ id: "", chunkSize: 4096, compressor: 0, digester: 0, features: 0 });
  const place = { blob, index: 0, flags: 0, compressedOffset: 0, compressedSize: 0, uncompressedOffset: 0, crc32: 0 };
  return {
    allocate: (bytes) => new Uint8Array(bytes),
    add: (data, { chunks, index }) => {
      chunks[index] = { ...place, digest: new Uint8Array(32), uncompressedSize: data.length };
    },
  };
}

// Layers: tars to trees and from there to bootstraps of both versions that our reader accepts; gzip files to zran contexts.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { BuilderError } from "@nydus-ts/builder";
import { blobFeatures, RafsError } from "@nydus-ts/rafs-format";
import { type BlobEntry, newBlobEntry, type StoredChunk } from "@nydus-ts/rafs-format/writer";
import { ByteStream, type TarInput } from "../../packages/builder/src/sources/byte-stream.ts";
import type { ChunkSink, ChunkSlot } from "../../packages/builder/src/sources/chunk-sink.ts";
import { readTarTree } from "../../packages/builder/src/sources/tar.ts";
import { TarfsSink } from "../../packages/builder/src/tarfs.ts";
import { ContextCutter } from "../../packages/builder/src/zran/contexts.ts";
import { GzipReader } from "../../packages/builder/src/zran/gzip-reader.ts";
import { PlainTarReader } from "../../packages/builder/src/zran/plain-tar.ts";
import { tar } from "../../packages/builder/test/support.ts";
import { checkBuilt } from "../built-tree.ts";
import { goldenSource } from "../golden-files.ts";
import { generator, mutateBytes } from "../mutate.ts";
import type { Random, Target } from "../target.ts";

const chunkSize = 4096;
const blockBytes = 512;

export const target: Target = {
  name: "layers",
  seeds: (golden) => {
    const tars = [
      ...["gnu", "pax"].map((format) => ({ name: `${format} tar`, bytes: madeTar(format) })),
      { name: "paths out of the tree", bytes: pathsTar() },
      ...goldenTars(golden),
    ];
    const gzips = [{ name: "gzip", bytes: gzipSync((tars[0] as { bytes: Buffer }).bytes) }, ...goldenGzips(golden)];
    return [
      ...tars.map((seed) => ({ ...seed, read: readTar, mutate: mutateTar })),
      ...tars.map((seed) => ({ name: `${seed.name} in place`, bytes: seed.bytes, read: readTarfs, mutate: mutateTar })),
      ...gzips.map((seed) => ({ ...seed, read: readGzip })),
    ];
  },
  accepts: (error) => error instanceof BuilderError || error instanceof RafsError,
};

const goldenTars = (golden: string | undefined): { name: string; bytes: Buffer }[] =>
  ["plain.tar", "layer1.tar", "layer2.tar", "layer3.tar"].flatMap((name) => {
    const bytes = goldenSource(golden, name);
    return bytes === undefined ? [] : [{ name, bytes }];
  });

const goldenGzips = (golden: string | undefined): { name: string; bytes: Buffer }[] =>
  ["plain.tar.gz", "plain-2members.tar.gz", "plain.estargz"].flatMap((name) => {
    const bytes = goldenSource(golden, name);
    return bytes === undefined ? [] : [{ name, bytes }];
  });

/** A tar of GNU tar with long names, links and, as pax, times with fractions. */
function madeTar(format: string): Buffer {
  const work = mkdtempSync(join(tmpdir(), "fuzz-tar-"));
  try {
    const long = "long".repeat(40);
    mkdirSync(join(work, long));
    writeFileSync(join(work, long, "file"), Buffer.alloc(9000, "text "));
    writeFileSync(join(work, ".wh.gone"), "");
    symlinkSync("target/".repeat(20), join(work, "link"));
    execFileSync("ln", [join(work, long, "file"), join(work, "hard")]);
    execFileSync("mkfifo", [join(work, "fifo")]);
    const file = join(work, "../", `${process.pid}-${format}.tar`);
    execFileSync("tar", [
      "-C",
      work,
      "--sort=name",
      `--format=${format}`,
      "--mtime=@1700000000.5",
      "--owner=0",
      "--group=0",
      "-cf",
      file,
      ".",
    ]);
    const bytes = readFileSync(file);
    rmSync(file);
    return bytes;
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** Names that would lead above the root, links that lead out, and what is put below or in the place of such a link. */
function pathsTar(): Buffer {
  return tar(
    { name: "a/../../../etc/passwd", data: "x".repeat(600) },
    { name: "/../b/./c", data: "y" },
    { name: "..", type: "5" },
    { name: "link", type: "2", link: "../../../../etc" },
    { name: "link/passwd", data: "below a link" },
    { name: "hard", type: "1", link: "../../b/c" },
    { name: "hard/../again", type: "1", link: "hard" },
    { name: "loop", type: "2", link: "loop" },
    { name: "loop", type: "5" },
    { name: "b/.wh..wh..opq" },
    { name: "b/.wh..." },
    { name: "long", data: "z", pax: { path: `${"../".repeat(60)}deep/${"d/".repeat(40)}f`, "SCHILY.xattr.user.a": "b" } },
  );
}

/** Changes bytes, then mends the checksums of headers, without which nothing behind them is reached. */
function mutateTar(original: Uint8Array, random: Random): Uint8Array {
  const bytes = mutateBytes(original, random);
  for (let at = 0; at + blockBytes <= bytes.length; at += blockBytes) {
    const header = bytes.subarray(at, at + blockBytes);
    if (Buffer.from(header.subarray(257, 262)).toString("latin1") !== "ustar") continue;
    header.fill(0x20, 148, 156);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.set(Buffer.from(`${sum.toString(8).padStart(6, "0")}\0 `), 148);
  }
  return bytes;
}

async function readTar(bytes: Uint8Array): Promise<void> {
  await build(new ByteStream(pieces(bytes)));
}

/** As `tar-tarfs` reads a layer, which stays as it is. */
async function readTarfs(bytes: Uint8Array): Promise<void> {
  const input = new PlainTarReader(pieces(bytes));
  const sink = new TarfsSink({ chunkSize, id: "" }, input);
  const { root } = await readTarTree({ input, explicitUidGid: true, chunkSize }, sink);
  const { blob } = sink.describe();
  checkBuilt(root, blob ? [blob] : [], chunkSize, true);
  if (blob && blob.uncompressedSize !== bytes.length) throw new Error(`${blob.uncompressedSize} bytes of ${bytes.length} were taken`);
}

/** As `targz-ref` reads a layer, with a context cut for every chunk. */
async function readGzip(bytes: Uint8Array): Promise<void> {
  const input = new GzipReader(pieces(bytes));
  const cutter = new ContextCutter(input, () => {});
  await build(input, cutter);
}

async function build(input: TarInput, cutter?: ContextCutter): Promise<void> {
  const blob = newBlobEntry({ id: "0".repeat(64), chunkSize, compressor: 0, digester: 1, features: blobFeatures.aligned });
  const { root } = await readTarTree({ input, explicitUidGid: true, chunkSize }, new Sink(blob, cutter));
  checkBuilt(root, blob.chunkCount > 0 ? [blob] : [], chunkSize);
}

/** Takes data as a blob without compression would, and keeps none of it. */
class Sink implements ChunkSink {
  readonly #blob: BlobEntry;
  readonly #cutter: ContextCutter | undefined;

  constructor(blob: BlobEntry, cutter: ContextCutter | undefined) {
    this.#blob = blob;
    this.#cutter = cutter;
  }

  allocate(bytes: number): Uint8Array<ArrayBuffer> {
    this.#cutter?.startChunk(chunkSize);
    return new Uint8Array(bytes);
  }

  add(data: Uint8Array, { chunks, index }: ChunkSlot): void {
    this.#cutter?.finishChunk();
    const blob = this.#blob;
    const digest = new Uint8Array(32);
    new DataView(digest.buffer).setUint32(0, blob.chunkCount);
    const place = { compressedOffset: blob.compressedSize, uncompressedOffset: blob.uncompressedSize };
    const chunk: StoredChunk = {
      ...place,
      digest,
      blob,
      index: blob.chunkCount++,
      flags: 0,
      compressedSize: data.length,
      uncompressedSize: data.length,
      crc32: 0,
    };
    blob.uncompressedSize += chunkSize;
    blob.compressedSize += data.length;
    chunks[index] = chunk;
  }
}

/** In pieces of odd sizes, the same ones every time. */
async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  const random = generator(bytes.length);
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + random(8192);
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

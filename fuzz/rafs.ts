// Mutates RAFS bootstraps, chunk info, tables of contents and cache files, and reads them.
//
//   bin/node fuzz/rafs.ts --runs 100000 [--seed 1] [--golden DIR]
//
// Accepted: an answer in bounds or a RafsError. Anything else ends the run with the seed and case number that repeat it.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  type BlobRecord,
  checkBootstrap,
  findInlinedBootstrap,
  hasBlobMeta,
  metaFileBytes,
  openBootstrap,
  openCursor,
  RafsError,
  readChunkMap,
  readMetaFile,
  readToc,
  tocTailBytes,
} from "@nydus-ts/rafs-format";

interface Target {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Reads the mutated bytes; throws RafsError or returns. */
  readonly read: (bytes: Uint8Array) => void;
}

/** Longest time one case may take; the largest seeds need some milliseconds. */
const caseMsMax = 10_000;
const fixtures = join(import.meta.dirname, "../packages/rafs-format/test/fixtures");

const { values } = parseArgs({
  options: { runs: { type: "string", default: "20000" }, seed: { type: "string", default: "1" }, golden: { type: "string" } },
});
const runs = Number(values.runs);
const seed = Number(values.seed);
if (!Number.isSafeInteger(runs) || runs < 1 || !Number.isSafeInteger(seed)) throw new TypeError("--runs and --seed take whole numbers");

const golden = goldenTargets(values.golden ?? process.env["NYDUS_GOLDEN"]);
const targets = [...bootstrapTargets(), ...golden].filter(({ bytes }) => bytes.length > 0);
const counts = { refused: 0, served: 0 };
for (let run = 0; run < runs; run++) {
  const random = generator(seed * 1_000_003 + run);
  const target = targets[random(targets.length)] as Target;
  const bytes = mutate(target.bytes, random);
  const began = performance.now();
  try {
    target.read(bytes);
    counts.served++;
  } catch (error) {
    if (!(error instanceof RafsError)) {
      console.error(`${target.name}: not a RafsError; repeat with --seed ${seed} --runs ${run + 1}`);
      throw error;
    }
    counts.refused++;
  }
  const ms = performance.now() - began;
  if (ms > caseMsMax) throw new Error(`${target.name}: ${Math.round(ms)} ms; repeat with --seed ${seed} --runs ${run + 1}`);
}
console.log(`rafs: ${runs} cases over ${targets.length} seeds, ${counts.refused} refused, ${counts.served} read in bounds`);

function bootstrapTargets(): Target[] {
  return ["plain-v6.boot", "plain-v5.boot"].map((name) => ({ name, bytes: readFileSync(join(fixtures, name)), read: readBootstrap }));
}

/** Bootstraps, blob tails and cache files of golden data, when there is any. */
function goldenTargets(golden: string | undefined): Target[] {
  if (golden === undefined) return [];
  const found: Target[] = [];
  for (const name of readdirSync(join(golden, "cases"))) {
    const directory = join(golden, "cases", name);
    const files = readdirSync(directory);
    if (files.includes("bootstrap") && !name.startsWith("wide")) {
      const bytes = readFileSync(join(directory, "bootstrap"));
      if (bytes.length > 0) found.push({ name: `${name}/bootstrap`, bytes, read: readBootstrap });
    }
    if (!files.includes("blobs")) continue;
    const blobs = bytesByName(join(directory, "blobs"));
    for (const [file, bytes] of blobs) {
      if (file.endsWith(".chunk_map")) {
        const count = (bytes.length - 4096) * 8;
        found.push({ name: `${name}/${file}`, bytes, read: (mutated) => void readChunkMap(mutated, count) });
      } else if (file.endsWith(".blob.meta")) {
        const blob = blobOfMeta(join(directory, "bootstrap"), bytes.length);
        if (blob !== undefined) found.push({ name: `${name}/${file}`, bytes, read: (mutated) => readMeta(mutated, blob) });
      } else if (/^[0-9a-f]{64}$/.test(file)) {
        const tail = bytes.subarray(bytes.length - tocTailBytes(bytes.length));
        found.push({ name: `${name}/${file}`, bytes: tail, read: (mutated) => readTail(mutated, bytes.length) });
      }
    }
  }
  return found;
}

function readBootstrap(bytes: Uint8Array): void {
  const bootstrap = openBootstrap(bytes);
  const cursor = openCursor(bytes);
  let names = 0;
  for (const { nid, inode } of bootstrap.walk()) {
    if (++names > 1000) break;
    cursor.load(nid);
    if (inode.type !== "dir") continue;
    for (const { name, nid: child } of bootstrap.readDir(nid)) {
      if (cursor.find(nid, name, 0, name.length) !== child) throw new RafsError("RAFS_DIRECTORY", "a listed name is not found");
    }
  }
  checkBootstrap(bootstrap);
}

function readTail(tail: Uint8Array, blobSize: number): void {
  const size = Math.max(blobSize, tail.length);
  readToc(tail, size);
  const section = findInlinedBootstrap(tail, size);
  if (section !== undefined && section.offset + section.compressedSize > size) throw new Error("section outside of the blob");
}

function readMeta(file: Uint8Array, blob: BlobRecord): void {
  const meta = readMetaFile(file, blob);
  for (let index = 0; index < meta.count; index++) {
    const end = meta.compressedOffset(index) + meta.compressedSize(index);
    if (end > meta.dataEnd) throw new Error("chunk outside of the blob");
    if (meta.batchOf(index) >= 0) meta.batchContext(meta.batchOf(index));
    if (meta.zranOf(index) >= 0) meta.zranContext(meta.zranOf(index));
  }
}

function blobOfMeta(bootstrapFile: string, size: number): BlobRecord | undefined {
  try {
    return openBootstrap(readFileSync(bootstrapFile)).blobs.find((blob) => hasBlobMeta(blob) && metaFileBytes(blob) === size);
  } catch {
    return undefined; // inline cases keep their bootstrap elsewhere
  }
}

function bytesByName(directory: string): [string, Buffer][] {
  return readdirSync(directory).map((file) => [file, readFileSync(join(directory, file))]);
}

/** One to four changes: a bit, a byte, a boundary value of 2, 4 or 8 bytes, a copy of another place, or a cut. */
function mutate(original: Uint8Array, random: (below: number) => number): Uint8Array {
  let bytes = Uint8Array.from(original);
  for (let change = random(4); change >= 0; change--) {
    const at = usedOffset(bytes, random);
    const kind = random(12);
    if (kind < 4) bytes[at] = (bytes[at] as number) ^ (1 << random(8));
    else if (kind < 6) bytes[at] = random(256);
    else if (kind < 9) writeBoundary(bytes, at, random);
    else if (kind < 11) bytes.copyWithin(at, usedOffset(bytes, random), usedOffset(bytes, random) + 8 * random(16));
    else bytes = bytes.slice(0, random(4) === 0 ? random(bytes.length) : Math.floor(random(bytes.length) / 512) * 512);
    if (bytes.length === 0) return bytes;
  }
  return bytes;
}

/** An offset near bytes that mean something: padding is mostly left alone. */
function usedOffset(bytes: Uint8Array, random: (below: number) => number): number {
  let at = random(bytes.length);
  for (let tries = 0; tries < 8 && bytes[at] === 0; tries++) at = random(bytes.length);
  return at;
}

function writeBoundary(bytes: Uint8Array, at: number, random: (below: number) => number): void {
  const view = new DataView(bytes.buffer);
  const boundaries = [
    0n,
    1n,
    0x7fn,
    0xffn,
    0xfffn,
    0x1000n,
    0xffffn,
    0x7fff_ffffn,
    0xffff_ffffn,
    2n ** 44n,
    2n ** 53n,
    2n ** 63n,
    2n ** 64n - 1n,
  ];
  const value = (boundaries[random(boundaries.length)] as bigint) + BigInt(random(3)) - 1n;
  const width = 2 << random(3);
  const aligned = Math.floor(at / width) * width;
  if (aligned + width > bytes.length) return;
  if (width === 2) view.setUint16(aligned, Number(BigInt.asUintN(16, value)), true);
  else if (width === 4) view.setUint32(aligned, Number(BigInt.asUintN(32, value)), true);
  else if (aligned + 8 <= bytes.length) view.setBigUint64(aligned, BigInt.asUintN(64, value), true);
}

/** xorshift32: whole numbers below a bound. */
function generator(start: number): (below: number) => number {
  let state = (start * 2_654_435_761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

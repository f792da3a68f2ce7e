import { execFileSync } from "node:child_process";
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { Agent, get } from "node:http";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { zstdDecompressSync } from "node:zlib";
import { blake3 } from "@napi-rs/blake-hash";
import { openBlobMeta, openBootstrap, openCursor } from "@nydus-ts/rafs-format";
import { ownBinaries } from "@nydus-ts/testkit";
import { makeImage, scales } from "./lib/fuse-image.ts";
import { FuseMounts, type Target } from "./lib/fuse-mounts.ts";
import { machine, median, table } from "./lib/machine.ts";

// What does data cost that is not in the cache (`npm run build` first)? From a registry on the loopback, every round with a new daemon:
// the first read in an absent chunk of 1 MiB, beside a plain range request with zstd and blake3 in this process; and a tar of the whole
// image, beside a plain download of the blob with zstd and blake3 of every chunk, and beside a tar of EROFS over the cache it left.
// Usage: bin/node bench/fuse-cold.ts [--small] [--rounds 5] [--threads 4]
// NYDUS_PEER_BIN names the folder of the original's nydusd, which then runs in the same alternation.

const { values: options } = parseArgs({
  options: {
    small: { type: "boolean", default: false },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "4" },
  },
});
const rounds = options.small ? 1 : Number(options.rounds);
const readsPerRound = options.small ? 2 : 24;
const chunkBytes = 1 << 20;

await using mounts = new FuseMounts("bench-fuse-cold-");
const image = await makeImage(mounts.directory, options.small ? scales.small : scales.full, "zstd");
const [blob] = openBootstrap(readFileSync(image.bootstrap)).blobs;
if (blob === undefined) throw new TypeError("the image has no blob");
const metaFile = readFileSync(join(image.cacheDirectory, `${image.blobId}.blob.meta`));
const meta = openBlobMeta(metaFile.subarray(0, blob.ciUncompressedSize), metaFile.subarray(metaFile.length - 4096), blob);
const host = await mounts.helper(join(import.meta.dirname, "lib/fuse-blob-server.ts"), [join(image.blobDirectory, image.blobId)]);
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

const peerBinaries = process.env["NYDUS_PEER_BIN"];
const daemons = [
  { name: "fuse", binaries: ownBinaries },
  ...(peerBinaries === undefined ? [] : [{ name: "original", binaries: peerBinaries }]),
];
const results = new Map<string, number[]>();
const note = (what: string, value: number): void => void results.set(what, [...(results.get(what) ?? []), value]);

for (let round = 0; round < rounds; round++) {
  for (const { name, binaries } of daemons) {
    const cache = newCache(`cache-${name}-${round}`);
    const target = await mounts.nydusd(name, { binaries, bootstrap: image.bootstrap, device: deviceOf(cache), threads: options.threads });
    await firstReads(name, target);
    await mounts.end(target);
  }
  await wholeDownload();
  for (const { name, binaries } of daemons) {
    const cache = newCache(`whole-${name}-${round}`);
    const target = await mounts.nydusd(name, { binaries, bootstrap: image.bootstrap, device: deviceOf(cache), threads: options.threads });
    dropCaches();
    note(`${name} whole`, tar(target));
    await mounts.end(target);
    if (name !== "fuse") continue;
    const dataFile = join(cache, `${image.blobId}.blob.data`);
    const erofs = mounts.erofs(image.bootstrap, dataFile);
    dropCaches();
    execFileSync("cat", [dataFile, image.bootstrap], { stdio: "ignore" });
    note("erofs whole", tar(erofs));
    await mounts.end(erofs);
  }
}
report();
agent.destroy();

/** Reads a page of chunks that nobody has, here and there, each beside a plain request for the same chunk. */
async function firstReads(name: string, target: Target): Promise<void> {
  const chunks = chunksOf("libraries");
  const fd = openSync(join(target.path, "big/libraries"), "r");
  const page = Buffer.alloc(4096);
  // A step that shares no divisor with the count visits each once, and never the neighbour of the last.
  for (let read = 0; read < readsPerRound; read++) {
    const place = (read * 37 + 11) % chunks.length;
    const began = performance.now();
    readSync(fd, page, 0, page.length, place * chunkBytes + 8192);
    note(`${name} first`, performance.now() - began);
    const plainBegan = performance.now();
    decode(chunks[place] as number, await range(chunks[place] as number));
    note("plain first", performance.now() - plainBegan);
  }
  closeSync(fd);
}

/** The whole blob as it is stored, decoded and hashed chunk by chunk as the data come. */
async function wholeDownload(): Promise<void> {
  const began = performance.now();
  const response = await request({});
  let held: Buffer[] = [];
  let heldBytes = 0;
  let at = 0;
  let chunk = 0;
  for await (const part of response) {
    held.push(part as Buffer);
    heldBytes += (part as Buffer).length;
    if (chunk === meta.count || at + heldBytes < meta.compressedOffset(chunk) + meta.compressedSize(chunk)) continue;
    const bytes = Buffer.concat(held);
    while (chunk < meta.count && at + bytes.length >= meta.compressedOffset(chunk) + meta.compressedSize(chunk)) {
      const from = meta.compressedOffset(chunk) - at;
      decode(chunk, bytes.subarray(from, from + meta.compressedSize(chunk)));
      chunk++;
    }
    const used = (chunk === meta.count ? at + bytes.length : meta.compressedOffset(chunk)) - at;
    held = [bytes.subarray(used)];
    heldBytes = bytes.length - used;
    at += used;
  }
  if (chunk !== meta.count) throw new Error(`the download ended at chunk ${chunk} of ${meta.count}`);
  note("plain whole", (performance.now() - began) / 1000);
}

function decode(chunk: number, stored: Uint8Array): void {
  const data = meta.isCompressed(chunk) ? zstdDecompressSync(stored) : stored;
  if (data.length !== meta.uncompressedSize(chunk)) throw new Error(`chunk ${chunk} has ${data.length} bytes`);
  blake3(data);
}

async function range(chunk: number): Promise<Buffer> {
  const first = meta.compressedOffset(chunk);
  const response = await request({ range: `bytes=${first}-${first + meta.compressedSize(chunk) - 1}` });
  return Buffer.concat(await response.toArray());
}

function request(headers: Record<string, string>): Promise<import("node:http").IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(`http://${host}/v2/app/blobs/sha256:${image.blobId}`, { agent, headers }, resolve).once("error", reject);
  });
}

/** Chunk numbers in the blob of a file of the folder `big`. */
function chunksOf(file: string): number[] {
  const cursor = openCursor(readFileSync(image.bootstrap));
  const find = (directory: number, name: string): number => cursor.find(directory, Buffer.from(name), 0, name.length);
  cursor.load(find(find(cursor.rootNid, "big"), file));
  return Array.from({ length: cursor.chunkCount }, (_, chunk) => {
    cursor.chunk(chunk);
    return cursor.chunkIndex;
  });
}

/** A cache folder with what comes with an image: the chunk table. */
function newCache(name: string): string {
  const cache = join(mounts.directory, name);
  mkdirSync(cache);
  copyFileSync(join(image.cacheDirectory, `${image.blobId}.blob.meta`), join(cache, `${image.blobId}.blob.meta`));
  return cache;
}

function deviceOf(cache: string): unknown {
  return {
    backend: { type: "registry", config: { scheme: "http", host, repo: "app" } },
    cache: { type: "blobcache", config: { work_dir: cache } },
  };
}

function tar({ path }: Target): number {
  const began = performance.now();
  execFileSync("bash", ["-c", "tar cf - . | cat > /dev/null"], { cwd: path });
  return (performance.now() - began) / 1000;
}

function dropCaches(): void {
  writeFileSync("/proc/sys/vm/drop_caches", "3");
}

function report(): void {
  const value = (what: string): number => median(results.get(what) ?? [Number.NaN]);
  const tests = [
    ["first read of an absent 1 MiB chunk, ms", "first"],
    ["tar of the whole image from the registry, s", "whole"],
  ] as const;
  const bases = ["plain", "erofs"].filter((base) => tests.some(([, key]) => results.has(`${base} ${key}`)));
  const rows = [["median (best)", ...bases, ...daemons.map(({ name }) => name), "fuse / plain", "fuse / original"]];
  for (const [title, key] of tests) {
    const cell = (name: string): string => {
      const all = results.get(`${name} ${key}`);
      return all === undefined ? "-" : `${median(all).toFixed(2)} (${Math.min(...all).toFixed(2)})`;
    };
    const ratio = (name: string): string =>
      results.has(`${name} ${key}`) ? (value(`fuse ${key}`) / value(`${name} ${key}`)).toFixed(2) : "-";
    rows.push([title, ...bases.map(cell), ...daemons.map(({ name }) => cell(name)), ratio("plain"), ratio("original")]);
  }
  for (const [key, text] of Object.entries(machine())) console.log(`${key}: ${text}`);
  console.log(
    `workers: ${options.threads}; blob of ${((blob?.compressedSize ?? 0) / 2 ** 20).toFixed(0)} MiB stored, ${meta.count} chunks\n`,
  );
  console.log(table(rows));
}

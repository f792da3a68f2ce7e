import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { copyFile, cp, mkdir, readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createImage } from "@nydus-ts/builder";
import { type BlobRecord, openBootstrap } from "@nydus-ts/rafs-format";
import { type GoldenCase, goldenCase } from "@nydus-ts/testkit";

/** Source tars by digest, as the reference cases name their blobs, and `big.tar`, which is stored as gzip only. */
export async function layOutSources(golden: string, directory: string, unpack: (gzip: Buffer) => Buffer): Promise<void> {
  await mkdir(directory);
  const add = async (file: string, bytes: Buffer): Promise<void> =>
    symlink(file, join(directory, createHash("sha256").update(bytes).digest("hex"))).catch(() => undefined);
  for (const name of await readdir(join(golden, "sources"))) {
    const file = join(golden, "sources", name);
    if ((await stat(file)).isFile()) await add(file, await readFile(file));
  }
  await symlink(join(golden, "sources", "plain.tar"), join(directory, "plain.tar"));
  const big = join(directory, "big.tar");
  await writeFile(big, unpack(await readFile(join(golden, "sources", "big.tar.gz"))));
  await add(big, await readFile(big));
}

/**
 * Lays out the blobs of a case as its image expects them. What was stored otherwise is put back, and proved by the id, a SHA-256.
 *
 * @param cache  the daemon's folder of cache files
 */
export async function layOutBlobs(entry: GoldenCase, blobs: string, cache: string, sources: string): Promise<void> {
  await mkdir(blobs, { recursive: true });
  await mkdir(cache, { recursive: true });
  if (entry.blobDirectory !== undefined) await cp(entry.blobDirectory, blobs, { recursive: true });
  // A tarfs image reads its tars in the cache directory itself.
  if (entry.name.includes("tarfs")) await cp(sources, cache, { recursive: true, dereference: true });
  if (entry.name === "small-v6-cachedir") await blobOfCache(entry, blobs, cache);
  if (blobOmitted(entry)) await rebuild(entry, blobs, sources);
}

/** Whether a data blob, not just an exported disk, was too large to be stored. */
export const blobOmitted = (entry: GoldenCase): boolean => entry.omitted.some((name) => name.startsWith("blobs/"));

/** `--blob-cache-dir` leaves no blob but what a cache would make of it: the blob is all chunks, one after the other, then its chunk info. */
async function blobOfCache(entry: GoldenCase, blobs: string, cache: string): Promise<void> {
  const bootstrap = openBootstrap(await readFile(entry.bootstrapFile as string));
  const [blob] = bootstrap.blobs;
  assert(blob !== undefined, "the image has one blob");
  const kept = join(entry.directory, "cache", `${blob.id}.blob`);
  const data = await readFile(`${kept}.data`);
  const bytes = Buffer.alloc(blob.ciOffset);
  for (const { compressedOffset, compressedSize, uncompressedOffset } of bootstrap.chunkRecords())
    data.copy(bytes, compressedOffset, uncompressedOffset, uncompressedOffset + compressedSize);
  await writeFile(join(blobs, blob.id), bytes);
  await copyFile(`${kept}.meta`, join(cache, `${blob.id}.blob.meta`));
}

/** The blob is too large to be stored: it is made again, with the original's bytes, as its id proves. */
async function rebuild(entry: GoldenCase, blobs: string, sources: string): Promise<void> {
  const [wanted] = openBootstrap(await readFile(entry.bootstrapFile as string)).blobs;
  assert(wanted !== undefined, "the image has one blob");
  if (wanted.compressor === "none") {
    assert.equal(await buildAgain(wanted, blobs, sources), wanted.id, "the blob is made as the original made it");
    return;
  }
  const blob = await restored(entry.name, wanted.compressedSize);
  assert.equal(createHash("sha256").update(blob).digest("hex"), wanted.id, "the blob is the original's");
  await writeFile(join(blobs, wanted.id), blob);
}

/** Blobs whose bytes only zstd 1.5.6 makes: what is stored of them elsewhere. */
async function restored(name: string, size: number): Promise<Buffer> {
  // The chunks are those of a version 6 image of the same tree; version 5 has nothing behind them.
  if (name === "big-v5-1m-zstd") return (await readBlob("big-v6-1m-zstd")).subarray(0, size);
  const kept = await readFile(join(import.meta.dirname, "fixtures", `${name}.without-rand2m`));
  const rand2mAt = 199_286;
  return Buffer.concat([kept.subarray(0, rand2mAt), rand2m(), kept.subarray(rand2mAt)]);
}

async function readBlob(name: string): Promise<Buffer> {
  const { blobDirectory } = goldenCase(name);
  const [file] = await readdir(blobDirectory as string);
  return readFile(join(blobDirectory as string, file as string));
}

/** The file of that name as make-sources.sh writes it: digests of a counter, one after the other. */
function rand2m(): Buffer {
  const parts = Array.from({ length: (2 << 20) / 32 }, (_, index) => createHash("sha256").update(`big:${index}`).digest());
  return Buffer.concat(parts);
}

/** Nothing is compressed, so our builder makes the same bytes. */
async function buildAgain(wanted: BlobRecord, blobs: string, sources: string): Promise<string | undefined> {
  assert(wanted.compressor === "none", "only raw chunks are made again with the same bytes");
  const made = await createImage({
    source: { kind: "tar", stream: createReadStream(join(sources, "big.tar")) },
    blob: { directory: blobs },
    bootstrap: { file: join(blobs, "bootstrap") },
    blobId: "",
    blobOffset: 0,
    compressor: wanted.compressor,
    digester: wanted.digester,
    chunkSize: wanted.chunkSize,
    chunkInfoVersion: 1,
    toc: false,
    explicitUidGid: true,
    prefetch: { policy: "none", patterns: [] },
  });
  return made.blob?.id;
}

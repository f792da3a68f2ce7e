import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Bootstrap, openBootstrap } from "@nydus-ts/rafs-format";
import { compareListings, goldenAbsent, goldenCase, goldenDir, readListing } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CreateOptions, loadImage, mergeLayers, parsePrefetchPatterns } from "../src/index.ts";
import { BlobReader, build, listImage, makeGoldenSources, TemporaryDirectory } from "./support.ts";

type Case = [name: string, source: string, options: Partial<CreateOptions> & { inline?: boolean }];

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

/** Nothing is compressed, or by the library that the original has: lz4 gives the same blocks from one version to the next. */
const equalBytes: Case[] = [
  ["small-v6-none-sha256", "small", { compressor: "none", digester: "sha256" }],
  ["wide-v6", "wide", { compressor: "none" }],
  ["big-v6-1m-none", "big", { compressor: "none", digester: "sha256" }],
  ["plain-v6-export", "plain.tar", { compressor: "none" }],
  ["tiny-v6-batch-none", "tinyfiles", { batchSize: 0x8000, compressor: "none" }],
  ["small-v6-lz4_block-blake3", "small", { compressor: "lz4_block" }],
  ["small-v6-lz4_block-sha256", "small", { compressor: "lz4_block", digester: "sha256" }],
  ["small-v6-chunk4k", "small", { chunkSize: 0x1000, compressor: "lz4_block" }],
  ["small-v6-toc", "small", { toc: true, compressor: "lz4_block" }],
  ["big-v6-64k-lz4", "big", { chunkSize: 0x10000, compressor: "lz4_block" }],
  ["tiny-v6-batch-lz4", "tinyfiles", { batchSize: 0x4000, compressor: "lz4_block" }],
];

/** Another zstd gives other stored sizes, and so other ids: everything else is equal. */
const equalButStoredSizes: Case[] = [
  ["small-v6-zstd-blake3", "small", {}],
  ["small-v6-zstd-sha256", "small", { digester: "sha256" }],
  ["small-v6-repeatable", "small", { explicitUidGid: false }],
  ["small-v6-offset", "small", { blobOffset: 4096 }],
  ["plain-v6-tar", "plain.tar", {}],
  ["plain-v6-targz", "plain.tar.gz", {}],
  ["plain-v6-estargz-rafs", "plain.estargz", {}],
  ["big-v6-1m-zstd", "big", {}],
  ["big-v6-16m-zstd", "big", { chunkSize: 0x1000000 }],
  ["tiny-v6-nobatch", "tinyfiles", {}],
  ["tiny-v6-batch-zstd", "tinyfiles", { batchSize: 0x10000, chunkSize: 0x10000 }],
];

describe.skipIf(!hasGolden)("builds compared with the original's", () => {
  const temporary = new TemporaryDirectory();
  const sources = temporary.join("sources");
  beforeAll(() => makeGoldenSources(sources), 60_000);
  afterAll(() => temporary[Symbol.dispose]());

  test.each(equalBytes)("%s: bootstrap and blob have the original's bytes", async (name, source, options) => {
    const golden = goldenCase(name);
    const result = await build(join(sources, source), temporary.join(name), options);
    expect(result.bootstrap.equals(readFileSync(golden.bootstrapFile!))).toBe(true);
    expect([result.blob?.id]).toEqual(JSON.parse(readFileSync(join(golden.directory, "output.json"), "utf8")).blobs);
    expect(compareListings(listBuilt(temporary.join(name), result.bootstrap), readListing(golden))).toEqual([]);
  });

  test.each(equalButStoredSizes)("%s: equal but for stored sizes", async (name, source, options) => {
    const golden = goldenCase(name);
    const result = await build(join(sources, source), temporary.join(name), options);
    expect(comparable(openBootstrap(result.bootstrap))).toEqual(comparable(openBootstrap(readFileSync(golden.bootstrapFile!))));
    if (options.blobOffset === undefined) {
      expect(compareListings(listBuilt(temporary.join(name), result.bootstrap), readListing(golden))).toEqual([]);
    }
  });

  test.each([
    ["small-v6-encrypt-none", "small", { compressor: "none", chunkSize: 0x1000 }, "bytes"],
    ["small-v6-encrypt", "small", {}, "all but stored sizes"],
    ["tiny-v6-batch-encrypt", "tinyfiles", { batchSize: 0x10000 }, "all but stored sizes"],
  ] as const)("%s: with the original's key, the same image", async (name, source, options, equal) => {
    const golden = goldenCase(name);
    const goldenBootstrap = readFileSync(golden.bootstrapFile!);
    const [{ cipherKey, cipherIv }] = openBootstrap(goldenBootstrap).blobs;
    const key = { key: cipherKey!, iv: cipherIv! };
    const result = await build(join(sources, source), temporary.join(name), { ...options, key });
    if (equal === "bytes") {
      expect(result.bootstrap.equals(goldenBootstrap)).toBe(true);
      expect(readFileSync(result.blob!.path).equals(readFileSync(join(golden.directory, "blobs", result.blob!.id)))).toBe(true);
    }
    expect(comparable(openBootstrap(result.bootstrap))).toEqual(comparable(openBootstrap(goldenBootstrap)));
    expect(compareListings(listBuilt(temporary.join(name), result.bootstrap), readListing(golden))).toEqual([]);
  });

  test.each(["fs", "blob"] as const)(
    "small-v6-prefetch-%s: files on the list come first, and the table names what the list names",
    async (policy) => {
      const golden = goldenCase(`small-v6-prefetch-${policy}`);
      const list = parsePrefetchPatterns(readFileSync(join(sources, "prefetch.txt"), "utf8"));
      const result = await build(join(sources, "small"), temporary.join(golden.name), { prefetch: { policy, patterns: list.paths } });
      expect(comparable(openBootstrap(result.bootstrap))).toEqual(comparable(openBootstrap(readFileSync(golden.bootstrapFile!))));
      expect(list.warnings).toHaveLength(2);
    },
  );

  test("xattrs-v6: equal listing; the original's order of xattrs is random, ours is that of their names", async () => {
    const result = await build(join(sources, "xattrs"), temporary.join("xattrs"));
    const again = await build(join(sources, "xattrs"), temporary.join("xattrs-again"));
    expect(compareListings(listBuilt(temporary.join("xattrs"), result.bootstrap), readListing(goldenCase("xattrs-v6")))).toEqual([]);
    expect(again.bootstrap.equals(result.bootstrap)).toBe(true);
  });

  test.each([
    ["small-v6-inline", {}],
    ["small-v6-inline-toc", { toc: true }],
  ] as const)("%s: the bootstrap inside the blob shows the original's tree", async (name, options) => {
    const result = await build(join(sources, "small"), temporary.join(name), { ...options, inline: true });
    expect(compareListings(listBuilt(temporary.join(name), result.bootstrap, result.blob!.id), readListing(goldenCase(name)))).toEqual([]);
  });

  test("layers-v6-merge3: the merged bootstrap has the original's bytes", () => {
    const golden = goldenCase("layers-v6-merge3");
    const layers = ["l1", "l2", "l3"].map((name) => loadImage(readFileSync(join(golden.directory, `${name}.boot`))));
    const merged = mergeLayers({
      layers: layers.map(({ root }) => root),
      compressor: 3,
      digester: 0,
      cipher: 0,
      explicitUidGid: true,
      prefetch: { policy: "none", patterns: [] },
    });
    expect(merged.bootstrap.equals(readFileSync(golden.bootstrapFile!))).toBe(true);
  });

  function listBuilt(directory: string, bootstrapBytes: Buffer, blobId?: string) {
    const bootstrap = openBootstrap(bootstrapBytes);
    return listImage(
      bootstrap,
      bootstrap.blobs.map((blob) => new BlobReader(blob, join(directory, "blobs", blobId ?? blob.id))),
    );
  }
});

/** All that does not depend on how well a library compresses. Equal nids mean an equal layout. */
function comparable(bootstrap: Bootstrap): unknown {
  return {
    flags: bootstrap.flags,
    chunkSize: bootstrap.chunkSize,
    inodeCount: bootstrap.inodeCount,
    prefetch: bootstrap.prefetchNids,
    blobs: bootstrap.blobs.map(({ chunkCount, compressor, digester, features, uncompressedSize, ciUncompressedSize, tocSize }) => ({
      chunkCount,
      compressor,
      digester,
      features,
      uncompressedSize,
      ciUncompressedSize,
      tocSize,
    })),
    nodes: Array.from(bootstrap.walk(), ({ path, nid, inode }) => ({
      path: Buffer.from(path).toString("latin1"),
      ...inode,
      xattrs: bootstrap.xattrs(nid),
      chunks: Array.from(bootstrap.chunksOf(nid), (chunk) => {
        const record = bootstrap.chunkRecord(chunk)!;
        return { ...chunk, digest: Buffer.from(record.digest).toString("hex"), crc: record.crc32c, size: record.uncompressedSize };
      }),
    })),
  };
}

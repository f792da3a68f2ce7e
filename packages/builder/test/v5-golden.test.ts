import { readFileSync } from "node:fs";
import { join } from "node:path";
import { BootstrapV5, openBootstrap } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CreateOptions, loadImage, mergeLayers, parsePrefetchPatterns, writeExternalBootstrap } from "../src/index.ts";
import { build, makeGoldenSources, readXattrs, TemporaryDirectory } from "./support.ts";

type Case = [name: string, source: string, options: Partial<CreateOptions> & { inline?: boolean }];

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);
const version5 = { alignedChunks: false };

/** Nothing is compressed, so nothing depends on the version of a library. */
const equalBytes: Case[] = [
  ["small-v5-none-blake3", "small", { compressor: "none" }],
  ["wide-v5", "wide", { compressor: "none" }],
  ["small-v5-lz4_block-sha256", "small", { compressor: "lz4_block", digester: "sha256" }],
  ["small-v5-chunk4k", "small", { compressor: "lz4_block", chunkSize: 0x1000 }],
];

/** Another zstd may give other stored sizes, and so other ids: everything else is equal. */
const equalButStoredSizes: Case[] = [
  ["small-v5-zstd-blake3", "small", {}],
  ["small-v5-aligned", "small", { version5: { alignedChunks: true } }],
  ["plain-v5-tar", "plain.tar", {}],
  ["big-v5-1m-zstd", "big", {}],
];

describe.skipIf(!hasGolden)("version 5 builds compared with the original's", () => {
  const temporary = new TemporaryDirectory();
  const sources = temporary.join("sources");
  beforeAll(() => makeGoldenSources(sources), 60_000);
  afterAll(() => temporary[Symbol.dispose]());

  test.each(equalBytes)("%s: bootstrap and blob have the original's bytes", async (name, source, options) => {
    const golden = goldenCase(name);
    const result = await build(join(sources, source), temporary.join(name), { version5, ...options });
    expect(result.bootstrap.equals(readFileSync(golden.bootstrapFile!))).toBe(true);
    expect([result.blob?.id]).toEqual(JSON.parse(readFileSync(join(golden.directory, "output.json"), "utf8")).blobs);
  });

  test.each(equalButStoredSizes)("%s: equal but for stored sizes", async (name, source, options) => {
    const result = await build(join(sources, source), temporary.join(name), { version5, ...options });
    expect(comparable(result.bootstrap)).toEqual(comparable(readFileSync(goldenCase(name).bootstrapFile!)));
  });

  test.each(["fs", "blob"] as const)("small-v5-prefetch-%s: table and size of what comes first", async (policy) => {
    const name = `small-v5-prefetch-${policy}`;
    const { paths } = parsePrefetchPatterns(readFileSync(join(sources, "prefetch.txt"), "utf8"));
    const result = await build(join(sources, "small"), temporary.join(name), { version5, prefetch: { policy, patterns: paths } });
    const golden = readFileSync(goldenCase(name).bootstrapFile!);
    expect(comparable(result.bootstrap)).toEqual(comparable(golden));
    for (const bytes of [result.bootstrap, golden]) {
      const bootstrap = openBootstrap(bytes) as BootstrapV5;
      // The last file of the list that has data of its own.
      const [chunk] = bootstrap.chunksOf(bootstrap.resolve("/hello.txt")!);
      const { compressedOffset, compressedSize } = bootstrap.chunkRecord(chunk)!;
      expect(bootstrap.blobs[0].prefetchSize).toBe(policy === "blob" ? compressedOffset + compressedSize : 0);
    }
  });

  test("small-v5-inline: the bootstrap inside the blob is the one outside, but for the id of its blob", async () => {
    const name = "small-v5-inline";
    const options = { version5, compressor: "lz4_block" } as const;
    const inside = await build(join(sources, "small"), temporary.join(name), { ...options, inline: true });
    const outside = await build(join(sources, "small"), temporary.join(`${name}-not`), options);
    expect(comparable(inside.bootstrap)).toEqual(comparable(outside.bootstrap, { features: 0x10000002 }));
    const blob = readFileSync(inside.blob!.path);
    expect(blob.subarray(blob.length - 512 - inside.bootstrap.length, -512).equals(inside.bootstrap)).toBe(true);
  });

  test("xattrs-v5: xattrs in the order of their names, every time", async () => {
    const result = await build(join(sources, "xattrs"), temporary.join("xattrs"), { version5 });
    const again = await build(join(sources, "xattrs"), temporary.join("xattrs-again"), { version5 });
    expect(again.bootstrap.equals(result.bootstrap)).toBe(true);
    expect(comparable(result.bootstrap)).toEqual(comparable(readFileSync(goldenCase("xattrs-v5").bootstrapFile!)));
  });

  test("small-v5-lz4_block-sha256: the empty bootstrap of external files has the original's bytes", async () => {
    const name = "small-v5-lz4_block-sha256";
    const options: CreateOptions = {
      source: { kind: "directory", path: join(sources, "small"), readXattrs, whiteouts: "oci" },
      blob: { directory: temporary.path },
      bootstrap: { file: temporary.join("external") },
      blobId: "",
      blobOffset: 0,
      compressor: "lz4_block",
      digester: "sha256",
      chunkSize: 0x100000,
      chunkInfoVersion: 1,
      toc: false,
      explicitUidGid: true,
      version5,
      prefetch: { policy: "none", patterns: [] },
    };
    const result = await build(join(sources, "small"), temporary.join("with-external"), options);
    const golden = readFileSync(join(goldenCase(name).directory, "bootstrap.external"));
    expect(writeExternalBootstrap(options, result).equals(golden)).toBe(true);
  });

  test("layers-v5-merge3: the merged bootstrap has the original's bytes", () => {
    const golden = goldenCase("layers-v5-merge3");
    const layers = ["l1", "l2", "l3"].map((name) => loadImage(readFileSync(join(golden.directory, `${name}.boot`))));
    const merged = mergeLayers({
      fsVersion: 5,
      layers: layers.map(({ root }) => root),
      compressor: 3,
      digester: 0,
      cipher: 0,
      explicitUidGid: true,
      prefetch: { policy: "none", patterns: [] },
    });
    expect(merged.bootstrap.equals(readFileSync(golden.bootstrapFile!))).toBe(true);
  });
});

/** All that does not depend on how well a library compresses, with the digest of every inode. */
function comparable(bytes: Buffer, options: { features: number } = { features: 0 }): unknown {
  const bootstrap = openBootstrap(bytes) as BootstrapV5;
  expect(bootstrap).toBeInstanceOf(BootstrapV5);
  return {
    flags: bootstrap.flags,
    chunkSize: bootstrap.chunkSize,
    inodeCount: bootstrap.inodeCount,
    byteLength: bootstrap.byteLength,
    prefetch: bootstrap.prefetchNids,
    blobs: bootstrap.blobs.map(({ chunkCount, features, uncompressedSize }) => ({
      chunkCount,
      features: features | options.features,
      uncompressedSize,
    })),
    nodes: Array.from(bootstrap.walk(), ({ path, nid, inode }) => {
      bootstrap.verifyDigest(nid);
      return {
        path: Buffer.from(path).toString("latin1"),
        ...inode,
        ...bootstrap.recordedFields(nid),
        xattrs: bootstrap.xattrs(nid),
        chunks: Array.from(bootstrap.chunksOf(nid), (chunk) => {
          const record = bootstrap.chunkRecord(chunk)!;
          return { ...chunk, digest: Buffer.from(record.digest).toString("hex"), crc: record.crc32c, size: record.uncompressedSize };
        }),
      };
    }),
  };
}

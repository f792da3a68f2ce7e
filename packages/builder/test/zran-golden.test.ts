import { createReadStream, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import {
  BLOB_RECORD,
  type BlobRecord,
  EXTENDED_SUPERBLOCK,
  extendedSuperblockOffset,
  openBlobMeta,
  openBootstrap,
} from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { afterAll, describe, expect, test } from "vitest";
import type { CreateOptions } from "../src/index.ts";
import { build, TemporaryDirectory } from "./support.ts";
import { inflateContext } from "./zran-support.ts";

type Case = [name: string, source: string, options: Partial<CreateOptions> & { inline?: boolean }];

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

const equalBytes: Case[] = [
  ["plain-v6-zran", "plain.tar.gz", {}],
  ["plain-v6-zran-2members", "plain-2members.tar.gz", {}],
  ["plain-v6-zran-toc", "plain.tar.gz", { toc: true }],
  ["plain-v6-zran-inline", "plain.tar.gz", { inline: true }],
  ["plain-v6-zran-inline-toc", "plain.tar.gz", { inline: true, toc: true }],
  ["plain-v6-tarref", "plain.tar", {}],
];

/** The index is large enough for another version of zstd to compress it to another size. */
const equalButStoredIndex: Case[] = [
  ["big-v6-zran", "big.tar.gz", {}],
  ["big-v6-zran-64k", "big.tar.gz", { chunkSize: 0x10000 }],
];

describe.skipIf(!hasGolden)("images of layers that stay as they are, compared with the original's", () => {
  const temporary = new TemporaryDirectory();
  afterAll(() => temporary[Symbol.dispose]());

  const buildLayer = async (name: string, source: string, options: Case[2]) => {
    const path = join(goldenDir()!, "sources", source);
    return await build(path, temporary.join(name), { ...options, source: { kind: "layer", stream: createReadStream(path) } });
  };
  const goldenBlob = (name: string) => {
    const directory = join(goldenCase(name).directory, "blobs");
    const [id] = readdirSync(directory);
    return { id, bytes: readFileSync(join(directory, id)) };
  };

  test.each(equalBytes)("%s: bootstrap and index have the original's bytes", async (name, source, options) => {
    const result = await buildLayer(name, source, options);
    const golden = goldenBlob(name);
    expect(result.blob?.id).toBe(golden.id);
    expect(readFileSync(result.blob!.path).equals(golden.bytes)).toBe(true);
    if (!options.inline) expect(result.bootstrap.equals(readFileSync(goldenCase(name).bootstrapFile!))).toBe(true);
  });

  test.each(equalButStoredIndex)("%s: equal bytes but for the size and digest of the stored index", async (name, source, options) => {
    const result = await buildLayer(name, source, options);
    const golden = readFileSync(goldenCase(name).bootstrapFile!);
    const [record] = openBootstrap(result.bootstrap).blobs;
    const [goldenRecord] = openBootstrap(golden).blobs;
    const plain = chunkInfoOf(record, readFileSync(result.blob!.path));
    expect(plain.equals(chunkInfoOf(goldenRecord, goldenBlob(name).bytes))).toBe(true);
    expect(withoutStoredIndex(result.bootstrap).equals(withoutStoredIndex(golden))).toBe(true);
  });

  test("plain-v6-estargz-ref: contexts never stand at the end of a member, where the original's can not be read", async () => {
    const name = "plain-v6-estargz-ref";
    const result = await buildLayer(name, "plain.estargz", {});
    const file = readFileSync(join(goldenDir()!, "sources", "plain.estargz"));
    const [record] = openBootstrap(result.bootstrap).blobs;
    const meta = metaOf(record, readFileSync(result.blob!.path));
    const [goldenRecord] = openBootstrap(readFileSync(goldenCase(name).bootstrapFile!)).blobs;
    const golden = metaOf(goldenRecord, goldenBlob(name).bytes);
    expect(meta.contextCount).toBe(golden.contextCount);
    for (let i = 0; i < meta.count; i++) {
      expect([
        meta.compressedOffset(i),
        meta.compressedSize(i),
        meta.uncompressedOffset(i),
        meta.zranOf(i),
        meta.offsetInContext(i),
      ]).toEqual([
        golden.compressedOffset(i),
        golden.compressedSize(i),
        golden.uncompressedOffset(i),
        golden.zranOf(i),
        golden.offsetInContext(i),
      ]);
    }
    for (let i = 0; i < meta.contextCount; i++) {
      const context = meta.zranContext(i);
      expect(inflateContext(file, { ...context, inPosition: context.inOffset })).toHaveLength(context.outLength);
      expect(context.outOffset).toBe(golden.zranContext(i).outOffset);
      expect(context.outLength).toBe(golden.zranContext(i).outLength);
    }
  });
});

function metaOf(record: BlobRecord, blob: Buffer) {
  const header = blob.subarray(record.ciOffset + record.ciCompressedSize).subarray(0, 4096);
  return openBlobMeta(chunkInfoOf(record, blob), header, record);
}

function chunkInfoOf(record: BlobRecord, blob: Buffer): Buffer {
  const stored = blob.subarray(record.ciOffset, record.ciOffset + record.ciCompressedSize);
  return stored.length === record.ciUncompressedSize ? stored : zstdDecompressSync(stored);
}

/** A copy whose one blob record says nothing about the stored form of the index. */
function withoutStoredIndex(bootstrap: Buffer): Buffer {
  const copy = Buffer.from(bootstrap);
  const at = Number(copy.readBigUInt64LE(extendedSuperblockOffset + EXTENDED_SUPERBLOCK.blobTableOffset));
  copy.fill(0, at + BLOB_RECORD.ciCompressedSize, at + BLOB_RECORD.ciCompressedSize + 8);
  copy.fill(0, at + BLOB_RECORD.metaDigest, at + BLOB_RECORD.metaSize + 8);
  return copy;
}

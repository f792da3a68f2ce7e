import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlobRecord, metaBlobId, openBootstrap } from "@nydus-ts/rafs-format";
import { type GoldenCase, goldenAbsent, goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BlobBackend, BlobCache, localfsBackend } from "../src/index.ts";

const absent = goldenDir() === undefined;
/** Bytes of meta, header or ToC between two that are changed. */
const step = 97;

/** A back end that changes one byte of every blob it serves. */
class Spoiling implements BlobBackend {
  readonly kind = "spoiling";
  readonly reads: { readonly offset: number; readonly length: number }[] = [];
  at = -1;
  readonly #inner: BlobBackend;
  constructor(inner: BlobBackend) {
    this.#inner = inner;
  }
  async read(...[blobId, range, options]: Parameters<BlobBackend["read"]>): Promise<Uint8Array> {
    this.reads.push(range);
    const bytes = Buffer.from(await this.#inner.read(blobId, range, options));
    const at = this.at - range.offset;
    if (this.at >= 0 && at >= 0 && at < bytes.length) bytes[at]! ^= 0x10;
    return bytes;
  }
  size(...parameters: Parameters<BlobBackend["size"]>): Promise<number> {
    return this.#inner.size(...parameters);
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.#inner[Symbol.asyncDispose]();
  }
}

describe.skipIf(absent)(`blob meta from the network${absent ? ` (${goldenAbsent})` : ""}`, () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "blob-meta-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  async function open(
    golden: GoldenCase,
    changes: Partial<BlobRecord> = {},
  ): Promise<{ cache: BlobCache; backend: Spoiling; blob: BlobRecord }> {
    const record = openBootstrap(readBootstrap(golden)).blobs[0]!;
    const blob = { ...record, ...changes };
    const backend = new Spoiling(localfsBackend({ dir: golden.blobDirectory! }));
    const directory = await mkdtemp(join(folder, "cache-"));
    const cache = await BlobCache.open({ directory, blob, metaBlobId: metaBlobId(record, undefined), backend, digester: blob.digester });
    return { cache, backend, blob };
  }

  const load = async (cache: BlobCache): Promise<string> =>
    cache.loadMeta({ deadlineMs: 5000 }).then(
      () => "loaded",
      (error: { code: string }) => error.code,
    );

  test.each([
    ["small-v6-toc", "by the ToC that the image knows the digest of"],
    ["layers-v6-merge3-inline", "by the ToC, though the blob's own bootstrap lies between"],
    ["plain-v6-zran", "by the digest of the blob that holds only meta"],
    ["plain-v6-zran-toc", "by the ToC of its meta blob"],
    ["plain-v6-tarref", "by the digest of the meta blob of a plain tar"],
  ])("of %s is verified %s: a changed byte is CHUNK_META, and right bytes are taken afterwards", async (name) => {
    const golden = goldenCase(name);
    const { cache, backend, blob } = await open(golden);
    const metaFile = join(golden.blobDirectory!, metaBlobId(blob, undefined));
    const end = readFileSync(metaFile).length;
    const metaEnd = blob.ciOffset + blob.ciCompressedSize + 4096;
    const positions = [blob.ciOffset, metaEnd - 1, end - 1];
    for (let at = blob.ciOffset + 1; at < metaEnd; at += step) positions.push(at);
    for (let at = end - blob.tocSize; at < end; at += step) positions.push(at);
    for (const position of positions) {
      backend.at = position;
      expect(await load(cache), `byte ${position} of ${end}`).toBe("CHUNK_META");
    }
    backend.at = -1;
    expect(await load(cache)).toBe("loaded");
    await cache[Symbol.asyncDispose]();
  });

  test("the ToC is asked for beside the meta, at the place where the image says that the blob ends", async () => {
    const { cache, backend, blob } = await open(goldenCase("small-v6-toc"));
    expect(await load(cache)).toBe("loaded");
    expect(backend.reads).toEqual([
      { offset: blob.ciOffset, length: blob.ciCompressedSize + 4096 },
      { offset: blob.compressedSize - blob.tocSize, length: blob.tocSize },
    ]);
    await cache[Symbol.asyncDispose]();
  });

  test("an image that records another size of the blob finds the ToC by the size the back end says", async () => {
    const golden = goldenCase("small-v6-toc");
    const size = readFileSync(join(golden.blobDirectory!, readdirSync(golden.blobDirectory!)[0]!)).length;
    const { cache } = await open(golden, { compressedSize: size - 1024 });
    expect(await load(cache)).toBe("loaded");
    await cache[Symbol.asyncDispose]();
  });

  test("a ToC that is not the recorded one is refused, though all its sections are right", async () => {
    const { cache } = await open(goldenCase("small-v6-toc"), { tocDigest: new Uint8Array(32).fill(7) });
    expect(await load(cache)).toBe("CHUNK_META");
    await cache[Symbol.asyncDispose]();
  });
});

import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { type GoldenCase, goldenAbsent, goldenCases } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type BlobBackend, BlobCache, ChunkStoreError, FetchScheduler, localfsBackend } from "../src/index.ts";

const golden: GoldenCase | undefined = goldenCases()?.find(({ name }) => name === "small-v6-zstd-blake3");

/** A back end that counts, and can be made to serve wrong bytes. */
class Counting implements BlobBackend {
  readonly kind = "counting";
  reads: { offset: number; length: number }[] = [];
  spoil = false;
  readonly #inner: BlobBackend;
  constructor(inner: BlobBackend) {
    this.#inner = inner;
  }
  async read(...[blobId, range, options]: Parameters<BlobBackend["read"]>): Promise<Uint8Array> {
    this.reads.push(range);
    const bytes = Buffer.from(await this.#inner.read(blobId, range, options));
    if (this.spoil) bytes[bytes.length >> 1]! ^= 1;
    return bytes;
  }
  size(...parameters: Parameters<BlobBackend["size"]>): Promise<number> {
    return this.#inner.size(...parameters);
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.#inner[Symbol.asyncDispose]();
  }
}

describe.skipIf(golden === undefined)(`a blob of the original as a cache${golden === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  const bootstrap = openBootstrap(readFileSync(golden!.bootstrapFile!));
  const blob = bootstrap.blobs[0]!;
  const digestOf = bootstrap.chunkDigests(0);
  const all = Array.from({ length: blob.chunkCount }, (_, chunk) => chunk);
  let directory: string;
  let backend: Counting;
  let cache: BlobCache;
  const open = (): Promise<BlobCache> =>
    BlobCache.open({ directory, blob, backend, digestOf, digester: blob.digester, scheduler: new FetchScheduler() });
  const bits = (): number => cache.stats().readyCount;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "chunk-store-"));
    backend = new Counting(localfsBackend({ dir: golden!.blobDirectory! }));
    cache = await open();
  });
  afterEach(async () => {
    await cache[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  test("opening asks nobody; the first chunk loads the meta, and every chunk is verified", async () => {
    expect(backend.reads).toEqual([]);
    expect(cache.layout[0]).toBe(0xffffffff);
    await cache.ensure(all, { deadlineMs: 10_000 });
    expect(bits()).toBe(blob.chunkCount);
    expect(cache.stats().unverifiedChunks).toBe(0);
  });

  test("a thousand readers of one chunk cost one request beside the meta", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const before = backend.reads.length;
    await Promise.all(Array.from({ length: 1000 }, () => cache.ensure([0], { deadlineMs: 10_000 })));
    expect(backend.reads.length - before).toBe(1);
  });

  test("wrong bytes are fetched once more, then refused; no bit is set, and right bytes are taken later", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    backend.spoil = true;
    const code = await cache.ensure([1], { deadlineMs: 10_000 }).catch((error: ChunkStoreError) => error.code);
    expect(["CHUNK_DIGEST", "CHUNK_DECODE"]).toContain(code);
    expect(bits()).toBe(0);
    backend.spoil = false;
    await cache.ensure([1], { deadlineMs: 10_000 });
    expect(bits()).toBe(1);
  });

  test("what was ready when the cache was closed is ready without the network when it is opened again", async () => {
    await cache.ensure(all, { deadlineMs: 10_000 });
    await cache[Symbol.asyncDispose]();
    backend.reads = [];
    cache = await open();
    await cache.ensure(all, { deadlineMs: 10_000 });
    expect(bits()).toBe(blob.chunkCount);
    expect(backend.reads).toEqual([]);
  });

  test("neighbours asked for together take fewer requests than chunks", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const before = backend.reads.length;
    await cache.ensure([0, 1, 2], { deadlineMs: 10_000 });
    expect(backend.reads.length - before).toBeLessThan(3);
  });

  test("a chunk the blob does not have is refused before anything is fetched", async () => {
    await expect(cache.ensure([blob.chunkCount], { deadlineMs: 1000 })).rejects.toMatchObject({ code: "CHUNK_RANGE" });
    expect(backend.reads).toEqual([]);
  });

  test("a silent back end ends the wait at the deadline, and a closed cache refuses", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    backend.read = () => new Promise(() => undefined);
    await expect(cache.ensure([0], { deadlineMs: 50 })).rejects.toMatchObject({ code: "CHUNK_DEADLINE" });
    backend.read = () => Promise.reject(new Error("connection refused"));
    await expect(cache.ensure([2], { deadlineMs: 1000 })).rejects.toBeInstanceOf(ChunkStoreError);
  });

  test("prefetch brings everything, and readInto hands out pieces", async () => {
    await cache.prefetch("all");
    expect(bits()).toBe(blob.chunkCount);
    const target = new Uint8Array(8);
    await cache.readInto(target, [{ chunk: 0, offset: 0, length: 8, targetOffset: 0 }], { deadlineMs: 1000 });
    expect(target.some((byte) => byte !== 0)).toBe(true);
  });
});

import { readFileSync } from "node:fs";
import { mkdtemp, open as openFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { type GoldenCase, goldenAbsent, goldenCases } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type BlobBackend, BlobCache, type BlobCacheOptions, type ChunkStoreError, FetchScheduler, localfsBackend } from "../src/index.ts";
import { longRunAmplifyTimes, longRunBytesMin } from "../src/limits.ts";

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
  const open = (options: Partial<BlobCacheOptions> = {}): Promise<BlobCache> =>
    BlobCache.open({ directory, blob, backend, digestOf, digester: blob.digester, scheduler: new FetchScheduler(), ...options });
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

  test("neighbours asked for together share one request; what in-order access adds is little, and comes with it", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const [before, requests] = [backend.reads.length, () => backend.reads.length - before];
    await cache.ensure([0, 1, 2], { deadlineMs: 10_000, sequentialBytes: 0 });
    expect(requests()).toBe(1);
    await cache.ensure([3], { deadlineMs: 10_000, sequentialBytes: 128 * 1024 });
    await expect.poll(() => cache.stats().inFlight).toBe(0);
    expect(requests()).toBe(2);
    expect(cache.stats().widenedBytes).toBeGreaterThan(0);
  });

  test.each([16, 0])(
    "in a long run more is fetched ahead, and on when its reader comes to half of it (amplifyBytesMax %i KiB)",
    async (amplifyKiB) => {
      await cache[Symbol.asyncDispose]();
      cache = await open({ amplifyBytesMax: amplifyKiB * 1024 });
      const size = (chunk: number): number => cache.layout[2 * chunk + 1] as number;
      const asked = (): number[] => all.filter((chunk) => ((cache.asked[chunk >> 5]! >>> (chunk & 31)) & 1) === 1);
      const settled = async (): Promise<number> => {
        await expect.poll(() => cache.stats().inFlight).toBe(0);
        return bits();
      };
      const sequentialBytes = longRunBytesMin;
      await cache.ensure([0], { deadlineMs: 10_000, sequentialBytes });
      const first = await settled();
      if (amplifyKiB === 0) {
        expect([first, asked()]).toEqual([1, []]);
        return;
      }
      const window = amplifyKiB * 1024 * longRunAmplifyTimes;
      const ahead = (until: number): number => all.slice(1, until).reduce((sum, chunk) => sum + size(chunk), 0);
      expect(ahead(first)).toBeLessThanOrEqual(window);
      expect(ahead(first + 1)).toBeGreaterThan(window);
      const [half = 0, ...others] = asked();
      expect(others).toEqual([]);
      expect(ahead(half)).toBeLessThan(window / 2);
      expect(ahead(half + 1)).toBeGreaterThanOrEqual(window / 2);
      cache.readOn(half, sequentialBytes);
      expect(await settled()).toBeGreaterThan(first);
      await cache[Symbol.asyncDispose]();
      const requests = backend.reads.length;
      cache.readOn(half, sequentialBytes);
      await new Promise((resolve) => setImmediate(resolve));
      expect(backend.reads).toHaveLength(requests);
    },
  );

  test("what came before a connection broke stays, and only the rest fails", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const read = backend.read.bind(backend);
    let late: (() => void) | undefined;
    backend.read = async (blobId, range, options) => {
      const bytes = await read(blobId, range, options);
      options.onPart?.(bytes.subarray(0, bytes.length - 1));
      late = () => options.onPart?.(bytes);
      throw new Error("cut");
    };
    await expect(cache.ensure([0, 1, 2], { deadlineMs: 10_000, sequentialBytes: 0 })).rejects.toMatchObject({ code: "CHUNK_BACKEND" });
    await expect.poll(bits).toBe(2);
    // A back end that goes on showing bytes after it gave up changes nothing.
    late?.();
    await new Promise((resolve) => setImmediate(resolve));
    expect([bits(), cache.stats().inFlight]).toEqual([2, 0]);
  });

  test("a reader gets the verified data before it is in the cache, and never data that is wrong", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const seen: { readonly chunk: number; readonly data: Buffer; readonly ready: number }[] = [];
    const onVerified = (chunk: number, data: Uint8Array): void => void seen.push({ chunk, data: Buffer.from(data), ready: bits() });
    backend.spoil = true;
    await cache.ensure([1], { deadlineMs: 10_000, onVerified }).catch(() => undefined);
    expect(seen).toEqual([]);
    backend.spoil = false;
    await cache.ensure([1], { deadlineMs: 10_000, onVerified });
    expect(seen.map(({ chunk, ready }) => [chunk, ready])).toEqual([[1, 0]]);
    const stored = Buffer.alloc(seen[0]!.data.length);
    await cache.readInto(stored, [{ chunk: 1, offset: 0, length: stored.length, targetOffset: 0 }], { deadlineMs: 10_000 });
    expect(stored.equals(seen[0]!.data)).toBe(true);
    // Of a chunk that is ready nothing is told: it is in the cache.
    await cache.ensure([1], { deadlineMs: 10_000, onVerified });
    expect(seen).toHaveLength(1);
  });

  test("bytes that come after the cache was closed are written nowhere, not even to a file that got its descriptor", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const late = Promise.withResolvers<void>();
    const read = backend.read.bind(backend);
    // A back end that does not heed the signal, as a library under it may not.
    let sent = false;
    backend.read = async (...parameters) => {
      sent = true;
      await late.promise;
      return read(parameters[0], parameters[1], { ...parameters[2], signal: new AbortController().signal });
    };
    const waiting = cache.ensure([0], { deadlineMs: 60_000 }).catch((error: ChunkStoreError) => error.code);
    await expect.poll(() => sent).toBe(true);
    await cache[Symbol.asyncDispose]();
    // Open files until one has the number that the cache's data file had, if it was given back.
    const other = await Promise.all(Array.from({ length: 40 }, (_, index) => openFile(join(directory, `other-${index}`), "w+")));
    try {
      late.resolve();
      expect(await waiting).toBe("CHUNK_CLOSED");
      await new Promise((resolve) => setTimeout(resolve, 200));
      for (const file of other) expect((await file.stat()).size).toBe(0);
    } finally {
      for (const file of other) await file.close();
    }
  });

  test("a chunk the blob does not have is refused before anything is fetched", async () => {
    await expect(cache.ensure([blob.chunkCount], { deadlineMs: 1000 })).rejects.toMatchObject({ code: "CHUNK_RANGE" });
    expect(backend.reads).toEqual([]);
  });

  test("a silent back end ends the wait at the deadline, and one that fails is a coded error", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    backend.read = () => new Promise(() => undefined);
    await expect(cache.ensure([0], { deadlineMs: 50 })).rejects.toMatchObject({ code: "CHUNK_DEADLINE" });
    backend.read = () => Promise.reject(new Error("connection refused"));
    await expect(cache.ensure([2], { deadlineMs: 1000 })).rejects.toMatchObject({ code: "CHUNK_BACKEND" });
  });

  test("a closed cache refuses, and closing twice is harmless", async () => {
    await cache[Symbol.asyncDispose]();
    await cache[Symbol.asyncDispose]();
    await expect(cache.ensure([0], { deadlineMs: 1000 })).rejects.toMatchObject({ code: "CHUNK_CLOSED" });
  });

  test("a reader that joins a prefetch under way makes it urgent, and tries itself when the prefetch fails", async () => {
    await cache.loadMeta({ deadlineMs: 10_000 });
    const read = backend.read.bind(backend);
    const sent = Promise.withResolvers<void>();
    backend.read = (blobId, range, options) => {
      if (options.priority === "demand") return read(blobId, range, options);
      sent.resolve();
      // Fails as soon as it is told that somebody waits: had nobody told it, the reader would wait for ever.
      return new Promise((_, reject) => options.demanded?.addEventListener("abort", () => reject(new Error("429"))));
    };
    const prefetch = cache.prefetch([0]).catch((error: ChunkStoreError) => error.code);
    await sent.promise;
    await cache.ensure([0], { deadlineMs: 10_000 });
    expect(await prefetch).toBe("CHUNK_BACKEND");
    expect(bits()).toBe(1);
  });

  test("prefetch brings everything, and readInto hands out pieces", async () => {
    await cache.prefetch("all");
    expect(bits()).toBe(blob.chunkCount);
    const target = new Uint8Array(8);
    await cache.readInto(target, [{ chunk: 0, offset: 0, length: 8, targetOffset: 0 }], { deadlineMs: 1000 });
    expect(target.some((byte) => byte !== 0)).toBe(true);
  });
});

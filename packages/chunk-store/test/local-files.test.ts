import { readFileSync } from "node:fs";
import { chmod, copyFile, mkdtemp, readFile, rm, stat, truncate, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlobMeta, type Bootstrap, cacheFileNames, openBootstrap, readMetaFile } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type BlobBackend, BlobCache, FetchScheduler, localfsBackend } from "../src/index.ts";

const absent = goldenDir() === undefined;
const nobody: BlobBackend = {
  kind: "nobody",
  read: () => Promise.reject(new Error("the network was asked")),
  size: () => Promise.reject(new Error("the network was asked")),
  async [Symbol.asyncDispose]() {},
};

describe.skipIf(absent)(`the local files of a cache${absent ? ` (${goldenAbsent})` : ""}`, () => {
  const golden = absent ? undefined : goldenCase("small-v6-cachefiles");
  const bootstrap: Bootstrap = openBootstrap(readBootstrap(golden!));
  const blob = bootstrap.blobs[0]!;
  const names = cacheFileNames(blob.id);
  const original = (file: string): string => join(golden!.blobDirectory!, file);
  const truth = readFileSync(original(names.data));
  const meta: BlobMeta = readMetaFile(readFileSync(original(names.meta)), blob);
  const all = Array.from({ length: blob.chunkCount }, (_, chunk) => chunk);
  let directory: string;
  let backend: BlobBackend;
  let warnings: string[];
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "local-files-"));
    backend = localfsBackend({ dir: golden!.blobDirectory! });
    warnings = [];
  });
  afterEach(async () => {
    await backend[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  /** Opens the cache, reads every chunk, compares it, and closes. */
  async function readAll(from: BlobBackend = backend): Promise<BlobCache["stats"] extends () => infer Stats ? Stats : never> {
    const cache = await BlobCache.open({
      directory,
      blob,
      backend: from,
      digestOf: bootstrap.chunkDigests(0),
      digester: blob.digester,
      scheduler: new FetchScheduler(),
      onWarning: (line) => warnings.push(line),
    });
    try {
      const target = new Uint8Array(truth.length);
      const piece = (chunk: number): { chunk: number; offset: number; length: number; targetOffset: number } => ({
        chunk,
        offset: 0,
        length: meta.uncompressedSize(chunk),
        targetOffset: meta.uncompressedOffset(chunk),
      });
      await cache.readInto(target, all.map(piece), { deadlineMs: 10_000 });
      expect(Buffer.compare(target, truth)).toBe(0);
      return cache.stats();
    } finally {
      await cache[Symbol.asyncDispose]();
    }
  }

  const copyOriginal = async (): Promise<void> => {
    for (const name of [names.data, names.chunkMap, names.meta]) {
      await copyFile(original(name), join(directory, name));
      await chmod(join(directory, name), 0o644);
    }
  };

  test("a cache that the original filled gives every byte without the network, verified", async () => {
    await copyOriginal();
    expect(await readAll(nobody)).toMatchObject({ fetchRequests: 0, unverifiedChunks: 0, damagedChunks: 0, readyCount: blob.chunkCount });
  });

  test("a cache that we filled has the bytes of the original's, file for file", async () => {
    await readAll();
    for (const name of [names.data, names.chunkMap, names.meta]) {
      expect(Buffer.compare(await readFile(join(directory, name)), await readFile(original(name))), name).toBe(0);
    }
  });

  const damages: Record<string, (path: string, size: number) => Promise<void>> = {
    removed: (path) => unlink(path),
    emptied: (path) => truncate(path, 0),
    "cut to one byte": (path) => truncate(path, 1),
    "cut in the middle": (path, size) => truncate(path, size >> 1),
    "one byte short": (path, size) => truncate(path, size - 1),
    "one page longer": (path, size) => truncate(path, size + 4096),
    "filled with zeros": (path, size) => writeFile(path, new Uint8Array(size)),
    "filled with ones": (path, size) => writeFile(path, new Uint8Array(size).fill(0xff)),
  };
  const files = [names.data, names.chunkMap, names.meta, names.metaDigest].map((name) => name.slice(name.indexOf(".")));

  describe.each(files)("%s", (suffix) => {
    test.each(Object.keys(damages))("%s: the next run reads every byte right, and the run after that asks nobody", async (damage) => {
      await readAll();
      const path = join(directory, blob.id + suffix);
      await damages[damage]!(path, (await stat(path)).size);
      await readAll();
      expect((await readAll(nobody)).fetchRequests).toBe(0);
    });

    test("a changed byte anywhere in it: the next run reads every byte right", async () => {
      await readAll();
      const path = join(directory, blob.id + suffix);
      const whole = await readFile(path);
      const positions = [0, 5, 17, 4096, 4097, whole.length - 1, ...Array.from({ length: 12 }, (_, at) => (at * 7919) % whole.length)];
      for (const position of positions.filter((at) => at < whole.length)) {
        const bytes = Buffer.from(whole);
        bytes[position]! ^= 0x5a;
        await writeFile(path, bytes);
        await readAll();
      }
    });
  });

  test("chunks that the disk lost are fetched again, alone, and one line says so", async () => {
    await copyOriginal();
    const lost = [3, 9];
    const data = Buffer.from(truth);
    for (const chunk of lost) data.fill(0, meta.uncompressedOffset(chunk), meta.uncompressedOffset(chunk) + meta.uncompressedSize(chunk));
    await writeFile(join(directory, names.data), data);
    expect(await readAll()).toMatchObject({ damagedChunks: lost.length, entriesCount: lost.length });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain(blob.id);
    expect(await readAll(nobody)).toMatchObject({ damagedChunks: 0 });
  });

  test("what lies behind a chunk is verified along with it, but only where a digest can prove it", async () => {
    await copyOriginal();
    const data = Buffer.from(truth);
    const unproven = 4;
    data.fill(0, meta.uncompressedOffset(unproven), meta.uncompressedOffset(unproven) + meta.uncompressedSize(unproven));
    await writeFile(join(directory, names.data), data);
    const digests = bootstrap.chunkDigests(0);
    const digestOf = (chunk: number): Uint8Array | undefined => (chunk === unproven ? undefined : digests(chunk));
    const options = { directory, blob, backend: nobody, digestOf, digester: blob.digester, scheduler: new FetchScheduler() };
    await using cache = await BlobCache.open(options);
    const isReady = (chunk: number): boolean => (((cache.ready[chunk >> 5] as number) >>> (chunk & 31)) & 1) === 1;
    await cache.ensure([0], { deadlineMs: 10_000 });
    await vi.waitFor(() => expect([1, 2, 3, 5, 6].map(isReady)).toEqual([true, true, true, true, true]));
    // An image that is mounted later may know its digest.
    expect(isReady(unproven)).toBe(false);
  });
});

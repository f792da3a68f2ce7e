import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Bootstrap, openBootstrap } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type BlobBackend, BlobCache, FetchScheduler, localfsBackend } from "../src/index.ts";

/** A disk that takes what is written and never ends a sync: one that has other work for the next minute. */
const stuck = { on: false, syncs: 0 };
vi.mock(import("../src/file-io.ts"), async (original) => {
  const io = await original();
  const syncData = (fd: number): Promise<void> => {
    if (!stuck.on) return io.syncData(fd);
    stuck.syncs++;
    return new Promise(() => undefined);
  };
  return { ...io, syncData };
});

const absent = goldenDir() === undefined;

describe.skipIf(absent)(`a cache whose process ends while its disk is busy${absent ? ` (${goldenAbsent})` : ""}`, () => {
  const golden = absent ? undefined : goldenCase("small-v6-cachefiles");
  const bootstrap: Bootstrap = openBootstrap(readBootstrap(golden!));
  const blob = bootstrap.blobs[0]!;
  const all = Array.from({ length: blob.chunkCount }, (_, chunk) => chunk);
  let directory: string;
  let backend: BlobBackend;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "process-ends-"));
    backend = localfsBackend({ dir: golden!.blobDirectory! });
    stuck.on = true;
    stuck.syncs = 0;
  });
  afterEach(async () => {
    stuck.on = false;
    await backend[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  const open = (digestOf = bootstrap.chunkDigests(0)): Promise<BlobCache> =>
    BlobCache.open({ directory, blob, backend, digestOf, digester: blob.digester, scheduler: new FetchScheduler() });

  test.each(["before", "after"] as const)("waits for no sync, and keeps what was written %s one began", async (when) => {
    const cache = await open();
    await cache.ensure(all.slice(0, 5), { deadlineMs: 10_000 });
    if (when === "before") await vi.waitFor(() => expect(stuck.syncs).toBe(1), { timeout: 10_000 });
    await cache.ensure(all, { deadlineMs: 10_000 });
    await cache.close({ processEnds: true });
    expect(stuck.syncs).toBe(when === "before" ? 1 : 0);
    stuck.on = false;
    await using next = await open();
    await next.ensure(all, { deadlineMs: 10_000 });
    expect(next.stats()).toMatchObject({ fetchRequests: 0, damagedChunks: 0, readyCount: blob.chunkCount });
  });

  // After a crash of the machine nothing could tell that their data never reached the disk.
  test("gives up chunks that nobody can prove later", async () => {
    const cache = await open((chunk) => (chunk < 5 ? undefined : bootstrap.chunkDigests(0)(chunk)));
    await cache.ensure(all, { deadlineMs: 10_000 });
    await cache.close({ processEnds: true });
    stuck.on = false;
    await using next = await open();
    expect(next.stats().readyCount).toBe(blob.chunkCount - 5);
  });
});

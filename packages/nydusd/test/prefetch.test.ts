import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Workspace } from "@nydus-ts/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { Barrier, fileBytes, fileOf, type LazyImage, lazyImage, rangeOf } from "./lazy-image.ts";
import { type Nydusd, registryConfig, startNydusd } from "./support.ts";

/** Every fourth file is listed, so that each is a range of its own. */
const listed = Array.from({ length: 16 }, (_, index) => index * 4);
const prefetchInFlight = 6;

describe("the prefetch table of an image that `nydus-image convert --prefetch-patterns` made", () => {
  let workspace: Workspace;
  let image: LazyImage;
  let nydusd: Nydusd;
  let mounts = 0;
  let at = "";
  let cache = "";

  beforeAll(async () => {
    workspace = new Workspace("nydusd-prefetch");
    image = await lazyImage(workspace, { files: 64, prefetch: listed });
    nydusd = await startNydusd(workspace, ["fuse"]);
  }, 60_000);
  afterAll(() => workspace[Symbol.asyncDispose]());
  afterEach(async () => {
    image.registry.faults.clear();
    await nydusd.client.umount(at).catch(() => undefined);
  });

  /** Mounts the image with an empty cache, or again with the one it had. */
  const mount = async (options: { again?: boolean; prefetch?: Record<string, unknown>; files?: string[] } = {}): Promise<void> => {
    image.registry.resetCounters();
    if (options.again !== true) {
      at = `/${++mounts}`;
      cache = image.newCache(`cache-${mounts}`);
    }
    await nydusd.client.mount(at, {
      source: image.bootstrap,
      fs_type: "rafs",
      config: registryConfig(image.registry.host, cache, {
        backend: { timeout: 20 },
        rafs: { fs_prefetch: { enable: true, prefetch_all: false, ...options.prefetch } },
      }),
      ...(options.files === undefined ? {} : { prefetch_files: options.files }),
    });
  };
  const read = (index: number): Promise<Buffer> => readFile(join(nydusd.mountpoint, at, fileOf(index)));
  const metrics = () => nydusd.client.blobcacheMetrics(at);
  const ended = (): Promise<void> =>
    expect
      .poll(async () => (await metrics()).prefetch_workers === 0 && (await metrics()).prefetch_end_time_secs > 0, { timeout: 20_000 })
      .toBe(true);

  test("its files come without a read, nothing else does, neighbours share a request, and the requests are open side by side", async () => {
    const barrier = new Barrier(prefetchInFlight);
    image.registry.faults.add({ path: /blobs/ }, { hold: barrier.pass });
    await mount();
    await expect.poll(() => image.ranges().length, { timeout: 10_000 }).toBe(listed.length);
    await ended();
    expect(image.registry.counters.blobBytes).toBe(listed.length * fileBytes);
    image.registry.resetCounters();
    for (const index of listed) expect(await read(index)).toEqual(image.contents[index]);
    expect(image.ranges()).toEqual([]);
  });

  test("its progress, its end and how much of it was of use can be seen", async () => {
    const barrier = new Barrier(Number.POSITIVE_INFINITY);
    image.registry.faults.add({ path: /blobs/ }, { hold: barrier.pass });
    await mount();
    expect(await metrics()).toMatchObject({ prefetch_state: "running", chunks: 64 * 5, chunks_ready: 0, data_all_ready: false });
    expect(await nydusd.client.prometheus()).toContain(`nydusd_prefetch_running{mountpoint="${at}"} 1`);
    barrier.open();
    await ended();
    const bytes = listed.length * fileBytes;
    expect(await metrics()).toMatchObject({ prefetch_state: "done", chunks_ready: bytes / 4096, prefetch_data_amount: bytes });
    expect((await metrics()).prefetch_used_data_amount).toBe(0);
    for (const index of listed.slice(0, 4)) await read(index);
    await read(1);
    expect(await metrics()).toMatchObject({ prefetch_data_amount: bytes, prefetch_used_data_amount: bytes / 4 });
    const text = await nydusd.client.prometheus();
    expect(text).toContain(`nydusd_prefetch_used_bytes_total{mountpoint="${at}"} ${bytes / 4}`);
    expect(text).toContain(`nydusd_image_chunks_ready{mountpoint="${at}"} ${bytes / 4096 + 5}`);
  });

  test("a list of the mount replaces it, and one request is never larger than merging_size", async () => {
    const mergingSize = 131_072;
    await mount({ files: ["/files", "/absent"], prefetch: { merging_size: mergingSize } });
    await ended();
    expect(await metrics()).toMatchObject({ prefetch_state: "done", data_all_ready: true, prefetch_data_amount: 64 * fileBytes });
    const lengths = image.registry.requests.map(({ bytes }) => bytes);
    expect(Math.max(...lengths)).toBe(mergingSize);
    expect(lengths).toHaveLength((64 * fileBytes) / mergingSize);
  });

  test("a mount answers, and reads of other files are served, while no prefetch request is ever answered; the pool stays bounded", async () => {
    const never = new Barrier(Number.POSITIVE_INFINITY);
    const prefetched = new Set(listed.map(rangeOf));
    image.registry.faults.add({ path: /blobs/ }, { hold: ({ range }) => (prefetched.has(range ?? "") ? never.pass() : Promise.resolve()) });
    await mount();
    await expect.poll(() => never.arrived).toBe(prefetchInFlight);
    for (const index of [1, 2, 33, 63]) expect(await read(index)).toEqual(image.contents[index]);
    expect(never.arrived).toBe(prefetchInFlight);
    never.open();
    await ended();
  });

  test("what was prefetched before an end in the middle is not fetched again by the next mount", async () => {
    const never = new Barrier(Number.POSITIVE_INFINITY);
    image.registry.faults.add({ path: /blobs/ }, { hold: async () => (image.ranges().length > 10 ? never.pass() : undefined) });
    await mount();
    await expect.poll(async () => (await metrics()).entries_count).toBeGreaterThan(20);
    const before = (await metrics()).entries_count;
    await nydusd.client.umount(at);
    never.open();
    image.registry.faults.clear();
    await mount({ again: true });
    await ended();
    expect(image.ranges()).toHaveLength(listed.length - (before * 4096) / fileBytes);
    image.registry.resetCounters();
    for (const index of listed) expect(await read(index)).toEqual(image.contents[index]);
    expect(image.ranges()).toEqual([]);
  });

  test("what a registry refused is fetched once there are other credentials", async () => {
    const refused = image.registry.faults.add({ path: /blobs/ }, { status: 403 });
    await mount();
    await expect.poll(async () => (await metrics()).prefetch_state, { timeout: 10_000 }).toBe("ended early");
    refused.remove();
    await nydusd.client.setConfig(at, { registry_auth: Buffer.from("user:password").toString("base64") });
    await expect.poll(async () => (await metrics()).prefetch_state, { timeout: 10_000 }).toBe("done");
    expect((await metrics()).chunks_ready).toBe((listed.length * fileBytes) / 4096);
  });

  test("a registry that answers 429 to prefetch slows it down and does not end it", async () => {
    const limit = image.registry.faults.add({ path: /blobs/ }, { status: 429, headers: { "retry-after": "1" }, times: 20 });
    await mount();
    await expect.poll(() => limit.hits(), { timeout: 20_000 }).toBe(20);
    await expect.poll(async () => (await metrics()).entries_count, { timeout: 20_000 }).toBe((listed.length * fileBytes) / 4096);
  });

  test("160 mounts at once with everything to prefetch answer while the registry answers nobody", async () => {
    const never = new Barrier(Number.POSITIVE_INFINITY);
    image.registry.faults.add({ path: /blobs/ }, { hold: never.pass });
    const config = (index: number): string =>
      registryConfig(image.registry.host, image.newCache(`layers-${index}`), {
        backend: { timeout: 60 },
        rafs: { fs_prefetch: { enable: true, prefetch_all: true } },
      });
    const all = Array.from({ length: 160 }, (_, index) => index);
    const request = { source: image.bootstrap, fs_type: "rafs" } as const;
    await Promise.all(all.map((index) => nydusd.client.mount(`/layer-${index}`, { ...request, config: config(index) })));
    const { backend_collection: mounted } = await nydusd.client.info();
    expect(Object.keys(mounted ?? {})).toHaveLength(all.length);
    expect(never.arrived).toBeLessThanOrEqual(prefetchInFlight);
    await Promise.all(all.map((index) => nydusd.client.umount(`/layer-${index}`)));
    never.open();
  });
});

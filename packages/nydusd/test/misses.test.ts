import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Barrier, chunkBytes, fileBytes, fileOf, type LazyImage, lazyImage } from "./lazy-image.ts";
import { type Nydusd, registryConfig, startNydusd } from "./support.ts";

describe("reads of absent data", () => {
  let workspace: Workspace;
  let image: LazyImage;
  let nydusd: Nydusd;
  let mounts = 0;

  beforeAll(async () => {
    workspace = new Workspace("nydusd-misses");
    image = await lazyImage(workspace, { files: 64 });
    nydusd = await startNydusd(workspace, ["fuse"]);
  }, 60_000);
  afterAll(() => workspace[Symbol.asyncDispose]());

  const mount = async (
    rafs: Record<string, unknown> = {},
    backend: Record<string, unknown> = {},
    bootstrap?: Uint8Array,
  ): Promise<(index: number) => string> => {
    // What the kernel reads ahead for the test before must not be counted here.
    if (mounts > 0) await nydusd.client.umount(`/${mounts}`);
    const at = `/${++mounts}`;
    image.registry.resetCounters();
    image.registry.faults.clear();
    const config = registryConfig(image.registry.host, image.newCache(`cache-${mounts}`), { backend: { timeout: 60, ...backend }, rafs });
    const source = bootstrap === undefined ? image.bootstrap : workspace.path(`bootstrap-${mounts}`);
    if (bootstrap !== undefined) await writeFile(source, bootstrap);
    await nydusd.client.mount(at, { source, fs_type: "rafs", config });
    return (index) => join(nydusd.mountpoint, at, fileOf(index));
  };
  /** A process of its own for each: the threads of this one would queue them. One page, so that the kernel reads nothing ahead. */
  const readPage = (path: string, page = 0) =>
    run("dd", [`if=${path}`, "of=/dev/null", `bs=${chunkBytes}`, "count=1", `skip=${page}`, "status=none"]);

  test("twenty unrelated ones are all asked for before the first is answered", async () => {
    const path = await mount();
    const barrier = new Barrier(20);
    image.registry.faults.add({ path: /blobs/ }, { hold: barrier.pass });
    await Promise.all(Array.from({ length: 20 }, (_, index) => readPage(path(index * 3))));
    expect(barrier.arrived).toBeGreaterThanOrEqual(20);
  });

  const lengths = (): number[] =>
    image.ranges().map((range) => {
      const [first, last] = range.slice("bytes=".length).split("-").map(Number) as [number, number];
      return last - first + 1;
    });
  const total = (): number => lengths().reduce((sum, length) => sum + length, 0);

  test("scattered ones fetch what they read and not a byte more", async () => {
    const path = await mount();
    // Backwards: each lies before what was read last. Not page 0, where the kernel reads ahead.
    for (let index = 60; index >= 0; index -= 3) await readPage(path(index), 2);
    expect(total()).toBe(21 * chunkBytes);
  });

  test("those in order are widened, never beyond amplify_io, and not at all with amplify_io 0; a little comes in the reader's request", async () => {
    for (const amplify_io of [9 * chunkBytes, 4 * chunkBytes, 0]) {
      const path = await mount({ amplify_io });
      for (let index = 0; index < 20; index++) await readPage(path(index), 2);
      await expect.poll(async () => (await nydusd.client.inflight()).length).toBe(0);
      if (amplify_io === 0) expect(total()).toBe(20 * chunkBytes);
      else expect(Math.max(...lengths())).toBe(amplify_io <= 32_768 ? chunkBytes + amplify_io : amplify_io);
    }
  });

  test("once two chunks of a small file were read, the third read brings the rest of it in one request, and with amplify_io 0 it does not", async () => {
    for (const amplify_io of [1 << 20, 0]) {
      const path = await mount({ amplify_io });
      // Pages are read back to front, so that nothing looks like a sequence; not page 0, where the kernel reads ahead.
      await readPage(path(50), 2);
      for (const page of [4, 3]) await readPage(path(30), page);
      expect(total()).toBe(3 * chunkBytes);
      await readPage(path(30), 2);
      await expect.poll(total).toBe((amplify_io === 0 ? 4 : 6) * chunkBytes);
      await expect.poll(async () => (await nydusd.client.inflight()).length).toBe(0);
      if (amplify_io === 0) continue;
      const asked = image.ranges().length;
      expect(await readFile(path(30))).toEqual(image.contents[30]);
      expect(image.ranges().length).toBe(asked);
    }
  });

  test("of a file with a chunk that is recorded wrongly are served beside that chunk", async () => {
    // The chunk index of version 6 names blob + 1 and chunk in one word, and the chunk's block in the next. Source: spec/rafs.md 2.9
    const damaged = await readFile(image.bootstrap);
    const chunk = (30 * fileBytes) / chunkBytes + 2;
    const record = Buffer.alloc(8);
    record.writeUInt32LE((1 << 16) | chunk, 0);
    record.writeUInt32LE(chunk, 4);
    const at = damaged.indexOf(record);
    expect(at).toBeGreaterThan(0);
    damaged.writeUInt8(200, at + 2);
    const path = await mount({}, {}, damaged);
    for (const page of [4, 3, 1]) await readPage(path(30), page);
    await expect(readPage(path(30), 2)).rejects.toThrow("Input/output error");
  });

  test("with request_alignment ask for the same ranges in every order, whole blocks and each once", async () => {
    const block = 131_072;
    const seen: string[][] = [];
    for (const order of [
      [0, 40, 7, 41, 63],
      [63, 41, 40, 7, 0],
    ]) {
      const path = await mount({ amplify_io: 0 }, { request_alignment: block });
      for (const index of order) expect(await readFile(path(index))).toEqual(image.contents[index]);
      seen.push(image.ranges().filter((range) => range !== "all"));
    }
    expect(new Set(seen[0]).size).toBe(seen[0]?.length);
    expect(seen[1]?.toSorted()).toEqual(seen[0]?.toSorted());
    for (const range of seen[0] ?? []) expect(Number(/\d+/.exec(range)?.[0]) % block).toBe(0);
  });

  test("of an image whose blob metadata came with it cost one request each, and none when the data is in the cache", async () => {
    const path = await mount();
    await readPage(path(5), 2);
    expect(image.registry.requests.map(({ method, range }) => [method, range])).toEqual([
      ["GET", `bytes=${5 * fileBytes + 2 * chunkBytes}-${5 * fileBytes + 3 * chunkBytes - 1}`],
    ]);
    const at = `/${mounts}`;
    await nydusd.client.umount(at);
    image.registry.resetCounters();
    const config = registryConfig(image.registry.host, workspace.path(`cache-${mounts}`));
    await nydusd.client.mount(at, { source: image.bootstrap, fs_type: "rafs", config, probe: true });
    await readPage(path(5), 2);
    expect(image.registry.requests).toEqual([]);
  });

  test("fetch the metadata of a blob once, however many readers come before it is there", async () => {
    const at = `/${++mounts}`;
    image.registry.resetCounters();
    // Nothing is widened: whether three reads at once look like one in order depends on which comes first.
    const config = registryConfig(image.registry.host, workspace.path("empty-cache"), { rafs: { amplify_io: 0 } });
    await nydusd.client.mount(at, { source: image.bootstrap, fs_type: "rafs", config });
    await Promise.all([60, 30, 0].map((index) => readPage(join(nydusd.mountpoint, at, fileOf(index)), 2)));
    // Data, the chunk table, and the table of contents that has its digest.
    expect(lengths().filter((length) => length !== chunkBytes)).toHaveLength(2);
    expect(image.ranges()).toHaveLength(5);
  });
});

import { randomBytes } from "node:crypto";
import type { BlobBackend, BlobReadOptions, ByteRange } from "@nydus-ts/chunk-store";
import { describe, expect, test } from "vitest";
import { AlignedBackend } from "../src/images/aligned-backend.ts";

const block = 65_536;
const blob = randomBytes(5 * block + 1000);
const demand = { deadlineMs: 1000, priority: "demand" } as const;

async function setup(before: (range: ByteRange, options: BlobReadOptions) => Promise<void> = async () => {}) {
  const asked: string[] = [];
  const inner: BlobBackend = {
    kind: "test",
    async read(_blobId, range, options) {
      asked.push(`${range.offset}+${range.length}`);
      await before(range, options);
      if (range.offset + range.length > blob.length) throw new Error("past the end");
      return blob.subarray(range.offset, range.offset + range.length);
    },
    size: async () => blob.length,
    async [Symbol.asyncDispose]() {},
  };
  const aligned = new AlignedBackend(inner, block);
  // Known from now on, so that readers begin in the order of their calls.
  await aligned.size("b", demand);
  const read = (offset: number, length: number, options: BlobReadOptions = demand) => aligned.read("b", { offset, length }, options);
  return { asked, read };
}

describe("aligned requests", () => {
  test("give exactly the bytes asked for, within a block, across blocks, and at the end, where the last block is short", async () => {
    const { asked, read } = await setup();
    for (const [offset, length] of [
      [10, 20],
      [block - 5, 10],
      [0, blob.length],
      [5 * block + 990, 10],
    ] as const)
      expect(Buffer.compare(await read(offset, length), blob.subarray(offset, offset + length))).toBe(0);
    expect(asked).toEqual([...[0, 1, 2, 3, 4].map((number) => `${number * block}+${block}`), `${5 * block}+1000`]);
  });

  test("are shared by readers of one block, and one that fails by another's limits is tried again", async () => {
    let fails = 1;
    const gate = Promise.withResolvers<void>();
    const { asked, read } = await setup(async () => {
      await gate.promise;
      if (fails-- > 0) throw new Error("the deadline of the first");
    });
    const readers = [read(0, 10), read(20, 10), read(40, 10)];
    gate.resolve();
    const outcomes = await Promise.allSettled(readers);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "fulfilled", "fulfilled"]);
    expect(asked).toEqual([`0+${block}`, `0+${block}`]);
  });

  test("of prefetch become urgent when a reader wants the block", async () => {
    const { asked, read } = await setup(
      (_, { demanded }) => new Promise((resolve) => demanded?.addEventListener("abort", () => resolve())),
    );
    const prefetch = read(0, 10, { ...demand, priority: "prefetch" });
    expect(await read(100, 10)).toEqual(blob.subarray(100, 110));
    expect(await prefetch).toEqual(blob.subarray(0, 10));
    expect(asked).toHaveLength(1);
  });

  test("past the end are the back end's to refuse", async () => {
    const { asked, read } = await setup();
    await expect(read(blob.length - 5, 10)).rejects.toThrow("past the end");
    expect(asked).toEqual([`${blob.length - 5}+10`]);
  });
});

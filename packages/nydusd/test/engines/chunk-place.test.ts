import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type ChunkSegment, ChunkStoreError } from "@nydus-ts/chunk-store";
import { goldenAbsent, goldenCase, goldenDir, readListing } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { judgeChunk } from "../../src/engines/fuse/served-image.ts";
import { cachedBlob, mountOf, Stage } from "./fixtures.ts";

const unknownPlace = 0xffff_ffff;

describe("a chunk that a bootstrap names is judged by the blob's own table", () => {
  const view = {
    dataFd: -1,
    // Chunks 0 and 2 are in the cache.
    ready: Int32Array.of(0b101),
    touched: Int32Array.of(0),
    asked: Int32Array.of(0),
    layout: Uint32Array.of(0, 5000, 2, 4096, 3, 100, unknownPlace, 0),
    direct: false,
    chunkCount: 4,
  };
  test.each([
    ["at its place and whole", 0, 0, 5000, "ready"],
    ["at its place, not in the cache", 1, 8192, 4096, "absent"],
    ["at the place of the next one", 0, 8192, 100, "damaged"],
    ["at the place of one that is ready, itself absent", 1, 0, 100, "damaged"],
    ["one block further", 2, 16_384, 100, "damaged"],
    ["one byte longer than it is", 2, 12_288, 101, "damaged"],
    ["beyond the last one", 4, 0, 1, "damaged"],
    ["of unknown place, whatever the bootstrap says", 3, 0, 4096, "absent"],
  ] as const)("%s", (_, chunk, start, needed, verdict) => {
    expect(judgeChunk(view, chunk, start, needed)).toBe(verdict);
  });

  test("but for a tar that is its own cache, which has no table", () => {
    expect(judgeChunk({ ...view, direct: true }, 9, 4096, 1)).toBe("ready");
  });
});

const absent = goldenDir() === undefined;

// The worker can't judge what the table is not known of: the main thread does, when the fetch has brought it.
describe.skipIf(absent)(`a place that is known only when the fetch is done${absent ? ` (${goldenAbsent})` : ""}`, () => {
  const outcomes = {
    "went into the cache": () => undefined,
    "found the cache disk full": () => {
      throw new ChunkStoreError("CHUNK_NO_SPACE", "no room");
    },
  };
  /** Reads the largest file, whose data come as `fetch` lets them, when the table turns out to be `shift` blocks off the bootstrap's. */
  const readShifted = async (fetch: () => void, shift: number): Promise<Uint8Array> => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    let learn = (): void => undefined;
    await using blob = cachedBlob(entry, {
      ready: false,
      fetch: async () => {
        learn();
        fetch();
      },
    });
    const table = blob.layout.slice();
    for (let chunk = 0; chunk < blob.chunkCount; chunk++) blob.layout[2 * chunk] = unknownPlace;
    learn = () => {
      for (let chunk = 0; chunk < blob.chunkCount; chunk++) blob.layout[2 * chunk] = (table[2 * chunk] as number) + shift;
    };
    const data = await readFile(join(entry.blobDirectory as string, `${blob.blob.id}.blob.data`));
    const readInto = async (target: Uint8Array, segments: readonly ChunkSegment[]): Promise<void> => {
      for (const { chunk, offset, length, targetOffset } of segments)
        target.set(data.subarray((table[2 * chunk] as number) * 4096 + offset).subarray(0, length), targetOffset);
    };
    const engine = stage.engine();
    await engine.attach(mountOf(entry, [Object.assign(blob, { readInto })]));
    await engine.start();
    const files = readListing(entry).filter(({ type }) => type === "file");
    const largest = files.reduce((a, b) => (b.size > a.size ? b : a));
    const read = await readFile(join(stage.mountpoint, String(largest.path)));
    expect(read.length).toBe(largest.size);
    return read;
  };

  test.each(Object.keys(outcomes) as (keyof typeof outcomes)[])("is held against the bootstrap: the fetch %s", async (outcome) => {
    await readShifted(outcomes[outcome], 0);
    await expect(readShifted(outcomes[outcome], 1)).rejects.toMatchObject({ code: "EIO" });
  });
});

import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, test, vi } from "vitest";
import { DictionaryStore } from "../src/zran/dictionary-store.ts";
import { TemporaryFile } from "../src/zran/temporary-file.ts";
import { compressFile } from "../src/zran/zstd-file.ts";
import { compressZstd } from "../src/zstd.ts";
import { build, TemporaryDirectory } from "./support.ts";
import { tarOf } from "./tar-support.ts";
import { mixedBytes } from "./zran-support.ts";

const limits = vi.hoisted(() => ({ kept: 0 }));
vi.mock("../src/zran/limits.ts", async (original) => ({
  ...(await original<object>()),
  get dictionaryBytesKept() {
    return limits.kept;
  },
}));

const temporary = new TemporaryDirectory();
afterAll(() => temporary[Symbol.dispose]());

/** Index files that this process still has open. */
const openIndexFiles = () =>
  readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes(".index.");
    } catch {
      return false; // the listing's own
    }
  });

describe("a file is compressed to the bytes that one call over all of it gives", () => {
  const kinds: Array<[name: string, bytes: Buffer]> = [
    ["mixed bytes", mixedBytes(23_456_789, 5)],
    ["what can not be compressed", noise(9_000_000)],
    ["less than a page", Buffer.from("abcabcabc".repeat(20))],
  ];
  test.each(kinds)("%s", async (_name, bytes) => {
    using file = new TemporaryFile(temporary.path);
    file.append(bytes.subarray(0, 1000));
    file.append(bytes.subarray(1000));
    using encoded = await compressFile(file, temporary.path);
    expect(encoded!.read().equals(compressZstd(bytes))).toBe(true);
    expect(readdirSync(temporary.path).filter((name) => name.startsWith(".index"))).toEqual([]);
  });
});

test("dictionaries come back in order, in memory and from a file", () => {
  const dictionaries = Array.from({ length: 50 }, (_, i) => Buffer.alloc(1000 * (i % 4), i));
  for (const kept of [1, 20_000, 1_000_000]) {
    limits.kept = kept;
    using store = new DictionaryStore(temporary.path);
    for (const dictionary of dictionaries) store.add(dictionary);
    expect(store.isSpilled).toBe(kept < 1_000_000);
    expect(Buffer.concat(Array.from(store.pieces(), (piece) => Buffer.from(piece))).equals(Buffer.concat(dictionaries))).toBe(true);
    expect(store.size).toBe(Buffer.concat(dictionaries).length);
  }
});

describe("an index whose dictionaries went to a file", () => {
  const tar = tarOf([mixedBytes(9_000_000, 3), noise(2_000_000), mixedBytes(5_000_000, 9)]);
  const layer = temporary.join("layer.tar.gz");
  writeFileSync(layer, gzipSync(tar, { level: 1 }));
  const buildWith = async (kept: number, name: string, options: object) => {
    limits.kept = kept;
    const directory = temporary.join(name);
    const result = await build(temporary.path, directory, { ...options, source: { kind: "layer", stream: pieces(readFileSync(layer)) } });
    return { result, directory };
  };

  test.each([
    ["alone", {}],
    ["with a table of contents", { toc: true }],
    ["with the bootstrap behind it", { inline: true, toc: true }],
  ] as const)("has the bytes of one made in memory: %s", async (name, options) => {
    const small = await buildWith(1 << 30, `memory ${name}`, options);
    const large = await buildWith(1, `file ${name}`, options);
    expect(large.result.blob?.id).toBe(small.result.blob?.id);
    expect(readFileSync(large.result.blob!.path).equals(readFileSync(small.result.blob!.path))).toBe(true);
    expect(large.result.bootstrap.equals(small.result.bootstrap)).toBe(true);
    expect(large.result.metaFile!.equals(small.result.metaFile!)).toBe(true);
    expect(readdirSync(join(large.directory, "blobs"))).toEqual([large.result.blob!.id]);
    expect(openIndexFiles()).toEqual([]);
  });

  test("leaves nothing behind when the layer turns out to be damaged", async () => {
    limits.kept = 1;
    const bytes = readFileSync(layer);
    bytes[bytes.length - 6] ^= 1;
    const directory = temporary.join("damaged");
    const built = build(temporary.path, directory, { source: { kind: "layer", stream: pieces(bytes) } });
    await expect(built).rejects.toMatchObject({ code: "BUILD_TAR" });
    expect(readdirSync(directory, { recursive: true })).toEqual(["blobs"]);
    expect(openIndexFiles()).toEqual([]);
  });
});

async function* pieces(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 65536) yield bytes.subarray(at, at + 65536);
}

function noise(length: number): Buffer {
  const out = Buffer.alloc(length);
  let state = 12345;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state >>> 24;
  }
  return out;
}

import { describe, expect, test } from "vitest";
import {
  openRandomAccess,
  readFile,
  bufferSource,
  type Bootstrap,
  type ChunkRecord,
  checkBootstrap,
  openBootstrap,
  RafsError,
} from "../src/index.ts";
import { type BuildEntry, type BuildOptions, buildBootstrap } from "../src/writer/index.ts";
import { generatedOptions, generatedTree } from "../bench/generated-tree.ts";
import { goldenAbsent, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { withBootstrap } from "./golden.ts";

const known = { uid: 0, gid: 0, mtime: 0, mtimeNsec: 0, size: 0 };
const root: BuildEntry = { ...known, path: "/", mode: 0o040755 };
const options = generatedOptions(6);

describe("a bootstrap built from entries", () => {
  const copied = [...withBootstrap(6), ...withBootstrap(5)].filter(({ name }) => !/tarfs|ext-v6|chunkdict/.test(name));
  test.skipIf(goldenDir() === undefined).each(copied)(
    `of $name shows the same tree as version 5 and as version 6 (${goldenAbsent})`,
    async (entry) => {
      const original = openBootstrap(readBootstrap(entry));
      const wanted = treeOf(original);
      for (const version of [5, 6] as const) {
        if (version === 6 && original.version === 5 && !aligned(original)) continue;
        const bytes = await buildBootstrap(entriesOf(original), optionsOf(original, version));
        const again = openBootstrap(bytes);
        checkBootstrap(again);
        expect(treeOf(again)).toEqual(wanted);
      }
    },
  );

  // bench/walk.ts does the same with 2,000,000 names.
  test("a walk of 100,000 names holds a fraction of their bytes", { timeout: 60_000 }, async () => {
    const bytes = await buildBootstrap(generatedTree(100_000), options);
    const bootstrap = await openRandomAccess(bufferSource(bytes), { pageBytes: 16384, cacheBytes: 2 ** 17 });
    let names = 0;
    for await (const { inode } of bootstrap.walk()) names += inode.nlink > 0 ? 1 : 0;
    expect(names).toBe(100_000);
    expect(bytes.length).toBeGreaterThan(10 * 2 ** 20);
    expect(bootstrap.stats.heldBytesMax).toBeLessThan(2 ** 18);
    expect(bootstrap.stats.readBytes).toBeLessThan(bytes.length * 1.1);
  });

  test("a file is read through a source of chunks, whole and in part", async () => {
    const data = Buffer.from(Array.from({ length: 10_000 }, (_, at) => at & 0xff));
    const chunks = [0, 1, 2].map((index) => chunk(index, Math.min(4096, 10_000 - index * 4096)));
    const blobs = [{ id: "b", chunkCount: 3, compressedSize: 12288, uncompressedSize: 12288 }];
    const file = { ...known, path: "/f", mode: 0o100644, size: 10_000, chunks };
    const bytes = await buildBootstrap([root, file], { ...options, chunkSize: 4096, blobs });
    const asked: number[] = [];
    const source = {
      read: async ({ chunkIndex, uncompressedOffset, length }: { chunkIndex: number; uncompressedOffset: number; length: number }) => {
        asked.push(chunkIndex);
        return data.subarray(uncompressedOffset, uncompressedOffset + length);
      },
    };
    for (const bootstrap of [openBootstrap(bytes), await openRandomAccess(bufferSource(bytes))]) {
      const nid = (await bootstrap.resolve("/f")) as number;
      expect(await joined(readFile(bootstrap, nid, source))).toEqual(data);
      asked.length = 0;
      expect(await joined(readFile(bootstrap, nid, source, { start: 5000, end: 8193 }))).toEqual(data.subarray(5000, 8193));
      expect(asked).toEqual([1, 2]);
      expect(await joined(readFile(bootstrap, nid, source, { start: 10_000, end: 20_000 }))).toEqual(Buffer.alloc(0));
      const short = { read: async () => new Uint8Array(5) };
      await expect(joined(readFile(bootstrap, nid, short))).rejects.toMatchObject({ code: "RAFS_SOURCE" });
      await expect(joined(readFile(bootstrap, bootstrap.rootNid, source))).rejects.toMatchObject({ code: "RAFS_INODE" });
    }
  });

  test("random access to a version 5 image gives the records of chunks, to a version 6 one says where they are", async () => {
    const file = { ...known, path: "/f", mode: 0o100644, size: 100, chunks: [chunk(0, 100)] };
    for (const version of [5, 6] as const) {
      const bytes = await buildBootstrap([root, file], generatedOptions(version));
      const bootstrap = await openRandomAccess(bufferSource(bytes));
      const nid = (await bootstrap.resolve("/f")) as number;
      for await (const found of bootstrap.chunksOf(nid)) {
        const record = bootstrap.chunkRecord(nid, found);
        if (version === 5) expect(await record).toEqual(chunk(0, 100));
        else await expect(record).rejects.toMatchObject({ code: "RAFS_UNSUPPORTED" });
      }
    }
  });

  test.each<[string, BuildEntry[], string]>([
    ["no root", [], "RAFS_DIRECTORY"],
    ["the root twice", [root, root], "RAFS_DIRECTORY"],
    ["a root that is a file", [{ ...root, mode: 0o100644 }], "RAFS_DIRECTORY"],
    ["a name before its directory", [root, { ...root, path: "/a/b" }], "RAFS_DIRECTORY"],
    ["a path twice", [root, { ...root, path: "/a" }, { ...root, path: "/a" }], "RAFS_DIRECTORY"],
    ["a dot entry", [root, { ...root, path: "/.." }], "RAFS_DIRECTORY"],
    ["a long name", [root, { ...root, path: `/${"n".repeat(256)}` }], "RAFS_DIRECTORY"],
    ["a NUL in a name", [root, { ...root, path: "/a\0" }], "RAFS_DIRECTORY"],
    ["an owner above 32 bits", [{ ...root, uid: 2 ** 32 }], "RAFS_INODE"],
    ["a time beyond numbers", [{ ...root, mtime: 2n ** 60n }], "RAFS_INODE"],
    ["a symlink without target", [root, { ...known, path: "/l", mode: 0o120777 }], "RAFS_SYMLINK"],
    ["too few chunks", [root, { ...known, path: "/f", mode: 0o100644, size: 1 }], "RAFS_CHUNK"],
    ["a chunk the blob has not", [root, { ...known, path: "/f", mode: 0o100644, size: 1, chunks: [chunk(1, 1)] }], "RAFS_CHUNK"],
    ["a link to nothing", [root, { ...known, path: "/f", mode: 0o100644, linkTo: "/g" }], "RAFS_DIRECTORY"],
    ["an xattr of no known kind", [{ ...root, xattrs: new Map([["odd.name", new Uint8Array(1)]]) }], "RAFS_XATTR"],
  ])("%s is refused with a code", async (_, entries, code) => {
    await expect(buildBootstrap(entries, options)).rejects.toMatchObject({ name: RafsError.name, code });
  });

  test("an error of the iterator ends the build", async () => {
    async function* entries(): AsyncGenerator<BuildEntry> {
      yield root;
      throw new Error("the source is gone");
    }
    await expect(buildBootstrap(entries(), options)).rejects.toThrow("the source is gone");
  });
});

function chunk(chunkIndex: number, uncompressedSize: number): ChunkRecord {
  const offset = chunkIndex * 4096;
  const place = {
    compressedOffset: offset,
    compressedSize: uncompressedSize,
    uncompressedOffset: offset,
    uncompressedSize,
    fileOffset: offset,
  };
  return { digest: new Uint8Array(32).fill(chunkIndex + 1), blobIndex: 0, chunkIndex, flags: 0, crc32c: 0, ...place };
}

async function joined(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
}

/** What was read, as what is to be written. */
function* entriesOf(bootstrap: Bootstrap): Generator<BuildEntry> {
  const first = new Map<number, Uint8Array>();
  for (const { path, nid, inode } of bootstrap.walk()) {
    const linkTo = first.get(nid);
    first.set(nid, path);
    yield {
      path,
      ...inode,
      xattrs: bootstrap.xattrs(nid),
      chunks: [...bootstrap.chunksOf(nid)].map((found) => bootstrap.chunkRecord(found) as ChunkRecord),
      ...(inode.type === "symlink" ? { target: bootstrap.readLink(nid) } : {}),
      ...(linkTo === undefined ? {} : { linkTo }),
    };
  }
}

const aligned = (bootstrap: Bootstrap): boolean => [...bootstrap.chunkRecords()].every((record) => record.uncompressedOffset % 4096 === 0);

function optionsOf(bootstrap: Bootstrap, version: 5 | 6): BuildOptions {
  const given =
    version === bootstrap.version
      ? bootstrap.blobs
      : bootstrap.blobs.map(({ id, chunkCount, compressedSize, uncompressedSize }) => ({
          id,
          chunkCount,
          compressedSize,
          uncompressedSize,
        }));
  return { version, chunkSize: bootstrap.chunkSize, compressor: "zstd", digester: "blake3", blobs: given, prefetch: [] };
}

/** Everything but node numbers, and sizes of directories, which follow from the version. */
function treeOf(bootstrap: Bootstrap): unknown[] {
  return [...bootstrap.walk()].map(({ path, nid, inode }) => ({
    path: Buffer.from(path).toString("latin1"),
    ...inode,
    nid: 0,
    ino: 0,
    size: inode.type === "dir" ? 0 : inode.size,
    target: inode.type === "symlink" ? Buffer.from(bootstrap.readLink(nid)).toString("latin1") : undefined,
    xattrs: [...bootstrap.xattrs(nid)].map(([name, value]) => `${name}=${Buffer.from(value).toString("hex")}`).sort(),
    chunks: [...bootstrap.chunksOf(nid)],
  }));
}

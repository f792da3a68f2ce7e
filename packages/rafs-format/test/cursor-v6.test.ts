import { type GoldenCase, goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { openBootstrap, RafsError, RafsV6Cursor } from "../src/index.ts";
import { withBootstrap } from "./golden.ts";
import { codeOf } from "./hostile.ts";

const entries: readonly GoldenCase[] = withBootstrap(6).filter(({ name }) => name !== "chunkdict-v6-generate");
const cursorOf = (name: string): RafsV6Cursor => new RafsV6Cursor(readBootstrap(goldenCase(name)));

describe("the v6 cursor", () => {
  test.each(entries)("$name: reads the same tree as the objects, block by block and name by name", (entry) => {
    const bytes = readBootstrap(entry);
    const bootstrap = openBootstrap(bytes);
    const cursor = new RafsV6Cursor(bytes);
    for (const { nid, inode } of bootstrap.walk()) {
      cursor.load(nid);
      const { mode, size, uid, gid, nlink, ino, rdev, mtimeNsec } = cursor;
      expect({ mode, size, uid, gid, nlink, ino, rdev, mtimeNsec }).toEqual({ ...pick(inode), rdev: inode.rdev });
      if (inode.type === "dir")
        expect(listOf(cursor, nid)).toEqual([...bootstrap.readDir(nid)].map(({ name, nid: child }) => `${hex(name)} ${child}`));
      if (inode.type === "file") {
        for (const [index, chunk] of [...bootstrap.chunksOf(nid)].entries()) {
          cursor.load(nid);
          cursor.chunk(index);
          expect([cursor.chunkBlob, cursor.chunkIndex, cursor.chunkBlock * cursor.blockSize]).toEqual([
            chunk.blobIndex,
            chunk.chunkIndex,
            chunk.uncompressedOffset,
          ]);
        }
        expect(codeOf(() => cursor.chunk(cursor.chunkCount))).toBe("RAFS_RANGE");
      }
      for (const [name, value] of bootstrap.xattrs(nid)) {
        const key = Buffer.from(`__${name}__`, "latin1");
        cursor.load(nid);
        expect(cursor.findXattr(key, 2, key.length - 2)).toBe(true);
        expect(hex(cursor.bytes.subarray(cursor.xattrValueStart, cursor.xattrValueEnd))).toBe(hex(value));
        expect(cursor.findXattr(key, 2, key.length - 3)).toBe(false);
        expect(cursor.findXattr(key, 1, key.length - 2)).toBe(false);
      }
    }
  });

  test.skipIf(goldenDir() === undefined)("names are found by bytes inside a larger buffer, dot entries too", () => {
    const cursor = cursorOf("wide-v6");
    const bootstrap = openBootstrap(readBootstrap(goldenCase("wide-v6")));
    for (const { path, nid, inode } of bootstrap.walk()) {
      if (nid === cursor.rootNid) continue;
      const slash = path.lastIndexOf(0x2f);
      const parent = bootstrap.resolve(path.subarray(0, slash)) ?? 0;
      expect(cursor.find(parent, path, slash + 1, path.length)).toBe(nid);
      expect(cursor.entryType).toBe(inode.type === "dir" ? 2 : inode.type === "file" ? 1 : 7);
    }
    const dots = Buffer.from("..");
    expect(cursor.find(cursor.rootNid, dots, 0, 1)).toBe(cursor.rootNid);
    expect(cursor.find(cursor.rootNid, dots, 0, 2)).toBe(cursor.rootNid);
    expect(cursor.find(cursor.rootNid, Buffer.from("no such name"), 0, 12)).toBe(0);
  });

  test.skipIf(goldenDir() === undefined)("load, find, entry, chunk and findXattr do not allocate", () => {
    const cursor = cursorOf("small-v6-zstd-blake3");
    const bootstrap = openBootstrap(readBootstrap(goldenCase("small-v6-zstd-blake3")));
    const nids = [...bootstrap.walk()].map(({ nid }) => nid);
    const name = Buffer.from("!bang");
    const xattr = Buffer.from("user.none");
    const work = (rounds: number): number => {
      let sum = 0;
      for (let round = 0; round < rounds; round++) {
        for (let at = 0; at < nids.length; at++) {
          cursor.load(nids[at] as number);
          sum += cursor.size;
          if (cursor.chunkCount > 0) {
            cursor.chunk(0);
            sum += cursor.chunkBlock;
          }
          sum += cursor.findXattr(xattr, 0, xattr.length) ? 1 : 0;
        }
        sum += cursor.find(cursor.rootNid, name, 0, name.length);
        cursor.openBlock(0);
        for (let at = 0; at < cursor.entryCount; at++) {
          cursor.entry(at);
          sum += cursor.entryNid;
        }
      }
      return sum;
    };
    work(20_000);
    const before = process.memoryUsage().heapUsed;
    work(5_000);
    // 5,000 rounds make some 600,000 calls: one boxed number a call would be 10 MB.
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(1_000_000);
  });

  test.skipIf(goldenDir() === undefined)("compact inodes are read, though the original never writes them", () => {
    const bytes = Uint8Array.from(readBootstrap(goldenCase("small-v6-zstd-blake3")));
    const cursor = new RafsV6Cursor(bytes);
    const name = Buffer.from("!bang");
    const nid = cursor.find(cursor.rootNid, name, 0, name.length);
    cursor.load(nid);
    const view = new DataView(bytes.buffer);
    const at = cursor.superblock.metaOffset + nid * 32;
    view.setUint16(at, 4 << 1, true);
    view.setUint16(at + 6, 3, true);
    view.setUint32(at + 12, 0, true);
    view.setUint16(at + 24, 1000, true);
    view.setUint16(at + 26, 2000, true);
    cursor.load(nid);
    expect(cursor).toMatchObject({ nlink: 3, uid: 1000, gid: 2000, mtimeLo: 0, mtimeNsec: 0, size: 1 });
    expect(cursor.tail - at).toBe(32);
  });

  test.skipIf(goldenDir() === undefined)("a size of 2^62 is refused instead of being counted in chunks", () => {
    const bytes = Uint8Array.from(readBootstrap(goldenCase("small-v6-zstd-blake3")));
    const cursor = new RafsV6Cursor(bytes);
    const name = Buffer.from("!bang");
    const nid = cursor.find(cursor.rootNid, name, 0, name.length);
    new DataView(bytes.buffer).setBigUint64(cursor.superblock.metaOffset + nid * 32 + 8, 2n ** 62n, true);
    expect(codeOf(() => cursor.load(nid))).toBe("RAFS_INODE");
  });

  test("bytes that are no bootstrap are RAFS_TRUNCATED or RAFS_MAGIC", () => {
    expect(codeOf(() => new RafsV6Cursor(new Uint8Array(0)))).toBe("RAFS_TRUNCATED");
    expect(codeOf(() => new RafsV6Cursor(new Uint8Array(8192)))).toBe("RAFS_MAGIC");
    expect(new RafsError("RAFS_MAGIC", "x").name).toBe("RafsError");
  });
});

function listOf(cursor: RafsV6Cursor, nid: number): string[] {
  cursor.load(nid);
  const found: string[] = [];
  for (let block = 0; block < cursor.blockCount; block++) {
    cursor.openBlock(block);
    for (let at = 0; at < cursor.entryCount; at++) {
      cursor.entry(at);
      const name = cursor.entryBytes.subarray(cursor.entryNameStart, cursor.entryNameEnd);
      if (hex(name) !== "2e" && hex(name) !== "2e2e") found.push(`${hex(name)} ${cursor.entryNid}`);
    }
  }
  return found;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

const pick = <T extends { mode: number; size: number; uid: number; gid: number; nlink: number; ino: number; mtimeNsec: number }>(
  inode: T,
): Pick<T, "mode" | "size" | "uid" | "gid" | "nlink" | "ino" | "mtimeNsec"> => {
  const { mode, size, uid, gid, nlink, ino, mtimeNsec } = inode;
  return { mode, size, uid, gid, nlink, ino, mtimeNsec };
};

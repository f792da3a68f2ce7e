import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, goldenCase, goldenDir, readBootstrap, readListing } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { type Bootstrap, checkBootstrap, openBootstrap, openCursor, RafsError, RafsV5Cursor } from "../src/index.ts";
import { damaged, withBootstrap } from "./golden.ts";
import { codeOf, eachFlip } from "./hostile.ts";
import { listBootstrap } from "./listing.ts";

const golden = goldenDir();
const open = (name: string): Bootstrap => openBootstrap(readBootstrap(goldenCase(name)));

describe("v5 bootstraps of the original", () => {
  test.each(withBootstrap(5).filter(({ hasListing }) => hasListing))("$name shows the tree it was made from", (entry) => {
    const bootstrap = openBootstrap(readBootstrap(entry));
    expect(bootstrap.version).toBe(5);
    expect(compareListings(listBootstrap(bootstrap), readListing(entry), { ignore: ["sha256"] })).toEqual([]);
    // Reads every chunk record and recomputes every inode digest.
    const summary = checkBootstrap(bootstrap);
    expect(summary.inodes).toBe(bootstrap.inodeCount);
  });

  test.each(withBootstrap(5))("$name: the cursor reads the same tree as the objects", (entry) => {
    const bytes = readBootstrap(entry);
    const bootstrap = openBootstrap(bytes);
    const cursor = openCursor(bytes) as RafsV5Cursor;
    for (const { path, nid, inode } of bootstrap.walk()) {
      expect(bootstrap.resolve(path)).toBe(nid);
      cursor.load(nid);
      expect(cursor).toMatchObject({ mode: inode.mode, size: inode.size, nlink: inode.nlink, ino: nid, rdev: inode.rdev });
      for (const [name, value] of bootstrap.xattrs(nid)) {
        const key = Buffer.from(`_${name}_`, "latin1");
        expect(cursor.findXattr(key, 1, key.length - 1)).toBe(true);
        expect(Buffer.compare(cursor.bytes.subarray(cursor.xattrValueStart, cursor.xattrValueEnd), value)).toBe(0);
        expect(cursor.findXattr(key, 1, key.length)).toBe(false);
      }
      if (inode.type === "file") {
        for (const [index, chunk] of [...bootstrap.chunksOf(nid)].entries()) {
          cursor.chunk(index);
          const record = bootstrap.chunkRecord(chunk);
          expect(record).toMatchObject({ compressedOffset: cursor.chunkCompressedOffset, compressedSize: cursor.chunkCompressedSize });
          expect(cursor.chunkBlock * cursor.blockSize).toBe(chunk.uncompressedOffset);
        }
      }
      if (inode.type === "dir") expectListed(bootstrap, cursor, nid);
    }
  });

  test.skipIf(golden === undefined)("dot entries that v5 does not store are made up, and found", () => {
    const bootstrap = open("small-v5-zstd-blake3");
    const cursor = new RafsV5Cursor(readBootstrap(goldenCase("small-v5-zstd-blake3")));
    for (const { path, nid, inode } of bootstrap.walk()) {
      if (inode.type !== "dir") continue;
      const parent = bootstrap.resolve(path.subarray(0, Math.max(1, path.lastIndexOf(0x2f)))) ?? 0;
      const dots = Buffer.from("..");
      expect(cursor.find(nid, dots, 0, 1)).toBe(nid);
      expect(cursor.find(nid, dots, 0, 2)).toBe(parent);
      cursor.openBlock(0);
      cursor.entry(1);
      expect(cursor.entryNid).toBe(parent);
      expect(Buffer.from(cursor.entryBytes.subarray(cursor.entryNameStart, cursor.entryNameEnd)).toString()).toBe("..");
    }
  });

  test.skipIf(golden === undefined)("digests are found by chunk index", () => {
    const bootstrap = open("small-v5-zstd-blake3");
    const digestOf = bootstrap.chunkDigests(0);
    let found = 0;
    for (const record of bootstrap.chunkRecords()) {
      expect(digestOf(record.chunkIndex)).toEqual(record.digest);
      found++;
    }
    expect(found).toBeGreaterThan(0);
    expect(digestOf(2 ** 20)).toBeUndefined();
  });
});

describe.skipIf(golden === undefined)("damaged v5 bootstraps", () => {
  /** Nothing that is read is wrong in these: without the extended table only counts and sizes of blobs are unknown. */
  const harmless = ["v5-ext-none"];

  test.each(golden === undefined ? [] : damaged("v5-", golden))(
    "$name is refused with a code, or shows the undamaged tree",
    ({ name, directory }) => {
      expect(existsSync(join(directory, "bootstrap"))).toBe(true);
      let found: ReturnType<typeof listBootstrap>;
      try {
        const bootstrap = openBootstrap(readFileSync(join(directory, "bootstrap")));
        found = listBootstrap(bootstrap);
        checkBootstrap(bootstrap);
      } catch (error) {
        expect(error).toBeInstanceOf(RafsError);
        return;
      }
      expect(harmless, `${name} was accepted`).toContain(name);
      expect(compareListings(found, readListing(goldenCase("plain-v5-tar")), { ignore: ["sha256"] })).toEqual([]);
    },
  );
});

describe("a v5 bootstrap that turns bad", () => {
  const bytes = Uint8Array.from(readFileSync(join(import.meta.dirname, "fixtures/plain-v5.boot")));

  test("cut at any byte it is refused", () => {
    for (let length = 0; length < bytes.length; length += length < 8192 ? 64 : 1) {
      const cut = bytes.subarray(0, length);
      expect(
        codeOf(() => checkBootstrap(openBootstrap(cut))),
        `cut at ${length}`,
      ).toMatch(/^RAFS_/);
    }
  });

  test("with any byte of its records changed it is refused or read in bounds", () => {
    let refused = 0;
    const probe = (): void => {
      if (codeOf(() => checkBootstrap(openBootstrap(bytes))) !== "no error") refused++;
    };
    eachFlip(bytes.subarray(0, 80), probe);
    eachFlip(bytes.subarray(8192), probe);
    expect(refused).toBeGreaterThan(1000);
  });

  test.skipIf(golden === undefined)("two directories that claim the same children are refused: a walk would be quadratic", () => {
    const copy = Uint8Array.from(readBootstrap(goldenCase("layers-v5-merge3")));
    const bootstrap = openBootstrap(copy);
    const directories = [...bootstrap.walk()].filter(({ inode }) => inode.type === "dir").map(({ nid }) => nid);
    const cursor = new RafsV5Cursor(copy);
    const view = new DataView(copy.buffer);
    const [first, second] = directories.slice(1) as [number, number];
    cursor.load(first);
    const [index, count] = [cursor.childIndex, cursor.childCount];
    expect(count).toBeGreaterThan(0);
    cursor.load(second);
    view.setUint32(cursor.inodeOffset + 92, index, true);
    view.setUint32(cursor.inodeOffset + 96, count, true);
    expect(codeOf(() => [...openBootstrap(copy).walk()])).toBe("RAFS_DIRECTORY");
    expect(codeOf(() => openBootstrap(copy).verifyDigest?.(second))).toBe("RAFS_DIRECTORY");
  });
});

function expectListed(bootstrap: Bootstrap, cursor: RafsV5Cursor, nid: number): void {
  const found: string[] = [];
  cursor.load(nid);
  for (let block = 0; block < cursor.blockCount; block++) {
    cursor.openBlock(block);
    for (let at = 0; at < cursor.entryCount; at++) {
      cursor.entry(at);
      const name = Buffer.from(cursor.entryBytes.subarray(cursor.entryNameStart, cursor.entryNameEnd)).toString("latin1");
      if (name !== "." && name !== "..") found.push(`${name} ${cursor.entryNid} ${cursor.entryType}`);
    }
  }
  const types = ["", "file", "dir", "char", "block", "fifo", "socket", "symlink"];
  expect(found).toEqual(
    [...bootstrap.readDir(nid)].map((entry) => `${Buffer.from(entry.name).toString("latin1")} ${entry.nid} ${types.indexOf(entry.type)}`),
  );
  for (const entry of bootstrap.readDir(nid)) {
    expect(bootstrap.lookup(nid, entry.name)).toBe(entry.nid);
    expect(bootstrap.lookup(nid, Buffer.concat([entry.name, Buffer.from([1])]))).toBeUndefined();
  }
}

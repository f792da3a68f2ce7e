import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, goldenCase, goldenDir, readBootstrap, readListing } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { type Bootstrap, checkBootstrap, openBootstrap, RafsError, RafsV6Cursor } from "../src/index.ts";
import { damaged, withBootstrap } from "./golden.ts";
import { codeOf, eachFlip } from "./hostile.ts";
import { listBootstrap } from "./listing.ts";

const golden = goldenDir();
const open = (name: string): Bootstrap => openBootstrap(readBootstrap(goldenCase(name)));

describe("v6 bootstraps of the original", () => {
  test.each(withBootstrap(6).filter(({ hasListing }) => hasListing))("$name shows the tree it was made from", (entry) => {
    const bootstrap = openBootstrap(readBootstrap(entry));
    expect(compareListings(listBootstrap(bootstrap), readListing(entry), { ignore: ["sha256"] })).toEqual([]);
    const summary = checkBootstrap(bootstrap);
    expect(summary.names).toBe(bootstrap.inodeCount);
  });

  test.each(withBootstrap(6).filter(({ name }) => name !== "chunkdict-v6-generate"))(
    "$name: lookup finds what readDir shows, and nothing else",
    (entry) => {
      const bootstrap = openBootstrap(readBootstrap(entry));
      for (const { path, nid, inode } of bootstrap.walk()) {
        expect(bootstrap.resolve(path)).toBe(nid);
        if (inode.type !== "dir") continue;
        const entries = [...bootstrap.readDir(nid)];
        const names = new Set(entries.map(({ name }) => Buffer.from(name).toString("latin1")).concat("", ".", ".."));
        let before: Uint8Array = Buffer.alloc(0);
        for (const { name, nid: child } of entries) {
          expect(bootstrap.lookup(nid, name)).toBe(child);
          expect(Buffer.compare(before, name)).toBe(-1);
          before = name;
          // Neighbours in name order that are not there: one byte longer, one byte shorter.
          const text = Buffer.from(name).toString("latin1");
          for (const absent of [`${text}\x01`, text.slice(0, -1)]) {
            if (!names.has(absent)) expect(bootstrap.lookup(nid, Buffer.from(absent, "latin1"))).toBeUndefined();
          }
        }
      }
    },
  );

  test.skipIf(golden === undefined)("all names of a hardlinked file have one nid, and paths are looked up component by component", () => {
    const bootstrap = open("small-v6-zstd-blake3");
    const names = new Map<number, number>();
    for (const { nid, inode } of bootstrap.walk()) {
      if (inode.type === "file") names.set(nid, (names.get(nid) ?? 0) + 1);
    }
    expect([...names].some(([, count]) => count > 1)).toBe(true);
    for (const [nid, count] of names) expect(bootstrap.inode(nid).nlink).toBe(count);
    expect(bootstrap.resolve("/")).toBe(bootstrap.rootNid);
    expect(bootstrap.resolve("/no/such")).toBeUndefined();
  });

  test.skipIf(golden === undefined)("asking for a kind of data that the inode has not is refused", () => {
    const bootstrap = open("small-v6-zstd-blake3");
    const file = [...bootstrap.walk()].find(({ inode }) => inode.type === "file" && inode.size > 0)?.nid ?? 0;
    expect(codeOf(() => bootstrap.readLink(file))).toBe("RAFS_SYMLINK");
    expect(codeOf(() => [...bootstrap.readDir(file)])).toBe("RAFS_DIRECTORY");
    expect(codeOf(() => bootstrap.lookup(file, Buffer.from("a")))).toBe("RAFS_DIRECTORY");
    expect([...bootstrap.chunksOf(bootstrap.rootNid)]).toEqual([]);
    for (const nid of [0, -1, 2 ** 40, Number.NaN]) expect(codeOf(() => bootstrap.inode(nid))).toBe("RAFS_RANGE");
  });

  test.skipIf(golden === undefined)("prefetch tables name inodes of the tree", () => {
    const bootstrap = open("small-v6-prefetch-fs");
    expect(bootstrap.prefetchNids.length).toBeGreaterThan(0);
    for (const nid of bootstrap.prefetchNids) bootstrap.inode(nid);
  });

  test.skipIf(golden === undefined)("an external bootstrap opens, though the original refuses its own", () => {
    const bytes = readFileSync(join(goldenCase("ext-v6").directory, "bootstrap.external"));
    checkBootstrap(openBootstrap(bytes));
  });

  test.skipIf(golden === undefined)(
    "the dictionary that the original writes for nothing opens, but its tree has a name that is refused",
    () => {
      expect(codeOf(() => checkBootstrap(open("chunkdict-v6-generate")))).toBe("RAFS_DIRECTORY");
    },
  );
});

describe.skipIf(golden === undefined)("damaged v6 bootstraps", () => {
  test.each(golden === undefined ? [] : damaged("v6-", golden))(
    "$name is refused with a code, or shows the undamaged tree",
    ({ name, directory }) => {
      const bytes = readFileSync(join(directory, "bootstrap"));
      let found: ReturnType<typeof listBootstrap>;
      try {
        const bootstrap = openBootstrap(bytes);
        found = listBootstrap(bootstrap);
        checkBootstrap(bootstrap);
      } catch (error) {
        expect(error).toBeInstanceOf(RafsError);
        return;
      }
      expect(harmless, `${name} was accepted`).toContain(name);
      expect(compareListings(found, readListing(goldenCase("plain-v6-tar")), { ignore: ["sha256"] })).toEqual([]);
    },
  );

  /** The only damaged cases that may be served: nothing that is read is wrong in them. */
  const harmless = ["v6-appended"];

  test("every damaged case was found", () => {
    expect(damaged("v6-", golden as string).every(({ directory }) => existsSync(join(directory, "bootstrap")))).toBe(true);
  });
});

describe("a v6 bootstrap that turns bad", () => {
  const bytes = Uint8Array.from(readFileSync(join(import.meta.dirname, "fixtures/plain-v6.boot")));

  test("cut at any byte it is refused", () => {
    for (let length = 0; length < bytes.length; length++) {
      const cut = bytes.subarray(0, length);
      expect(
        codeOf(() => checkBootstrap(openBootstrap(cut))),
        `cut at ${length}`,
      ).toMatch(/^RAFS_/);
    }
  });

  test("with any byte of its records changed it is refused or read in bounds", () => {
    let refused = 0;
    let served = 0;
    const probe = (): void => {
      if (codeOf(() => checkBootstrap(openBootstrap(bytes))) === "no error") served++;
      else refused++;
    };
    for (const [start, end] of usedRanges(bytes)) eachFlip(bytes.subarray(start, end), probe);
    expect(refused).toBeGreaterThan(served / 10);
  });
});

test.skipIf(golden === undefined)(
  "files that claim the same chunk index over and over are refused, before it is read over and over",
  () => {
    const bytes = Uint8Array.from(readBootstrap(goldenCase("wide-v6")));
    const view = new DataView(bytes.buffer);
    const bootstrap = openBootstrap(bytes);
    const meta = new RafsV6Cursor(bytes).superblock.metaOffset;
    for (const { nid, inode } of bootstrap.walk()) {
      // As many chunks as fit between the inode and the end of the file.
      const chunks = Math.floor((bytes.length - meta - nid * 32 - 72) / 8);
      if (inode.type === "file") view.setBigUint64(meta + nid * 32 + 8, BigInt(chunks) * BigInt(bootstrap.chunkSize), true);
      if (inode.type === "file") view.setUint16(meta + nid * 32, 9, true);
    }
    expect(codeOf(() => checkBootstrap(openBootstrap(bytes)))).toBe("RAFS_CHUNK");
  },
);

/** Runs of bytes that are not all zero, with 16 bytes of the zeros around them: padding of whole blocks is not tried byte by byte. */
function usedRanges(bytes: Uint8Array): [number, number][] {
  const ranges: [number, number][] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    if (bytes.subarray(at, at + 16).every((byte) => byte === 0)) continue;
    const last = ranges.at(-1);
    if (last !== undefined && last[1] >= at) last[1] = at + 32;
    else ranges.push([at, at + 32]);
  }
  return ranges.map(([start, end]) => [start, Math.min(end, bytes.length)]);
}

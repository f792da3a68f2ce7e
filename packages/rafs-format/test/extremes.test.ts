import { execFileSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, openSync, closeSync, readdirSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { MS_RDONLY, mount, umount2 } from "@nydus-ts/linux";
import { Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bootstrap, type ChunkRecord, checkBootstrap, openBootstrap, readFile } from "../src/index.ts";
import { type BuildEntry, type BuildOptions, buildBootstrap } from "../src/writer/index.ts";

// The ends of every range, written by us, read by us and, of version 6, by the kernel.

const chunkSize = 16 * 2 ** 20;
const tebibyte = 2 ** 40;
const wideCount = 100_000;
const data = Buffer.alloc(chunkSize);
data.write("first bytes");
data.write("last bytes", chunkSize - 10);

const chunk: ChunkRecord = {
  digest: new Uint8Array(32).fill(1),
  blobIndex: 0,
  chunkIndex: 0,
  flags: 0,
  compressedSize: chunkSize,
  uncompressedSize: chunkSize,
  compressedOffset: 0,
  uncompressedOffset: 0,
  fileOffset: 0,
  crc32c: 0,
};
const known = { uid: 0, gid: 0, mtime: 0, mtimeNsec: 0, size: 0 };

/** Every byte that a name may hold, and the longest name; latin1. */
const oddNames = [
  ...Array.from({ length: 255 }, (_, at) => String.fromCharCode(at + 1)).filter((name) => name !== "/" && name !== "."),
  "\xff".repeat(255),
  "..a",
  "...",
  "\xc3(",
  "new\nline",
];
const wideName = (at: number): string => `entry-${String(at).padStart(6, "0")}`;

const stamped: BuildEntry[] = [
  ["before-1970", -1, 1],
  ["nanoseconds-before-1970", -1_000_000_000, 999_999_999],
  ["after-2106", 2 ** 33, 123_456_789],
].map(([name, mtime, mtimeNsec]) => ({
  ...known,
  path: `/${name}`,
  mode: 0o100644,
  mtime: mtime as number,
  mtimeNsec: mtimeNsec as number,
}));
const owned: BuildEntry[] = [65_535, 65_536, 2 ** 31, 2 ** 32 - 2].map((id) => ({
  ...known,
  path: `/owner-${id}`,
  mode: 0o104755,
  uid: id,
  gid: id - 1,
}));

function* entries(): Generator<BuildEntry> {
  const bytes = (path: string): Uint8Array => Buffer.from(path, "latin1");
  yield { ...known, path: "/", mode: 0o040755 };
  yield { ...known, path: "/names", mode: 0o040755 };
  for (const name of oddNames) yield { ...known, path: bytes(`/names/${name}`), mode: 0o100644 };
  yield { ...known, path: "/wide", mode: 0o041777 };
  for (let at = 0; at < wideCount; at++) yield { ...known, path: `/wide/${wideName(at)}`, mode: 0o100600 };
  yield* stamped;
  yield* owned;
  yield { ...known, path: "/tebibyte", mode: 0o100644, size: tebibyte, chunks: new Array<ChunkRecord>(tebibyte / chunkSize).fill(chunk) };
  yield { ...known, path: "/device", mode: 0o060660, rdev: 0x7ff0_ff12 };
}

const options = (version: 5 | 6): BuildOptions => ({
  version,
  chunkSize,
  compressor: "none",
  digester: "sha256",
  blobs: [{ id: "e".repeat(64), chunkCount: 1, compressedSize: chunkSize, uncompressedSize: chunkSize }],
  prefetch: [],
});

describe("the ends of every range", () => {
  const images = new Map<5 | 6, Bootstrap>();
  let bytes6: Uint8Array;

  beforeAll(async () => {
    bytes6 = await buildBootstrap(entries(), options(6));
    images.set(6, openBootstrap(bytes6));
    images.set(5, openBootstrap(await buildBootstrap(entries(), options(5))));
  }, 60_000);

  test.each([5, 6] as const)("version %i holds them, and its reader finds each of them", async (version) => {
    const image = images.get(version) as Bootstrap;
    expect(checkBootstrap(image).names).toBe(1 + 1 + oddNames.length + 1 + wideCount + stamped.length + owned.length + 2);
    for (const name of oddNames) expect(image.resolve(Buffer.from(`/names/${name}`, "latin1"))).toBeDefined();
    for (const at of [0, 1, 49_999, wideCount - 1]) expect(image.resolve(`/wide/${wideName(at)}`)).toBeDefined();
    expect(image.resolve(`/wide/${wideName(wideCount)}`)).toBeUndefined();
    for (const { path, mtime, mtimeNsec } of stamped)
      expect(image.inode(nidOf(image, path))).toMatchObject({ mtime: BigInt(mtime), mtimeNsec });
    for (const { path, uid, gid, mode } of owned) expect(image.inode(nidOf(image, path))).toMatchObject({ uid, gid, mode });
    expect(image.inode(nidOf(image, "/device")).rdev).toBe(0x7ff0_ff12);
    const source = { read: async () => data };
    const tail: Uint8Array[] = [];
    for await (const piece of readFile(image, nidOf(image, "/tebibyte"), source, { start: tebibyte - 10, end: tebibyte })) tail.push(piece);
    expect(Buffer.concat(tail).toString()).toBe("last bytes");
  });

  test("version 5 and version 6 agree on every name and attribute", () => {
    const [five, six] = ([5, 6] as const).map((version) => (images.get(version) as Bootstrap).walk());
    for (const entry of six!) {
      const other = five!.next().value;
      if (!other) throw new Error("version 5 has fewer names");
      // Directories have a size of their own in each version, and numbers are only unique.
      const plain = ({ inode, path }: typeof entry) => ({
        ...inode,
        path: Buffer.from(path).toString("latin1"),
        nid: 0,
        ino: 0,
        ...(inode.type === "dir" ? { size: 0 } : {}),
      });
      const [a, b] = [plain(entry), plain(other)];
      if (JSON.stringify(a, text) !== JSON.stringify(b, text)) expect(b).toEqual(a);
    }
    expect(five!.next().done).toBe(true);
  });

  const canMount =
    process.getuid?.() === 0 && existsSync("/proc/filesystems") && readFileSync("/proc/filesystems", "utf8").includes("erofs");
  if (!canMount) console.log("images are not mounted: that needs root and a kernel with EROFS");

  describe.skipIf(!canMount)("as the kernel's EROFS shows them", () => {
    let work: Workspace;
    let mounted: string;
    beforeAll(() => {
      work = new Workspace("rafs-extremes");
      writeFileSync(work.path("bootstrap"), bytes6);
      writeFileSync(work.path("device"), data);
      mounted = work.path("mnt");
      mkdirSync(mounted);
      // mount(8) would put a loop device before the one file and not before the other.
      mount({ source: work.path("bootstrap"), target: mounted, type: "erofs", flags: MS_RDONLY, options: `device=${work.path("device")}` });
      work.defer(() => umount2(mounted, 0));
    });
    afterAll(() => work?.[Symbol.asyncDispose]());

    test("names of any bytes", () => {
      const found = readdirSync(Buffer.from(`${mounted}/names`), { encoding: "buffer" }).map((name) => name.toString("latin1"));
      expect(found.sort()).toEqual([...oddNames].sort());
      for (const name of oddNames) expect(lstatSync(Buffer.from(`${mounted}/names/${name}`, "latin1")).isFile()).toBe(true);
    });

    test("a directory of 100,000 entries", () => {
      expect(readdirSync(`${mounted}/wide`).sort()).toEqual(Array.from({ length: wideCount }, (_, at) => wideName(at)));
      for (const at of [0, 49_999, wideCount - 1]) expect(lstatSync(`${mounted}/wide/${wideName(at)}`).mode).toBe(0o100600);
      expect(() => lstatSync(`${mounted}/wide/${wideName(wideCount)}`)).toThrow("ENOENT");
    });

    test("times before 1970 and after 2106, with nanoseconds", () => {
      for (const { path, mtime, mtimeNsec } of stamped)
        expect(lstatSync(`${mounted}${path}`, { bigint: true }).mtimeNs).toBe(BigInt(mtime) * 1_000_000_000n + BigInt(mtimeNsec));
    });

    test("ids above 65,535, and device numbers", () => {
      for (const { path, uid, gid, mode } of owned) expect(lstatSync(`${mounted}${path}`)).toMatchObject({ uid, gid, mode });
      // 12 bits of major, 20 of minor, as new_encode_dev puts them.
      expect(lstatSync(`${mounted}/device`)).toMatchObject({ rdev: 0x7ff0_ff12, mode: 0o060660 });
    });

    test("a file of 1 TiB, read at both ends", () => {
      const file = openSync(`${mounted}/tebibyte`, "r");
      try {
        const read = (position: number): string => {
          const found = Buffer.alloc(10);
          readSync(file, found, 0, 10, position);
          return found.toString();
        };
        expect(lstatSync(`${mounted}/tebibyte`).size).toBe(tebibyte);
        expect([read(0), read(tebibyte - 10), read(chunkSize - 10)]).toEqual(["first byte", "last bytes", "last bytes"]);
      } finally {
        closeSync(file);
      }
    });

    test("fsck.erofs accepts the image, and dump.erofs counts its inodes", { timeout: 60_000 }, () => {
      const device = `--device=${work.path("device")}`;
      execFileSync("fsck.erofs", [device, work.path("bootstrap")], { stdio: "pipe" });
      const shown = execFileSync("dump.erofs", ["-s", device, work.path("bootstrap")], { encoding: "utf8" });
      const { names } = checkBootstrap(images.get(6) as Bootstrap);
      expect(shown).toMatch(new RegExp(`inode count: +${names}`, "i"));
    });
  });
});

const nidOf = (image: Bootstrap, path: string | Uint8Array): number => image.resolve(path) as number;
const text = (_: string, value: unknown): unknown => (typeof value === "bigint" ? String(value) : value);

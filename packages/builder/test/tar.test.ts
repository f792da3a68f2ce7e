import { gzipSync, zstdCompressSync } from "node:zlib";
import { numberTree, type TreeNode } from "@nydus-ts/rafs-format/writer";
import { afterEach, describe, expect, test } from "vitest";
import { BlobWriter } from "../src/blob-writer.ts";
import { ChunkDictionary } from "../src/chunk-dictionary.ts";
import { BuilderError, CompressPool } from "../src/index.ts";
import { ByteStream } from "../src/sources/byte-stream.ts";
import { decompressLayer } from "../src/sources/decompress.ts";
import { readTarTree } from "../src/sources/tar.ts";
import { TemporaryDirectory, tar } from "./support.ts";

const temporary: TemporaryDirectory[] = [];
afterEach(() => {
  for (const directory of temporary.splice(0)) directory[Symbol.dispose]();
});

async function read(archive: Buffer, pieceBytes = archive.length): Promise<Map<string, TreeNode>> {
  const directory = new TemporaryDirectory();
  temporary.push(directory);
  await using pool = new CompressPool();
  await using writer = new BlobWriter(
    {
      destination: { directory: directory.path },
      compressor: "none",
      digester: "sha256",
      chunkSize: 0x1000,
      id: "",
      offset: 0,
      inlineBootstrap: false,
      toc: false,
      chunkInfoVersion: 1,
      batchSize: 0,
      key: undefined,
      version5: undefined,
    },
    new ChunkDictionary(),
    pool,
  );
  const input = new ByteStream(decompressLayer(pieces(archive, pieceBytes)));
  const { root } = await readTarTree({ input, explicitUidGid: true, chunkSize: 0x1000 }, writer);
  numberTree(root);
  const paths = new Map<string, TreeNode>();
  const visit = (node: TreeNode, path: string) => {
    paths.set(path, node);
    for (const child of node.sorted) visit(child, path === "/" ? `/${child.name}` : `${path}/${child.name}`);
  };
  visit(root, "/");
  return paths;
}

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += Math.max(1, size)) yield bytes.subarray(at, at + Math.max(1, size));
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BuilderError ? error.code : `${(error as Error).name}: ${(error as Error).message}`),
  );

describe("reading a tar", () => {
  test("names beyond 100 bytes, xattrs, times with fractions and owners come from pax records", async () => {
    const name = `deep/${"n".repeat(200)}`;
    const nodes = await read(
      tar({
        name: "short",
        data: "x",
        pax: {
          path: name,
          mtime: "1700000000.25",
          uid: "3000000000",
          "SCHILY.xattr.user.k": "line\nbreak",
          "SCHILY.xattr.trusted.b": "\x00\xff",
        },
      }),
    );
    const node = nodes.get(`/${name}`)!;
    expect([node.mtime, node.mtimeNsec, node.uid]).toEqual([1700000000, 250_000_000, 3_000_000_000]);
    expect(Buffer.from(node.xattrs!.get("user.k")!).toString()).toBe("line\nbreak");
    expect([...node.xattrs!.get("trusted.b")!]).toEqual([0, 255]);
  });

  test("a time before 1970 counts its fraction upwards from the second below", async () => {
    const node = (await read(tar({ name: "old", pax: { mtime: "-1.25" } }))).get("/old")!;
    expect([node.mtime, node.mtimeNsec]).toEqual([-2, 750_000_000]);
  });

  test("a name that is not UTF-8 keeps its bytes", async () => {
    expect([...(await read(tar({ name: "\xe9\xff" }))).keys()]).toContain("/\xe9\xff");
  });

  test("GNU long names and link targets are applied to the member behind them", async () => {
    const [name, link] = ["a/".repeat(80) + "end", "t/".repeat(90) + "x"];
    const nodes = await read(
      tar(
        { name: "././@LongLink", type: "L", data: `${name}\0` },
        { name: "././@LongLink", type: "K", data: `${link}\0` },
        { name: "x", type: "2" },
      ),
    );
    expect(Buffer.from(nodes.get(`/${name}`)!.target!).toString()).toBe(link);
  });

  test("the last entry of a path wins, and a directory keeps what was put into it", async () => {
    const nodes = await read(tar({ name: "d/f", data: "one" }, { name: "d/", type: "5", mode: 0o700 }, { name: "d/f", data: "three" }));
    expect(nodes.get("/d")!.mode & 0o777).toBe(0o700);
    expect(nodes.get("/d/f")!.size).toBe(5);
  });

  test.each([
    ["./a/../b", "/b"],
    ["a/b/../c", "/a /a/c"],
    ["../../etc/x", "/etc /etc/x"],
    ["/../x", "/x"],
    ["a/../../../b/./c", "/b /b/c"],
    ["a/b/../../..//d", "/d"],
    ["..x/...", "/..x /..x/..."],
  ])("the name %s stands for what a cleaned path says, and nothing is above the root", async (name, paths) => {
    const nodes = await read(tar({ name, data: "data" }, { name: "last" }));
    expect([...nodes.keys()].sort()).toEqual(["/", "/last", ...paths.split(" ")].sort());
    expect(nodes.get(paths.split(" ").at(-1)!)!.size).toBe(4);
  });

  test.each(["..", "./..", "a/..", "a/../.."])("%s names the root in a way that containerd ignores, whatever it is", async (name) => {
    const nodes = await read(
      tar({ name, type: "5", mode: 0o700 }, { name, type: "2", link: "/etc" }, { name, data: "x".repeat(600) }, { name: "last" }),
    );
    expect([[...nodes.keys()], nodes.get("/")!.mode & 0o7777]).toEqual([["/", "/last"], 0o755]);
  });

  test("a hardlink finds its target by a path with ..", async () => {
    const nodes = await read(tar({ name: "d/a", data: "data" }, { name: "x/../b", type: "1", link: "../d/c/../a" }));
    expect(nodes.get("/b")!.chunks).toBe(nodes.get("/d/a")!.chunks);
  });

  test("a member below a symbolic link lies where the link leads inside the image; parents are made there", async () => {
    const nodes = await read(
      tar(
        { name: "b/", type: "5", mode: 0o700 },
        { name: "a", type: "2", link: "b" },
        { name: "a/x", data: "x" },
        { name: "absolute", type: "2", link: "/b" },
        { name: "absolute/y", data: "y" },
        { name: "b/up", type: "2", link: "../../../top" },
        { name: "b/up/z", data: "z" },
        { name: "chain", type: "2", link: "a" },
        { name: "chain/deep/w", data: "w" },
        { name: "hard", type: "1", link: "chain/x" },
        { name: "hard-to-link", type: "1", link: "a" },
      ),
    );
    expect([...nodes.keys()].sort()).toEqual(
      [
        "/",
        "/a",
        "/absolute",
        "/b",
        "/b/deep",
        "/b/deep/w",
        "/b/up",
        "/b/x",
        "/b/y",
        "/chain",
        "/hard",
        "/hard-to-link",
        "/top",
        "/top/z",
      ].sort(),
    );
    expect([nodes.get("/a")!.isSymlink, nodes.get("/hard-to-link")!.isSymlink, nodes.get("/b")!.mode & 0o7777]).toEqual([
      true,
      true,
      0o700,
    ]);
    expect(nodes.get("/hard")!.chunks).toBe(nodes.get("/b/x")!.chunks);
  });

  test("a directory in place of a symbolic link replaces it", async () => {
    const nodes = await read(
      tar({ name: "b/", type: "5" }, { name: "a", type: "2", link: "b" }, { name: "a/", type: "5" }, { name: "a/x" }),
    );
    expect([...nodes.keys()].sort()).toEqual(["/", "/a", "/a/x", "/b"]);
  });

  test("a hardlink shares the chunks of its target; both have two links", async () => {
    const nodes = await read(tar({ name: "a", data: "data" }, { name: "b", type: "1", link: "./a" }));
    expect(nodes.get("/b")!.chunks).toBe(nodes.get("/a")!.chunks);
    expect([nodes.get("/a")!.nlink, nodes.get("/b")!.nlink]).toEqual([2, 2]);
  });

  test("global pax headers are skipped, zeros between archives too", async () => {
    const archive = Buffer.concat([tar({ name: "g", type: "g", data: "12 comment=\n" }, { name: "a" }), tar({ name: "b" })]);
    expect([...(await read(archive)).keys()]).toEqual(["/", "/a", "/b"]);
  });

  test.each([
    ["plain", (bytes: Buffer) => bytes],
    ["gzip", gzipSync],
    ["two gzip members", (bytes: Buffer) => Buffer.concat([gzipSync(bytes.subarray(0, 700)), gzipSync(bytes.subarray(700))])],
    ["zstd", zstdCompressSync],
    [
      "two zstd frames",
      (bytes: Buffer) => Buffer.concat([zstdCompressSync(bytes.subarray(0, 700)), zstdCompressSync(bytes.subarray(700))]),
    ],
  ] as const)("%s is recognised by its first bytes, in pieces of any size", async (_, pack) => {
    const archive = pack(tar({ name: "a", data: "x".repeat(9000) }, { name: "d/b", data: "y" }));
    for (const pieceBytes of [1, 3, 1000, archive.length])
      expect([...(await read(archive, pieceBytes)).keys()]).toEqual(["/", "/a", "/d", "/d/b"]);
  });
});

describe("a tar that can not be stored is refused with a code", () => {
  test.each([
    ["a hardlink to the root by ..", tar({ name: "d/", type: "5" }, { name: "b", type: "1", link: "d/.." }), "BUILD_TAR"],
    ["a member below a file", tar({ name: "f", data: "f" }, { name: "f/x", data: "x" }), "BUILD_TAR"],
    ["a member below a link to a file", tar({ name: "f" }, { name: "a", type: "2", link: "f" }, { name: "a/x" }), "BUILD_TAR"],
    [
      "a member below links that lead in a circle",
      tar({ name: "a", type: "2", link: "b" }, { name: "b", type: "2", link: "a" }, { name: "a/x" }),
      "BUILD_TAR",
    ],
    [
      "a member below a link that leads to a longer path each time",
      tar({ name: "a", type: "2", pax: { linkpath: `a/${"f/".repeat(1900)}` } }, { name: "a/x" }),
      "BUILD_LIMIT",
    ],
    ["a hardlink to nothing", tar({ name: "b", type: "1", link: "missing" }), "BUILD_TAR"],
    ["a hardlink to a directory", tar({ name: "d/", type: "5" }, { name: "b", type: "1", link: "d" }), "BUILD_TAR"],
    ["an unknown entry type", tar({ name: "b", type: "Z" }), "BUILD_UNSUPPORTED"],
    ["a GNU sparse member", tar({ name: "b", type: "S" }), "BUILD_UNSUPPORTED"],
    ["a pax sparse member", tar({ name: "b", pax: { "GNU.sparse.major": "1" } }), "BUILD_UNSUPPORTED"],
    ["a name of 256 bytes", tar({ name: "b", pax: { path: "n".repeat(256) } }), "BUILD_LIMIT"],
    ["a path of 3000 directories", tar({ name: "b", pax: { path: "d/".repeat(3000) + "f" } }), "BUILD_LIMIT"],
    ["an owner of 33 bits", tar({ name: "b", pax: { uid: "4294967296" } }), "BUILD_LIMIT"],
    ["a link target of 5000 bytes", tar({ name: "b", type: "2", pax: { linkpath: "t".repeat(5000) } }), "BUILD_LIMIT"],
    ["a NUL in a link target", tar({ name: "b", type: "2", pax: { linkpath: "a\0b" } }), "BUILD_TAR"],
    ["an xattr of an unknown kind", tar({ name: "b", pax: { "SCHILY.xattr.odd.name": "v" } }), "BUILD_XATTR"],
    ["a malformed pax header", tar({ name: "b", type: "x", data: "99 a=b\n" }), "BUILD_TAR"],
    [
      "two pax headers in a row",
      tar({ name: "x", type: "x", data: "9 a=bcd\n\n" }, { name: "x", type: "x", data: "8 a=bcd\n" }, { name: "b" }),
      "BUILD_TAR",
    ],
    ["a size of 2^60 behind which nothing comes", tar({ name: "b", pax: { size: "1152921504606846975" } }), "BUILD_TAR"],
    ["garbage", Buffer.alloc(2048, 0x41), "BUILD_TAR"],
    ["a damaged gzip stream", Buffer.concat([gzipSync(tar({ name: "a" })).subarray(0, 40), Buffer.alloc(40, 7)]), "BUILD_TAR"],
  ])("%s: %#", async (_, archive, code) => {
    expect(await codeOf(read(archive))).toBe(code);
  });

  test("cut at any byte within a member it is BUILD_TAR, never a shorter file", async () => {
    const archive = tar({ name: "a", data: "x".repeat(1000) }, { name: "b", data: "y", pax: { "SCHILY.xattr.user.k": "v" } });
    const boundaries = new Set([0, 512 + 1024, archive.length - 1024, archive.length - 512, archive.length]);
    for (let end = 0; end <= archive.length; end += 31) {
      if (!boundaries.has(end)) expect(await codeOf(read(archive.subarray(0, end))), `cut at ${end}`).toMatch(/^BUILD_TAR$/);
    }
  });

  test("a compressed tar cut at any byte is refused", async () => {
    for (const archive of [
      gzipSync(tar({ name: "a", data: "x".repeat(5000) })),
      zstdCompressSync(tar({ name: "a", data: "x".repeat(5000) })),
    ]) {
      for (let end = 8; end < archive.length; end += 7)
        expect(await codeOf(read(archive.subarray(0, end))), `cut at ${end}`).toBe("BUILD_TAR");
    }
  });

  test("a flipped byte is accepted or refused with a code, never anything else", async () => {
    const archive = tar({ name: "a", data: "x".repeat(100) }, { name: "b", type: "1", link: "a" }, { name: "c", pax: { path: "d/e" } });
    for (let at = 0; at < archive.length - 1024; at += 5) {
      const flipped = Buffer.from(archive);
      flipped[at] ^= 0xff;
      expect(await codeOf(read(flipped)), `byte ${at}`).toMatch(/^(no error|BUILD_[A-Z]+)$/);
    }
  });
});

import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { MS_RDONLY, mount, umount2 } from "@nydus-ts/linux";
import { crc32c, openBootstrap } from "@nydus-ts/rafs-format";
import { compareListings, listTree } from "@nydus-ts/testkit";
import { afterEach, describe, expect, test } from "vitest";
import { CompressPool, loadImage, newBlobKey, parsePrefetchPatterns, readPieces } from "../src/index.ts";
import { BlobReader, build, listImage, TemporaryDirectory, tar } from "./support.ts";

const temporary: TemporaryDirectory[] = [];
afterEach(() => {
  for (const directory of temporary.splice(0)) directory[Symbol.dispose]();
});
function directory(parent?: string): TemporaryDirectory {
  const made = new TemporaryDirectory(parent);
  temporary.push(made);
  return made;
}

test("CRC-32C of 123456789 is 0xe3069283, at any alignment and length", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  // The table of three lanes of 4 KiB is used from 12 KiB on.
  const data = randomBytes(40_000);
  const slow = (bytes: Uint8Array) => {
    let crc = -1;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
    return ~crc >>> 0;
  };
  for (const [start, end] of [
    [0, 4099],
    [0, 12_288],
    [1, 12_300],
    [4, 40_000],
    [1, 4099],
    [3, 4090],
    [2, 9],
    [5, 5],
  ])
    expect(crc32c(data.subarray(start, end))).toBe(slow(data.subarray(start, end)));
});

/** Enough data to start the compression threads, of kinds that compress well, a little and not at all. */
function writeMixedFiles(path: string): void {
  mkdirSync(path);
  for (let i = 0; i < 40; i++) {
    const size = [100, 5000, 70_000, 300_000][i % 4] * (1 + (i % 3));
    const data = i % 5 === 0 ? randomBytes(size) : Buffer.from(`${i} `.repeat(size).slice(0, size));
    writeFileSync(`${path}/f${i}`, data);
  }
  writeFileSync(`${path}/same-as-f4`, readFileSync(`${path}/f4`));
}

describe("building", () => {
  test.each(["none", "zstd", "lz4_block"] as const)(
    "%s: two builds at once over one pool give the same bytes, and what is read back is what went in",
    async (compressor) => {
      const work = directory();
      writeMixedFiles(work.join("source"));
      await using pool = new CompressPool();
      const [a, b] = await Promise.all(
        ["a", "b"].map((name) => build(work.join("source"), work.join(name), { compressor, pool, chunkSize: 0x10000 })),
      );
      expect(a.blob!.id).toBe(b.blob!.id);
      expect(a.bootstrap.equals(b.bootstrap)).toBe(true);
      const bootstrap = openBootstrap(a.bootstrap);
      const blobs = bootstrap.blobs.map((blob) => new BlobReader(blob, work.join("a/blobs", blob.id)));
      expect(
        compareListings(listImage(bootstrap, blobs), await listTree(work.join("source")), { ignore: ["size", "mtime", "nsec"] }),
      ).toEqual([]);
      expect(a.statistics.deduplicatedChunks).toBeGreaterThan(0);
    },
  );

  test("the kernel mounts the bootstrap with the uncompressed blob as its device and shows the source", async () => {
    const work = directory("/var/tmp");
    writeMixedFiles(work.join("source"));
    mkdirSync(work.join("source/sub/deep"), { recursive: true });
    symlinkSync("../f1", work.join("source/sub/link"));
    chmodSync(work.join("source/f2"), 0o4711);
    const built = await build(work.join("source"), work.join("out"), { chunkSize: 0x10000 });
    const bootstrap = openBootstrap(built.bootstrap);
    writeFileSync(work.join("device"), new BlobReader(bootstrap.blobs[0], built.blob!.path).image());
    mkdirSync(work.join("mnt"));
    mount({
      source: work.join("out/bootstrap"),
      target: work.join("mnt"),
      type: "erofs",
      flags: MS_RDONLY,
      options: `device=${work.join("device")}`,
    });
    try {
      const ignore = ["size", "mtime", "nsec"] as const;
      expect(compareListings(await listTree(work.join("mnt")), await listTree(work.join("source")), { ignore: [...ignore] })).toEqual([]);
    } finally {
      umount2(work.join("mnt"), 0);
    }
    execFileSync("fsck.erofs", [`--device=${work.join("device")}`, work.join("out/bootstrap")], { stdio: "pipe" });
  });

  test("a tree that can not be written leaves no blob behind, and no file under another name", async () => {
    const work = directory();
    writeMixedFiles(work.join("source"));
    const failing = build(work.join("source"), work.join("out"), { blobId: "x".repeat(65) });
    await expect(failing).rejects.toThrow("longer than 64 bytes");
    expect(readdirSync(work.join("out/blobs"))).toEqual([]);
  });

  test("batches of many small files and a few large ones keep their order", async () => {
    const work = directory();
    const members = Array.from({ length: 300 }, (_, i) => ({ name: `f${i}`, data: Buffer.from(`${i}`.repeat(1 + ((i * 7919) % 20_000))) }));
    writeFileSync(work.join("layer.tar"), tar(...members));
    const built = await build(work.join("layer.tar"), work.join("out"), { chunkSize: 0x1000 });
    const bootstrap = openBootstrap(built.bootstrap);
    const reader = new BlobReader(bootstrap.blobs[0], built.blob!.path);
    let end = 0;
    for (let i = 0; i < reader.meta.count; i++) {
      expect(reader.meta.compressedOffset(i)).toBe(end);
      end += reader.meta.compressedSize(i);
    }
    expect(bootstrap.blobs[0].ciOffset).toBe(end);
  });

  test("an image without data has no blob, but a bootstrap inside a blob still makes one", async () => {
    const work = directory();
    writeFileSync(work.join("layer.tar"), tar({ name: "d/", type: "5" }, { name: "empty" }));
    const outside = await build(work.join("layer.tar"), work.join("a"));
    const inside = await build(work.join("layer.tar"), work.join("b"), { inline: true, toc: true });
    expect([outside.blobs, outside.blob, readdirSync(work.join("a/blobs"))]).toEqual([[], undefined, []]);
    expect(readdirSync(work.join("b/blobs"))).toEqual([inside.blob!.id]);
    expect(openBootstrap(inside.bootstrap).blobs).toEqual([]);
  });

  test("a blob that is there already is kept, and no temporary file stays", async () => {
    const work = directory();
    writeMixedFiles(work.join("source"));
    await build(work.join("source"), work.join("out"));
    const { blob } = await build(work.join("source"), work.join("out"));
    expect(readdirSync(work.join("out/blobs"))).toEqual([blob!.id]);
    expect(readdirSync(work.join("out")).sort()).toEqual(["blobs", "bootstrap"]);
  });
});

describe("a build that fails leaves nothing behind", () => {
  test("a tar that ends early, after data was written", async () => {
    const work = directory();
    writeFileSync(work.join("layer.tar"), tar({ name: "a", data: randomBytes(3_000_000) }, { name: "b", data: randomBytes(3_000_000) }));
    truncateSync(work.join("layer.tar"), 5_000_000);
    await expect(build(work.join("layer.tar"), work.join("out"))).rejects.toMatchObject({ code: "BUILD_TAR" });
    expect(readdirSync(work.join("out/blobs"))).toEqual([]);
    expect(existsSync(work.join("out/bootstrap"))).toBe(false);
  });

  test("a tar that can be read from its file gives the same bytes as its stream: plain, compressed, from a FIFO", async () => {
    const work = directory();
    writeMixedFiles(work.join("source"));
    execFileSync("tar", ["-C", work.join("source"), "-cf", work.join("layer.tar"), "."]);
    writeFileSync(work.join("layer.tar.gz"), gzipSync(readFileSync(work.join("layer.tar"))));
    execFileSync("mkfifo", [work.join("fifo")]);
    const streamed = await build(work.join("layer.tar"), work.join("streamed"), { chunkSize: 0x10000 });
    for (const name of ["layer.tar", "layer.tar.gz", "fifo"]) {
      const file = work.join(name);
      // A FIFO that is opened and closed before it is read ends its writer.
      const writer = name === "fifo" ? once(spawn("sh", ["-c", `cat ${work.join("layer.tar")} > ${file}`]), "exit") : undefined;
      const source = { kind: "tar" as const, stream: readPieces(file), file };
      const built = await build(work.path, work.join(`${name}-out`), { source, chunkSize: 0x10000 });
      expect(await writer, name).toEqual(writer && [0, null]);
      expect(built.blob!.id, name).toBe(streamed.blob!.id);
      expect(built.bootstrap.equals(streamed.bootstrap), name).toBe(true);
    }
  });

  test("a tar that is cut off is BUILD_TAR also where it is read from its file, and leaves nothing behind", async () => {
    const work = directory();
    writeFileSync(work.join("layer.tar"), tar({ name: "a", data: randomBytes(9_000_000) }).subarray(0, 5_000_000));
    const source = { kind: "tar" as const, stream: readPieces(work.join("layer.tar")), file: work.join("layer.tar") };
    await expect(build(work.path, work.join("out"), { source })).rejects.toMatchObject({ code: "BUILD_TAR" });
    expect(readdirSync(work.join("out/blobs"))).toEqual([]);
  });

  test("a file that is gone or shorter when a thread reads it is BUILD_SOURCE, and names it", async () => {
    for (const [change, words] of [
      [(path: string) => rmSync(path), "no such file"],
      [(path: string) => truncateSync(path, 10), "became shorter"],
    ] as const) {
      const work = directory();
      writeMixedFiles(work.join("source"));
      const last = work.join("source/z-last");
      writeFileSync(last, randomBytes(100_000));
      // The scan asks for the xattrs of a file when it has its size.
      const changing = (path: Buffer) => {
        if (path.toString() === last) change(last);
        return new Map<string, Uint8Array>();
      };
      const source = { kind: "directory" as const, path: work.join("source"), readXattrs: changing, whiteouts: "oci" as const };
      const failure = build(work.path, work.join("out"), { source });
      await expect(failure).rejects.toMatchObject({ code: "BUILD_SOURCE", message: expect.stringContaining(words) as string });
      await expect(failure).rejects.toThrow("z-last");
      expect(readdirSync(work.join("out/blobs"))).toEqual([]);
    }
  });

  test("a source that breaks off: its own error comes through", async () => {
    const work = directory();
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield tar({ name: "a", data: randomBytes(2_000_000) }).subarray(0, 1_500_000);
      throw new Error("connection lost");
    }
    await expect(build(work.path, work.join("out"), { source: { kind: "tar", stream: broken() } })).rejects.toThrow("connection lost");
    expect(readdirSync(work.join("out/blobs"))).toEqual([]);
  });

  test("a full disk is BUILD_OUTPUT or names ENOSPC", async () => {
    const work = directory();
    mkdirSync(work.join("small"));
    mount({ source: "tmpfs", target: work.join("small"), type: "tmpfs", flags: 0, options: "size=1m" });
    try {
      writeFileSync(work.join("layer.tar"), tar({ name: "a", data: randomBytes(4_000_000) }));
      await expect(build(work.join("layer.tar"), work.join("out"), { blob: { directory: work.join("small") } })).rejects.toThrow(/ENOSPC/);
      expect(readdirSync(work.join("small"))).toEqual([]);
    } finally {
      umount2(work.join("small"), 0);
    }
  });

  test("a directory that is not there is BUILD_SOURCE, an output that is not there BUILD_OUTPUT", async () => {
    const work = directory();
    mkdirSync(work.join("source"));
    writeFileSync(work.join("source/f"), "x");
    await expect(build(work.join("missing"), work.join("out"))).rejects.toMatchObject({ code: "BUILD_SOURCE" });
    await expect(build(work.join("source"), work.join("out"), { blob: { directory: work.join("nowhere") } })).rejects.toMatchObject({
      code: "BUILD_OUTPUT",
    });
  });

  test("an xattr that the format has no place for is BUILD_XATTR and names the file", async () => {
    const work = directory();
    mkdirSync(work.join("source"));
    writeFileSync(work.join("source/odd"), "x");
    const readXattrs = () => new Map([["system.other", Buffer.from("v")]]);
    const failure = build(work.join("source"), work.join("out"), {
      source: { kind: "directory", path: work.join("source"), readXattrs, whiteouts: "oci" },
    });
    await expect(failure).rejects.toMatchObject({ code: "BUILD_XATTR" });
  });
});

describe("encryption", () => {
  const key = newBlobKey();

  test("what is shorter than a cipher block comes back, alone or as the rest of a batch", async () => {
    const work = directory();
    const archive = tar({ name: "a", data: "x".repeat(3000) }, { name: "b", data: "two" }, { name: "c", data: "3" });
    writeFileSync(work.join("layer.tar"), archive);
    for (const batchSize of [0, 0x1000]) {
      const out = work.join(`out-${batchSize}`);
      const { bootstrap } = await build(work.join("layer.tar"), out, { key, batchSize });
      const opened = openBootstrap(bootstrap);
      const [blob] = opened.blobs;
      const reader = new BlobReader(blob, join(out, "blobs", blob.id));
      expect([0, 1, 2].map((index) => reader.chunk(index).toString())).toEqual(["x".repeat(3000), "two", "3"]);
      expect(readFileSync(join(out, "blobs", blob.id)).includes("x".repeat(16))).toBe(false);
    }
  });

  test("what readers would take for padding is stored in another form, or refused", async () => {
    const work = directory();
    const data = Buffer.concat([Buffer.alloc(16, 5), Buffer.from([0x78, 0x90])]);
    writeFileSync(work.join("layer.tar"), tar({ name: "a", data }));
    const failure = build(work.join("layer.tar"), work.join("out"), { key, compressor: "none" });
    await expect(failure).rejects.toMatchObject({ code: "BUILD_UNSUPPORTED" });
    expect(readdirSync(work.join("out/blobs"))).toEqual([]);
  });

  test("every key has two halves, and no two are equal", () => {
    const other = newBlobKey();
    expect(Buffer.compare(key.key, other.key)).not.toBe(0);
    expect(Buffer.compare(key.iv, other.iv)).not.toBe(0);
    expect(Buffer.compare(key.key.subarray(0, 16), key.key.subarray(16))).not.toBe(0);
  });
});

test("a chunk of a dictionary brings its blob along once, and not if nothing needs it", async () => {
  const work = directory();
  for (const [name, data] of Object.entries({ dictionary: "shared", uses: "shared", other: "else" })) {
    writeFileSync(work.join(`${name}.tar`), tar({ name: "a", data }, { name: "b", data }));
  }
  const given = await build(work.join("dictionary.tar"), work.join("dictionary"));
  const dictionary = { chunks: loadImage(given.bootstrap).root.children!.get("a")!.chunks };
  const uses = await build(work.join("uses.tar"), work.join("uses"), { dictionary });
  expect(uses.blobs.map(({ id }) => id)).toEqual([given.blob!.id]);
  expect(uses.blob).toBeUndefined();
  const other = await build(work.join("other.tar"), work.join("other"), { dictionary });
  expect(other.blobs.map(({ id }) => id)).toEqual([other.blob!.id]);
});

test("a prefetch list: what is relative or covered already is left out and told", () => {
  expect(parsePrefetchPatterns("/usr/bin\nusr\n/usr/bin/python3\n/usr/bin2/\n\n/")).toEqual({
    paths: ["/usr/bin", "/usr/bin2", "/"],
    warnings: [
      'Illegal file path "usr" specified, should be absolute path',
      'prefetch pattern "/usr/bin/python3" is covered by previous pattern and thus omitted',
      'Illegal file path "" specified, should be absolute path',
    ],
  });
});

/** Images on a parent of the other version: read back, and mounted by the kernel. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hasFeature, openBootstrap } from "@nydus-ts/rafs-format";
import { Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, TemporaryDirectory } from "./support.ts";
import { sameTree } from "./trees.ts";

const canMount = process.getuid?.() === 0 && readFileSync("/proc/filesystems", "utf8").includes("erofs");
if (!canMount) console.log("images are not mounted: that needs root and a kernel with EROFS");

const flavours = [
  ["zstd", ["--compressor", "zstd"]],
  ["lz4_block, sha256", ["--compressor", "lz4_block", "--digester", "sha256"]],
  ["no compressor, chunks of 4 KiB", ["--compressor", "none", "--chunk-size", "0x1000"]],
] as const;

let temporary: TemporaryDirectory;
beforeAll(() => {
  temporary = new TemporaryDirectory();
  mkdirSync(temporary.join("lower/sub"), { recursive: true });
  mkdirSync(temporary.join("upper/sub"), { recursive: true });
  const big = randomBytes(2_500_000);
  writeFileSync(temporary.join("lower/big"), big);
  writeFileSync(temporary.join("lower/text"), "some text\n".repeat(50_000));
  for (let i = 0; i < 20; i++) writeFileSync(temporary.join(`lower/sub/${i}`), randomBytes(i * 777));
  linkSync(temporary.join("lower/sub/7"), temporary.join("lower/sub/seven"));
  symlinkSync("sub/7", temporary.join("lower/link"));
  // The parent's chunks are used for files above it; some of its files go, and their chunks with them.
  writeFileSync(temporary.join("upper/copy"), big);
  writeFileSync(temporary.join("upper/new"), randomBytes(5000));
  writeFileSync(temporary.join("upper/sub/.wh.3"), "");
});
afterAll(() => temporary[Symbol.dispose]());

/** Builds into `blobs`; the bootstrap is `name`. */
async function create(work: TemporaryDirectory, name: string, source: string, ...options: string[]): Promise<string> {
  mkdirSync(work.join("blobs"), { recursive: true });
  const argv = ["create", "-D", work.join("blobs"), "-B", work.join(name), ...options, temporary.join(source)];
  const { code, stderr } = await run(argv);
  expect([code, stderr]).toEqual([0, expect.not.stringContaining("Error")]);
  return work.join(name);
}

describe.each([
  ["6", "5"],
  ["5", "6"],
])("version %s on a parent of version %s", (version, below) => {
  test.each(flavours)("%s: create gives the tree that one version alone gives, and check passes", async (_name, flavour) => {
    using work = new TemporaryDirectory();
    const other = await create(work, "other.parent", "lower", "-v", below, ...flavour);
    const same = await create(work, "same.parent", "lower", "-v", version, ...flavour);
    const mixed = await create(work, "mixed", "upper", "-v", version, "--parent-bootstrap", other, ...flavour);
    const alone = await create(work, "alone", "upper", "-v", version, "--parent-bootstrap", same, ...flavour);
    expect(openBootstrap(readFileSync(mixed)).blobs[0]!.id).toBe(openBootstrap(readFileSync(other)).blobs[0]!.id);
    expect((await run(["check", "-B", mixed])).code).toBe(0);
    await sameTree(work, { bootstrap: mixed, blobs: work.join("blobs") }, { bootstrap: alone, blobs: work.join("blobs") });
  });

  test("merge puts layers on such a parent, and the result is a parent again", async () => {
    using work = new TemporaryDirectory();
    const blobs = work.join("blobs");
    const other = await create(work, "other.parent", "lower", "-v", below);
    const upper = await create(work, "upper.layer", "upper", "-v", version);
    const id = openBootstrap(readFileSync(upper)).blobs[0]!.id;
    const same = await create(work, "same.parent", "lower", "-v", version);
    for (const [parent, name] of [
      [other, "merged"],
      [same, "alone"],
    ] as const) {
      const argv = ["merge", "--parent-bootstrap", parent, "-B", work.join(name), "--original-blob-ids", id, upper];
      expect(await run(argv)).toMatchObject({ code: 0 });
    }
    await sameTree(work, { bootstrap: work.join("merged"), blobs }, { bootstrap: work.join("alone"), blobs });
    const again = await create(work, "again", "upper", "-v", below, "--parent-bootstrap", work.join("merged"));
    const twice = await create(work, "twice", "upper", "-v", below, "--parent-bootstrap", work.join("alone"));
    await sameTree(work, { bootstrap: again, blobs }, { bootstrap: twice, blobs });
  });

  test.each([["compact", "--min-used-ratio", "100"], ["optimize"]])("%s leaves the tree as it is", async (verb, ...options) => {
    using work = new TemporaryDirectory();
    const blobs = work.join("blobs");
    const mixed = await create(work, "mixed", "upper", "-v", version, "--parent-bootstrap", await create(work, "p", "lower", "-v", below));
    writeFileSync(work.join("list"), JSON.stringify({ version: "v1", files: ["/sub/5", "/big"].map((path) => ({ path })) }));
    const argv = {
      compact: ["compact", "-B", mixed, "-D", blobs, "-O", work.join("out"), ...options],
      optimize: ["optimize", "-B", mixed, "-D", blobs, "-O", work.join("out"), "--output-blob-dir", blobs, "-p", work.join("list")],
    }[verb as "compact" | "optimize"];
    expect(await run(argv)).toMatchObject({ code: 0, stderr: expect.not.stringContaining("Error") });
    await sameTree(work, { bootstrap: mixed, blobs }, { bootstrap: work.join("out"), blobs });
  });
});

describe("version 6 on a parent of version 5", () => {
  test.each([
    ["chunks lie end to end", []],
    ["chunks lie at blocks", ["--aligned-chunk"]],
  ])("%s: each chunk lies at a block of its own, wherever other images use the blob", async (_name, options) => {
    using work = new TemporaryDirectory();
    const parent = await create(work, "parent", "lower", "-v", "5", ...options);
    const one = await create(work, "one", "upper", "--parent-bootstrap", parent);
    mkdirSync(work.join("none"));
    const fewer = await create(work, "fewer", "upper", "-v", "5", "--parent-bootstrap", parent, ...options);
    const two = await create(work, "two", "upper", "--parent-bootstrap", fewer);
    const [first, second] = [one, two].map((path) => openBootstrap(readFileSync(path)));
    const blob = first!.blobs[0]!;
    expect([hasFeature(blob, "aligned"), blob.ciCompressedSize, second!.blobs[0]!.uncompressedSize]).toEqual([
      true,
      0,
      blob.uncompressedSize,
    ]);
    const places = [first!, second!].map((image) => [...image.chunkRecords()].filter(({ blobIndex }) => blobIndex === 0));
    const ordered = [...places[0]!].sort((a, b) => a.chunkIndex - b.chunkIndex);
    let end = 0;
    for (const { uncompressedOffset, uncompressedSize } of ordered) {
      expect([uncompressedOffset % 4096, uncompressedOffset >= end]).toEqual([0, true]);
      end = uncompressedOffset + uncompressedSize;
    }
    expect(end).toBeLessThanOrEqual(blob.uncompressedSize);
    const known = new Map(ordered.map(({ chunkIndex, uncompressedOffset }) => [chunkIndex, uncompressedOffset]));
    for (const { chunkIndex, uncompressedOffset } of places[1]!) expect(known.get(chunkIndex)).toBe(uncompressedOffset);
  });

  test.skipIf(!canMount)("the kernel mounts the exported device, and files read as they were", async () => {
    await using work = new Workspace("nydus-image-other-version");
    using images = new TemporaryDirectory();
    const parent = await create(images, "parent", "lower", "-v", "5");
    const image = await create(images, "image", "upper", "--parent-bootstrap", parent);
    const argv = ["export", "--block", "-B", image, "-D", images.join("blobs"), "-O", images.join("disk")];
    expect(await run(argv)).toMatchObject({ code: 0 });
    mkdirSync(work.path("mnt"));
    execFileSync("mount", ["-t", "erofs", "-o", "ro,loop", images.join("disk"), work.path("mnt")]);
    work.defer(() => void execFileSync("umount", [work.path("mnt")]));
    const names = readdirSync(temporary.join("lower/sub")).filter((name) => name !== "3");
    expect(readdirSync(join(work.path("mnt"), "sub")).sort()).toEqual(names.sort());
    for (const [layer, path] of [
      ["upper", "copy"],
      ["upper", "new"],
      ["lower", "big"],
      ["lower", "text"],
      ...names.map((name) => ["lower", `sub/${name}`]),
    ])
      expect(readFileSync(join(work.path("mnt"), path!)).equals(readFileSync(temporary.join(layer!, path!)))).toBe(true);
  });
});

describe("version 5 on a parent that it can not describe is one error line, and nothing is written", () => {
  test.each([
    ["batches", ["--batch-size", "0x100000"], [], "holds small chunks in batches, which version 5 can not describe: build version 6"],
    ["an encrypted blob", ["--encrypt"], [], "is encrypted, which version 5 can not describe: build version 6"],
    [
      "another compressor",
      ["--compressor", "zstd"],
      ["--compressor", "lz4_block"],
      "version 5 records one compressor for an image, here lz4_block",
    ],
    ["another digester", ["--digester", "sha256"], [], "RAFS v5 can not support different digest algorithm"],
    [
      "a version 5 parent of another compressor",
      ["-v", "5", "--compressor", "lz4_block"],
      [],
      "is compressed by lz4_block, and version 5 records",
    ],
  ])("%s", async (_name, below, above, words) => {
    using work = new TemporaryDirectory();
    const parent = await create(work, "parent", "lower", ...below);
    mkdirSync(work.join("out"));
    const argv = ["create", "-v", "5", "--parent-bootstrap", parent, "-D", work.join("out"), "-B", work.join("out/boot"), ...above];
    const { code, stderr } = await run([...argv, temporary.join("upper")]);
    expect([code, stderr.match(/^Error: /gm)?.length, stderr]).toEqual([1, 1, expect.stringContaining(words)]);
    expect(readdirSync(work.join("out"))).toEqual([]);
  });
});

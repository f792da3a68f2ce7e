import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, goldenAbsent, goldenCase, goldenDir, listTree, readListing, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { GoldenSources } from "./golden-blobs.ts";
import { run, TemporaryDirectory } from "./support.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);
const canMount = process.getuid?.() === 0 && readFileSync("/proc/filesystems", "utf8").includes("erofs");
if (!canMount) console.log("exported devices are not mounted: that needs root and a kernel with EROFS");
const hasVeritysetup = spawnSync("veritysetup", ["--version"]).status === 0;
if (!hasVeritysetup) console.log("hash trees are not checked by veritysetup: it is not installed (Debian: cryptsetup-bin)");

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe.skipIf(!hasGolden || process.getuid?.() !== 0)("export --block", () => {
  const temporary = new TemporaryDirectory();
  let sources: GoldenSources;
  beforeAll(() => {
    sources = new GoldenSources(temporary.join("sources"));
  }, 120_000);
  afterAll(() => temporary[Symbol.dispose]());

  async function exportCase(name: string, directory: string, ...options: string[]): Promise<{ path: string; stdout: string }> {
    const golden = goldenCase(name);
    const blobs = sources.blobsOf(golden, join(directory, "blobs"));
    const before = readdirSync(blobs);
    const path = join(directory, "image.disk");
    const { code, stdout, stderr } = await run(["export", "--block", "-B", golden.bootstrapFile!, "-D", blobs, "-O", path, ...options]);
    expect([code, stderr]).toEqual([0, expect.not.stringContaining("Error")]);
    expect(readdirSync(blobs)).toEqual(before);
    return { path, stdout };
  }

  test("plain-v6-export has the original's bytes up to the hash tree", async () => {
    using work = new TemporaryDirectory();
    const { path, stdout } = await exportCase("plain-v6-export", work.path, "--verity");
    const [found, golden] = [readFileSync(path), readFileSync(join(goldenCase("plain-v6-export").directory, "image.disk"))];
    expect(stdout).toContain("--data-block-size=4096 --hash-block-size=4096 --data-blocks 144 --hash-offset 589824 ");
    expect(found.length).toBe(golden.length);
    expect(found.subarray(0, 589824).equals(golden.subarray(0, 589824))).toBe(true);
  });

  test.each(["plain-v6-export-tarfs", "small-v6-cachefiles", "small-v6-toc-cachefiles"])("%s is the original's device", async (name) => {
    using work = new TemporaryDirectory();
    const { path, stdout } = await exportCase(name, work.path);
    const [, size, digest] = /size (\d+) sha256 (\w+)/.exec(readFileSync(join(goldenCase(name).directory, "omitted.txt"), "utf8"))!;
    expect([statSync(path).size, sha256(readFileSync(path)), stdout]).toEqual([Number(size), digest, ""]);
  });

  test
    .skipIf(!canMount)
    .each([
      ...["plain-v6-export", "plain-v6-tarfs", "layers-v6-merge3-tarfs", "small-v6-zstd-blake3", "small-v6-encrypt", "tiny-v6-batch-zstd"],
      ...["big-v6-zran", "layers-v6-merge3", "many-v6-23blobs", "plain-v6-tarfs-shortid"],
    ])("%s: the kernel mounts it, and the tree equals the listing", async (name) => {
    await using work = new Workspace("nydus-image-export");
    const { path } = await exportCase(name, work.directory);
    mkdirSync(work.path("mnt"));
    // Blocks of 512 bytes need a device of such blocks, which a loop device is by itself.
    execFileSync("mount", ["-t", "erofs", "-o", "ro,loop", path, work.path("mnt")]);
    work.defer(() => void execFileSync("umount", [work.path("mnt")]));
    expect(compareListings(await listTree(work.path("mnt")), readListing(goldenCase(name)))).toEqual([]);
  });

  test.skipIf(!hasVeritysetup).each(["plain-v6-export", "plain-v6-tarfs", "big-v6-zran", "many-v6-23blobs"])(
    "%s: veritysetup verifies it by the printed options, and not when a byte differs",
    async (name) => {
      using work = new TemporaryDirectory();
      const { path, stdout } = await exportCase(name, work.path, "--verity");
      const options = /^dm-verity options: (.*) ([0-9a-f]{64})\n$/.exec(stdout)!;
      const words = options[1].replace('-s ""', "-s -").split(" ");
      const verify = () => spawnSync("veritysetup", ["verify", ...words, path, path, options[2]]).status;
      expect(verify()).toBe(0);
      const bytes = readFileSync(path);
      bytes[1030] ^= 1;
      writeFileSync(path, bytes);
      expect(verify()).not.toBe(0);
    },
  );

  test("the default output is <bootstrap name>.disk in the directory of blobs; an older, longer one is replaced whole", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    const blobs = sources.blobsOf(golden, work.join("blobs"));
    const argv = ["export", "--block", "-B", golden.bootstrapFile!, "-D", blobs];
    expect((await run(argv)).code).toBe(0);
    const path = join(blobs, "bootstrap.disk");
    const { size } = statSync(path);
    truncateSync(path, size + 4096);
    expect((await run(argv)).code).toBe(0);
    expect(statSync(path).size).toBe(size);
  });

  test("a blob cache entry in a file says where image and blobs are", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    const backend = { type: "localfs", localfs: { dir: golden.blobDirectory } };
    writeFileSync(
      work.join("entry.json"),
      JSON.stringify({ type: "bootstrap", config_v2: { metadata_path: golden.bootstrapFile, backend } }),
    );
    const { code } = await run(["export", "--block", "-C", work.join("entry.json"), "-O", work.join("disk")]);
    expect([code, readFileSync(work.join("disk")).subarray(0, 4096).equals(readFileSync(golden.bootstrapFile!).subarray(0, 4096))]).toEqual(
      [0, true],
    );
  });

  test.each([
    [["export", "--block"], 2, "--output"],
    [["export", "--block", "-B", "x"], 2, "--localfs-dir"],
    [["export", "-B", "x", "-D", "y"], 2, "--block"],
    [["export", "--block", "-O", "x"], 1, "both option `-C/--config` and `-D/--localfs-dir` are missing"],
    [["export", "--block", "-O", "x", "-C", "y", "-D", "z"], 2, "cannot be used with"],
    [["export", "--block", "--threads", "0", "-O", "x"], 2, "invalid thread number 0, valid range: [1-1024]"],
    [["export", "--block", "--threads", "many", "-O", "x"], 2, "invalid thread number configuration: many"],
  ])("%j ends with status %i", async (argv, code, words) => {
    const outcome = await run(argv);
    expect([outcome.code, outcome.stderr]).toEqual([code, expect.stringContaining(words)]);
  });

  test("version 5 has no such form: one clear line, and nothing is left", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v5-tar");
    const { code, stderr } = await run([
      "export",
      "--block",
      "-B",
      golden.bootstrapFile!,
      "-D",
      golden.blobDirectory!,
      "-O",
      work.join("d"),
    ]);
    expect([code, stderr, readdirSync(work.path)]).toEqual([
      1,
      expect.stringContaining("a version 5 image has no form as a block device"),
      [],
    ]);
  });
});

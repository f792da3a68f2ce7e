/**
 * The original's programs take what ours write. NYDUS_PEER_BIN names the folder of its `nydus-image` and `nydusd`, version 2.2.0 or later; forms
 * that came after 2.2.0 (batches, encryption, tarfs, checksums in chunk info, blobs of `optimize`) are left out if it does not know them.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { copyFileSync, linkSync, mkdirSync, readdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { compareListings, type ListingEntry, listTree, mountsUnder, ownBinaries, run, until, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const peer = process.env["NYDUS_PEER_BIN"];
const why =
  peer === undefined ? "NYDUS_PEER_BIN does not name the original's programs" : process.getuid?.() === 0 ? undefined : "mounts need root";
if (why !== undefined) console.log(`the original does not read our images: ${why}`);

/** Whether its help has a word, which stands for the form of blobs that came with it. */
const knows = (word: string, ...verb: string[]): boolean =>
  why === undefined && spawnSync(join(peer!, "nydus-image"), [...verb, "--help"], { encoding: "utf8" }).stdout.includes(word);

interface Built {
  bootstrap: string;
  blobs: string;
  /** what the image shows */
  tree: string;
}

describe.skipIf(why !== undefined)("the original", () => {
  let workspace: Workspace;
  const path = (...parts: string[]) => workspace.path(...parts);
  const ours = (...argv: string[]) => run(join(ownBinaries, "nydus-image"), argv);
  const theirs = (...argv: string[]) => run(join(peer!, "nydus-image"), argv);

  beforeAll(() => {
    workspace = new Workspace("nydus-peer");
    makeTree(path("lower"), { big: randomBytes(2_700_000), text: "some text\n".repeat(40_000) });
    makeTree(path("upper"), { big: randomBytes(70_000), new: "new" });
    execFileSync("cp", ["-a", `${path("lower")}/.`, path("both")]);
    execFileSync("cp", ["-a", "--remove-destination", `${path("upper")}/.`, path("both")]);
    for (const name of ["lower", "upper"])
      execFileSync("tar", ["--sort=name", "--format=posix", "--xattrs", "-C", path(name), "-cf", path(`${name}.tar`), "."]);
    writeFileSync(path("lower.tar.gz"), gzipSync(readFileSync(path("lower.tar"))));
  });
  afterAll(() => workspace?.[Symbol.asyncDispose]());

  function place(name: string): { bootstrap: string; blobs: string } {
    mkdirSync(path(name, "blobs"), { recursive: true });
    return { bootstrap: path(name, "boot"), blobs: path(name, "blobs") };
  }

  async function create(name: string, source: string, options: readonly string[]): Promise<Built> {
    const { bootstrap, blobs } = place(name);
    await ours("create", "-D", blobs, "-B", bootstrap, ...options, path(source));
    return { bootstrap, blobs, tree: path(source.split(".")[0]!) };
  }

  /** `check`, `unpack` where it takes one blob, and a mount by its daemon. */
  async function expectAccepted({ bootstrap, blobs, tree }: Built, options: { unpack: boolean }): Promise<void> {
    const wanted = comparable(await listTree(tree));
    const { stdout } = await theirs("check", "-B", bootstrap);
    expect(stdout).toContain("RAFS filesystem metadata is valid");
    const name = createHash("sha256").update(bootstrap).digest("hex").slice(0, 8);
    const [blob, ...others] = readdirSync(blobs);
    if (options.unpack && others.length === 0) {
      await theirs("unpack", "-B", bootstrap, "-b", join(blobs, blob!), "--output", path(`${name}.tar`));
      mkdirSync(path(`${name}.out`));
      execFileSync("tar", ["-C", path(`${name}.out`), "--xattrs", "--xattrs-include=*", "-xpf", path(`${name}.tar`)], { stdio: "pipe" });
      const found = comparable(await listTree(path(`${name}.out`)));
      // A tar of its form has whole seconds.
      expect(compareListings(found, wanted, { ignore: ["nsec"] })).toEqual([]);
    }
    await withDaemon({ name, bootstrap, blobs }, async (mountpoint) => {
      expect(compareListings(comparable(await listTree(mountpoint)), wanted)).toEqual([]);
    });
  }

  async function withDaemon(
    { name, bootstrap, blobs }: { name: string; bootstrap: string; blobs: string },
    use: (mountpoint: string) => Promise<void>,
  ): Promise<void> {
    const [mountpoint, cache, config] = [path(`${name}.mnt`), path(`${name}.cache`), path(`${name}.json`)];
    mkdirSync(mountpoint);
    mkdirSync(cache);
    const device = { backend: { type: "localfs", config: { dir: blobs } }, cache: { type: "blobcache", config: { work_dir: cache } } };
    writeFileSync(config, JSON.stringify({ device, mode: "direct", enable_xattr: true }));
    const program = workspace.start({
      command: join(peer!, "nydusd"),
      args: ["fuse", "--rlimit-nofile", "0", "-C", config, "-B", bootstrap, "-M", mountpoint, "--apisock", path(`${name}.sock`)],
      logFile: path(`${name}.log`),
    });
    try {
      const isMounted = await until(`${name} is mounted`, () =>
        program.running ? mountsUnder(mountpoint).length > 0 || undefined : "ended",
      );
      if (isMounted === "ended") throw new Error(`its nydusd ended:\n${program.tail()}`);
      await use(mountpoint);
    } finally {
      await program.stop();
      for (const left of mountsUnder(mountpoint)) execFileSync("umount", [left]);
    }
  }

  const plain: Array<[name: string, source: string, options: string[]]> = [];
  for (const version of ["5", "6"])
    for (const compressor of ["none", "lz4_block", "zstd"])
      for (const digester of ["blake3", "sha256"])
        plain.push([`${version}-${compressor}-${digester}`, "lower", ["-v", version, "--compressor", compressor, "--digester", digester]]);
  for (const version of ["5", "6"])
    for (const size of ["0x1000", "0x10000", "0x1000000"])
      plain.push([`${version}-chunks-of-${size}`, "lower", ["-v", version, "--chunk-size", size]]);
  plain.push(
    ["5-aligned", "lower", ["-v", "5", "--aligned-chunk"]],
    ["5-tar", "lower.tar", ["-v", "5", "-t", "tar-rafs"]],
    ["6-tar", "lower.tar", ["-t", "tar-rafs"]],
    ["6-targz", "lower.tar.gz", ["-t", "targz-rafs"]],
    ["6-toc", "lower", ["--features", "blob-toc"]],
  );
  test.each(plain)("%s: check, unpack and a mount", async (name, source, options) => {
    await expectAccepted(await create(name, source, options), { unpack: true });
  });

  test("a gzip layer that stays as it is", async () => {
    await expectAccepted(await reference("zran", "lower.tar.gz"), { unpack: false });
  });

  // Version 2.2.0 reads no chunk info with checksums.
  test.skipIf(!knows("--attributes", "create"))("a tar that stays as it is", async () => {
    await expectAccepted(await reference("tar-ref", "lower.tar"), { unpack: false });
  });

  async function reference(name: string, source: string): Promise<Built> {
    const built = await create(name, source, ["-t", "targz-ref"]);
    copyFileSync(path(source), join(built.blobs, sha256(readFileSync(path(source)))));
    return built;
  }

  test.each(["5", "6"])("version %s: an upper layer on a parent, and the same merged", async (version) => {
    const built = await onParent(`${version}-parent`, version);
    await expectAccepted(built, { unpack: false });
    const { blobs } = built;
    const [lower, upper, merged] = [path(`${version}-parent`, "below"), path(`${version}-upper`), path(`${version}-merged`)];
    await ours("create", "-v", version, "-D", blobs, "-B", upper, "-J", path(`${version}.json`), path("upper"));
    const id = (JSON.parse(readFileSync(path(`${version}.json`), "utf8")) as { blobs: string[] }).blobs[0]!;
    await ours("merge", "--parent-bootstrap", lower, "--original-blob-ids", id, "-B", merged, upper);
    await expectAccepted({ ...built, bootstrap: merged }, { unpack: false });
  });

  test("version 5 on a parent of version 6", async () => {
    const { blobs, bootstrap } = place("5-on-6");
    await ours("create", "-v", "6", "-D", blobs, "-B", path("6-below"), path("lower"));
    await ours("create", "-v", "5", "-D", blobs, "-B", bootstrap, "--parent-bootstrap", path("6-below"), path("upper"));
    await expectAccepted({ bootstrap, blobs, tree: path("both") }, { unpack: false });
  });

  test.each([
    ["5", []],
    ["6", []],
    ["6", ["--features", "blob-toc"]],
  ])("version %s %j: bootstraps that lie in their blobs, merged", async (version, options) => {
    const name = `${version}-inline${options.length}`;
    const { blobs, bootstrap } = place(name);
    const layers: string[] = [];
    for (const layer of ["lower", "upper"]) {
      const argv = ["create", "-t", "tar-rafs", "-v", version, "--blob-inline-meta", ...options, "-D", blobs, "-J", path("inline.json")];
      await ours(...argv, path(`${layer}.tar`));
      layers.push(join(blobs, (JSON.parse(readFileSync(path("inline.json"), "utf8")) as { blobs: string[] }).blobs[0]!));
    }
    await ours("merge", "-B", bootstrap, ...layers);
    await expectAccepted({ bootstrap, blobs, tree: path("both") }, { unpack: false });
  });

  async function onParent(name: string, version: string): Promise<Built> {
    const { blobs, bootstrap } = place(name);
    const below = path(name, "below");
    await ours("create", "-v", version, "-D", blobs, "-B", below, path("lower"));
    await ours("create", "-v", version, "-D", blobs, "-B", bootstrap, "--parent-bootstrap", below, path("upper"));
    return { bootstrap, blobs, tree: path("both") };
  }

  test.each(["5", "6"])("version %s: what compact writes", async (version) => {
    const before = await onParent(`${version}-compact`, version);
    const after = path(`${version}-compacted`);
    await ours("compact", "-B", before.bootstrap, "-D", before.blobs, "--min-used-ratio", "100", "-O", after);
    await expectAccepted({ ...before, bootstrap: after }, { unpack: false });
  });

  // The kind of blob came with the command.
  test.skipIf(!knows("optimize")).each(["5", "6"])("version %s: what optimize writes", async (version) => {
    const before = await onParent(`${version}-optimize`, version);
    const after = path(`${version}-optimised`);
    writeFileSync(path("list"), JSON.stringify({ version: "v1", files: [{ path: "/text" }, { path: "/sub/3" }] }));
    const argv = [
      "optimize",
      "-B",
      before.bootstrap,
      "-D",
      before.blobs,
      "--output-blob-dir",
      before.blobs,
      "-p",
      path("list"),
      "-O",
      after,
    ];
    await ours(...argv);
    await expectAccepted({ ...before, bootstrap: after }, { unpack: false });
  });

  test.skipIf(!knows("--batch-size", "create")).each([
    ["batches", ["--batch-size", "0x100000"]],
    ["batches, encrypted", ["--batch-size", "0x100000", "--encrypt"]],
  ])("%s", async (name, options) => {
    await expectAccepted(await create(name.replace(", ", "-"), "lower", options), { unpack: false });
  });

  test.skipIf(!knows("--encrypt", "create"))("an encrypted blob", async () => {
    await expectAccepted(await create("encrypted", "lower", ["--encrypt"]), { unpack: false });
  });

  test.skipIf(!knows("tar-tarfs", "create"))("a tar that is its own blob: check", async () => {
    const { bootstrap } = await create("tarfs", "lower.tar", ["-t", "tar-tarfs"]);
    expect((await theirs("check", "-B", bootstrap)).stdout).toContain("RAFS filesystem metadata is valid");
  });
});

describe.skipIf(why !== undefined)("ours read", () => {
  test.each([
    ["5", "none", "lower", []],
    ["5", "lz4_block", "lower", ["--aligned-chunk"]],
    ["6", "zstd", "lower", ["--chunk-size", "0x10000"]],
    ["6", "lz4_block", "lower", ["--digester", "sha256", "--features", "blob-toc"]],
    ["6", "zstd", "lower.tar", ["-t", "tar-rafs"]],
  ])("what the original writes: version %s, %s, of %s, %j", async (version, compressor, source, options) => {
    await using workspace = new Workspace("nydus-peer");
    const path = (...parts: string[]) => workspace.path(...parts);
    makeTree(path("lower"), { big: randomBytes(1_700_000), text: "some text\n".repeat(40_000) });
    execFileSync("tar", ["--sort=name", "--format=posix", "--xattrs", "-C", path("lower"), "-cf", path("lower.tar"), "."]);
    for (const name of ["blobs", "out"]) mkdirSync(path(name));
    const type = options.includes("-t") ? [] : ["-t", "dir-rafs"];
    const argv = ["create", ...type, "-v", version, "--compressor", compressor, ...options, "-D", path("blobs"), "-B", path("boot")];
    await run(join(peer!, "nydus-image"), [...argv, path(source)]);
    await run(join(ownBinaries, "nydus-image"), ["check", "-B", path("boot")]);
    await run(join(ownBinaries, "nydus-image"), ["unpack", "-D", path("blobs"), "--output", path("out.tar"), path("boot")]);
    execFileSync("tar", ["-C", path("out"), "--xattrs", "--xattrs-include=*", "-xpf", path("out.tar")], { stdio: "pipe" });
    const [found, wanted] = [comparable(await listTree(path("out"))), comparable(await listTree(path("lower")))];
    expect(compareListings(found, wanted, { ignore: ["nsec"] })).toEqual([]);
  });
});

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

function makeTree(root: string, files: Readonly<Record<string, string | Buffer>>): void {
  mkdirSync(join(root, "sub/deep"), { recursive: true });
  for (const [name, content] of Object.entries(files)) writeFileSync(join(root, name), content);
  for (let i = 0; i < 12; i++) writeFileSync(join(root, "sub", String(i)), randomBytes(i * 999), { mode: i % 2 === 0 ? 0o4755 : 0o600 });
  linkSync(join(root, "sub/7"), join(root, "sub/deep/seven"));
  symlinkSync("../big", join(root, "sub/link"));
  execFileSync("python3", ["-c", "import os, sys; os.setxattr(sys.argv[1], 'user.note', b'something')", join(root, "big")]);
  for (const name of ["sub/deep/seven", "sub/deep", "sub"]) utimesSync(join(root, name), 1_700_000_000.25, 1_600_000_000.25);
}

/** Without what a file system of another kind says differently: the root's time, and sizes and link counts of directories. */
function comparable(listing: readonly ListingEntry[]): ListingEntry[] {
  return listing.filter(({ path }) => path !== "/").map((entry) => (entry.type === "dir" ? { ...entry, size: 0, nlink: 0 } : entry));
}

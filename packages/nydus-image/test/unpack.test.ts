import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { compareListings, damagedCases, goldenAbsent, goldenCase, goldenCases, goldenDir, listTree, readListing } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bootstrapOf, GoldenSources } from "./golden-blobs.ts";
import { run, TemporaryDirectory } from "./support.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);
const isRoot = process.getuid?.() === 0;
if (!isRoot) console.log("unpacking is compared with listings only as root: devices and owners need it");

/** No blob of these is kept, or the original wrote one that nobody can read: wrong offsets; chunks said to be encrypted, and no key. */
const withoutData = new Set([
  ...["small-v6-cachedir", "big-v5-1m-zstd", "big-v6-16m-zstd", "big-v6-1m-none"],
  ...["small-v6-offset", "tiny-v6-optimize"],
]);

describe.skipIf(!hasGolden)("unpacking", () => {
  const temporary = new TemporaryDirectory();
  let sources: GoldenSources;
  beforeAll(() => {
    if (isRoot) sources = new GoldenSources(temporary.join("sources"));
  }, 120_000);
  afterAll(() => temporary[Symbol.dispose]());

  test.skipIf(!isRoot).each(goldenCases().filter(({ hasListing, name }) => hasListing && !withoutData.has(name)))(
    "$name becomes a tar whose tree equals the listing",
    async (golden) => {
      using work = new TemporaryDirectory();
      const blobs = sources.blobsOf(golden, work.join("blobs"));
      const { code, stderr } = await run(["unpack", "-D", blobs, "--output", work.join("image.tar"), bootstrapOf(golden, blobs)]);
      expect([code, stderr]).toEqual([0, ""]);
      mkdirSync(work.join("tree"));
      execFileSync("tar", ["-C", work.join("tree"), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", work.join("image.tar")]);
      const found = (await listTree(work.join("tree"))).filter(({ path }) => path !== "/");
      // A tar has neither the root, nor sockets, nor parts of seconds; sizes of directories are the file system's own.
      const wanted = readListing(golden)
        .filter(({ path, type }) => path !== "/" && type !== "socket")
        .map((entry) => (entry.type === "dir" ? { ...entry, size: 0 } : entry));
      const listed = found.map((entry) => (entry.type === "dir" ? { ...entry, size: 0 } : entry));
      expect(compareListings(listed, wanted, { ignore: ["nsec"] })).toEqual([]);
    },
  );

  test("a named pipe gets the tar, and stays a pipe", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    execFileSync("mkfifo", [work.join("pipe")]);
    const reader = spawn("tar", ["-tBf", work.join("pipe")], { stdio: ["ignore", "pipe", "inherit"] });
    let listed = "";
    reader.stdout.on("data", (part) => (listed += part));
    const ended = new Promise((resolve) => reader.on("close", resolve));
    const { stderr } = await run(["unpack", "-D", golden.blobDirectory!, "--output", work.join("pipe"), golden.bootstrapFile!]);
    expect([stderr, await ended, readdirSync(work.path)]).toEqual(["", 0, ["pipe"]]);
    const names = [...openBootstrap(readFileSync(golden.bootstrapFile!)).walk()];
    expect(listed.trimEnd().split("\n")).toHaveLength(names.length - 1);
  });

  test.each(damagedCases().map(({ name }) => name))("damaged image %s: refused, or a tar whose names stay inside", async (name) => {
    using work = new TemporaryDirectory();
    const damaged = damagedCases().find((entry) => entry.name === name)!;
    const blobs = readdirSync(damaged.directory).includes("blobs") ? join(damaged.directory, "blobs") : damaged.directory;
    for (const file of readdirSync(damaged.directory).filter((entry) => !/\.(txt|json)$|^blobs$/.test(entry))) {
      const { code, stderr } = await run(["unpack", "-D", blobs, "--output", work.join("t"), join(damaged.directory, file)]);
      if (code === 0) expect(tarNames(work.join("t")).filter((entry) => /^\/|(^|\/)\.{0,2}(\/|$)/.test(entry))).toEqual([]);
      else expect([code, stderr.match(/^Error: /gm)?.length, readdirSync(work.path)]).toEqual([1, 1, []]);
    }
  });

  test("a flipped bit in a blob is told, and no tar is left", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    const blob = openBootstrap(readFileSync(golden.bootstrapFile!)).blobs[0].id;
    mkdirSync(work.join("blobs"));
    const bytes = readFileSync(join(golden.blobDirectory!, blob));
    bytes[100] ^= 1;
    writeFileSync(work.join("blobs", blob), bytes);
    const { code, stderr } = await run(["unpack", "-D", work.join("blobs"), "--output", work.join("image.tar"), golden.bootstrapFile!]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/stored at \d+: /)]);
    expect(readdirSync(work.path)).toEqual(["blobs"]);
  });

  test("a blob that is not there is one clear line, and no tar is left", async () => {
    using work = new TemporaryDirectory();
    const missing = await run(["unpack", "-D", work.path, "--output", work.join("t"), goldenCase("plain-v6-tar").bootstrapFile!]);
    expect([missing.code, missing.stderr]).toEqual([1, expect.stringContaining("not found")]);
    expect(readdirSync(work.path)).toEqual([]);
  });
});

describe("names that lead out of the tree", () => {
  test.each([
    ["5", "name-1", "../../"],
    ["6", "name-1", "../../"],
    ["6", "name-1", "/name-"],
    ["6", "..name", "..\0\0\0\0"],
    ["6", "name-2", "name-1"],
    ["5", "name-2", "name-1"],
  ])("version %s: %j that says %j is refused, and no tar is left", async (version, name, replacement) => {
    using work = new TemporaryDirectory();
    mkdirSync(work.join("source/name-2"), { recursive: true });
    mkdirSync(work.join("blobs"));
    // With the second name changed to the first, what lies in the directory would follow the link.
    symlinkSync("/etc", work.join("source/name-1"));
    writeFileSync(work.join("source/name-2/passwd"), "x");
    writeFileSync(work.join("source/..name"), "y");
    await run(["create", "-v", version, "-D", work.join("blobs"), "-B", work.join("boot"), work.join("source")]);
    const bytes = readFileSync(work.join("boot"));
    const at = bytes.indexOf(name);
    expect(at).toBeGreaterThan(0);
    bytes.write(replacement, at, "latin1");
    writeFileSync(work.join("boot"), bytes);
    const { code, stderr } = await run(["unpack", "-D", work.join("blobs"), "--output", work.join("t"), work.join("boot")]);
    expect([code, stderr.match(/^Error: /gm)?.length]).toEqual([1, 1]);
    expect(stderr).toMatch(/name|order/);
    expect(readdirSync(work.path).sort()).toEqual(["blobs", "boot", "boot.external", "source"]);
  });
});

function tarNames(path: string): string[] {
  return execFileSync("tar", ["-tPf", path, "--quoting-style=escape"], { maxBuffer: 2 ** 26 })
    .toString()
    .trimEnd()
    .split("\n")
    .map((name) => name.replace(/\/$/, ""));
}

/** Recorded command lines of the original, run here. Where it built on a lower layer, so do we: on the bootstrap that it wrote. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir, jsonBytes, readListing } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, TemporaryDirectory } from "./support.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

const tocFile = { name: "a", type: "reg", size: 5, offset: 1, chunkDigest: `sha256:${"0".repeat(64)}` };

function toc(...entries: object[]): string {
  return JSON.stringify({ version: 1, entries });
}

describe.skipIf(!hasGolden)("recorded command lines", () => {
  const temporary = new TemporaryDirectory();
  beforeAll(() => {
    execFileSync("bash", [join(goldenDir()!, "make-sources.sh"), temporary.join("sources")]);
  }, 60_000);
  afterAll(() => temporary[Symbol.dispose]());

  /** Runs the command lines of a case that begin with one of `verbs`, in a directory of its own. */
  async function repeat(name: string, verbs: readonly string[]): Promise<string> {
    const golden = goldenCase(name).directory;
    const out = temporary.join(name);
    for (const directory of ["blobs", "cache"]) mkdirSync(join(out, directory), { recursive: true });
    for (const line of readFileSync(join(golden, "cmd.txt"), "utf8").split("\n")) {
      const [command, stdin] = line.split(" < ");
      const [program, verb, ...argv] = command.split(" ");
      if (program !== "nydus-image" || !verbs.includes(verb)) continue;
      const path = (text: string, i = 0) => {
        const isInput = verb === "merge" || argv[i - 1] === "--parent-bootstrap" || argv[i - 1] === "--chunk-dict";
        const name = /\$OUT\/(.+\.boot)$/.exec(text)?.[1];
        const isRecorded = isInput && name !== undefined && existsSync(join(golden, name));
        return text.replace("$OUT", isRecorded ? golden : out).replace("$SRC", temporary.join("sources"));
      };
      const { code, stderr } = await run([verb, ...argv.map(path)], { stdin: stdin ? readFileSync(path(stdin), "utf8") : "" });
      expect([code, stderr]).toEqual([0, expect.not.stringContaining("Error")]);
    }
    return out;
  }

  /** The JSON file without what names versions, directories and times. */
  function readJson(directory: string): unknown {
    const json = JSON.parse(readFileSync(join(directory, "output.json"), "utf8"));
    const { version, trace, ...rest } = json;
    return {
      ...rest,
      bootstrap: basename(json.bootstrap),
      external_bootstrap: basename(json.external_bootstrap),
      events: trace.registered_events,
    };
  }

  function filesOf(directory: string): string[] {
    return existsSync(directory) ? readdirSync(directory) : [];
  }

  test.each([
    "small-v5-none-blake3",
    "wide-v5",
    "plain-v6-zran",
    "plain-v6-zran-2members",
    "plain-v6-zran-toc",
    "plain-v6-zran-inline",
    "plain-v6-zran-inline-toc",
    "plain-v6-tarref",
    "plain-v6-tarfs",
    "big-v6-tarfs",
    "tiny-v6-batch-none",
    "small-v6-cachedir",
    "many-v6-23blobs",
  ])("%s: the same files, the same JSON", async (name) => {
    const golden = goldenCase(name).directory;
    const out = await repeat(name, ["create"]);
    if (existsSync(join(golden, "bootstrap"))) {
      expect(readFileSync(join(out, "bootstrap")).equals(readFileSync(join(golden, "bootstrap")))).toBe(true);
    }
    for (const directory of ["blobs", "cache"]) {
      expect(filesOf(join(out, directory))).toEqual(filesOf(join(golden, directory)));
      for (const file of filesOf(join(golden, directory))) {
        expect(readFileSync(join(out, directory, file)).equals(readFileSync(join(golden, directory, file)))).toBe(true);
      }
    }
    expect(readJson(out)).toEqual(readJson(golden));
  });

  test.each([
    "layers-v5-chunkdict",
    "layers-v6-chunkdict",
    "layers-v5-parent",
    "layers-v6-parent",
    "layers-v6-parent-ovl",
    "layers-v6-parent3",
    // The tar lies there under its short name too, put by hand.
    "plain-v6-tarfs-shortid",
  ])("%s: the same bootstrap, the same JSON", async (name) => {
    const golden = goldenCase(name).directory;
    const out = await repeat(name, ["create"]);
    expect(readFileSync(join(out, "bootstrap")).equals(readFileSync(join(golden, "bootstrap")))).toBe(true);
    expect(readJson(out)).toEqual(readJson(golden));
  });

  test("ext-v6: both bootstraps, the files of blobs, the JSON", async () => {
    const golden = goldenCase("ext-v6").directory;
    const out = await repeat("ext-v6", ["create"]);
    for (const file of ["bootstrap", "bootstrap.external", "ext.blob"])
      expect([file, readFileSync(join(out, file)).equals(readFileSync(join(golden, file)))]).toEqual([file, true]);
    expect(filesOf(join(out, "blobs"))).toEqual(filesOf(join(golden, "blobs")));
    expect(readJson(out)).toEqual(readJson(golden));
  });

  test("plain-v6-estargztoc, where the original aborts: every file reads back from the layer itself", async () => {
    const layer = temporary.join("sources/plain.estargz");
    const out = temporary.join("estargztoc");
    mkdirSync(out);
    const id = createHash("sha256").update(readFileSync(layer)).digest("hex");
    const size = statSync(layer).size.toString(16);
    const argv = ["-t", "estargztoc-ref", "--blob-id", id, "--blob-data-size", `0x${size}`, "--chunk-size", "0x4000", "-B", join(out, "b")];
    expect((await run(["create", ...argv, temporary.join("sources/plain.estargz.toc.json")])).code).toBe(0);
    const unpacked = await run(["unpack", "-b", layer, "--output", join(out, "tar"), join(out, "b")]);
    expect([unpacked.code, unpacked.stderr]).toEqual([0, expect.not.stringContaining("Error")]);
    const bootstrap = openBootstrap(readFileSync(join(out, "b")));
    const shown = Array.from(bootstrap.walk(), ({ path, inode }) => [
      jsonBytes(path),
      inode.type,
      inode.mode,
      inode.uid,
      inode.gid,
      inode.nlink,
    ]);
    const listing = readListing(goldenCase("plain-v6-estargz-rafs"));
    const typeBits = (mode: number) => mode & ~0o7777;
    expect(shown).toEqual(
      listing.map(({ path, type, mode, uid, gid, nlink }, i) => [
        path,
        type,
        typeBits(shown[i][2] as number) | Number.parseInt(mode, 8),
        uid,
        gid,
        nlink,
      ]),
    );
    execFileSync("tar", ["-xf", join(out, "tar"), "-C", out]);
    const files = listing.filter(({ type }) => type === "file");
    expect(files.length).toBeGreaterThan(5);
    for (const { path, sha256 } of files) {
      expect([
        path,
        createHash("sha256")
          .update(readFileSync(join(out, path as string)))
          .digest("hex"),
      ]).toEqual([path, sha256]);
    }
  });

  test.each([
    ["no JSON", "{", "is no JSON"],
    ["another version", '{"version":2,"entries":[{"name":"a","type":"dir"}]}', "unknown version 2"],
    ["nothing in it", '{"version":1,"entries":[]}', "has no entries"],
    ["an unknown kind", toc({ name: "a", type: "odd" }), 'unknown type "odd"'],
    ["no digest", toc({ name: "a", type: "reg", size: 5, offset: 1 }), "is missing digest or chunk digest"],
    ["a chunk without its file", toc({ name: "a", type: "chunk", chunkOffset: 4096 }), "is a chunk without its file"],
    ["a file that is cut off", toc({ ...tocFile, size: 0x10000, chunkSize: 0x4000 }), "has 65536 bytes but 1 chunks"],
    ["chunks of another size", toc({ ...tocFile, size: 0x10000, chunkSize: 0x8000 }), "which chunks of 16384 bytes do not give"],
    ["data outside the layer", toc({ ...tocFile, offset: 99999 }), "lies at 99999 of a layer of 4096 bytes"],
    ["two at one place", toc(tocFile, { ...tocFile, name: "b", chunkDigest: `sha256:${"1".repeat(64)}` }), "two chunks"],
    ["shared members", toc({ ...tocFile, innerOffset: 7 }), "shares its gzip member"],
    ["a size that is none", toc({ ...tocFile, size: -1 }), "has a size that is no size"],
  ])("a table of contents with %s is refused in one line", async (_, json, words) => {
    const path = temporary.join("toc.json");
    writeFileSync(path, json);
    const out = temporary.join("toc-refused");
    mkdirSync(out, { recursive: true });
    const argv = ["-t", "estargztoc-ref", "--blob-id", "x", "--blob-data-size", "1000", "--chunk-size", "0x4000", "-B", join(out, "b")];
    const { code, stderr } = await run(["create", ...argv, path]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
    expect(readdirSync(out)).toEqual([]);
  });

  test.each(["layers-v5-merge3", "layers-v6-merge3-tarfs"])("%s: merge writes the original's bootstrap", async (name) => {
    const out = await repeat(name, ["merge"]);
    expect(readFileSync(join(out, "bootstrap")).equals(readFileSync(goldenCase(name).bootstrapFile!))).toBe(true);
  });

  test.each([
    ["targz-ref", ["--prefetch-policy", "blob"], "conversion type targz-ref conflicts with '--prefetch-policy blob'"],
    ["targz-ref", ["-v", "5"], "'--fs-version 5' conflicts with conversion type 'targz-ref', only V6 is supported"],
    ["targz-ref", ["--blob-id", "x"], "conversion type 'targz-ref' conflicts with '--blob-id'"],
    ["targz-ref", ["--encrypt"], "conversion type 'targz-ref' conflicts with '--encrypt'"],
    ["targz-ref", ["--batch-size", "0x1000"], "unsupported ConversionType for batch chunk: targz-ref"],
    ["tar-tarfs", ["--chunk-dict", "x"], "conversion type 'tar-tarfs' conflicts with '--chunk-dict'"],
    ["tar-tarfs", ["--parent-bootstrap", "x"], "conversion type 'tar-tarfs' conflicts with '--parent-bootstrap'"],
    ["tar-tarfs", ["--features", "blob-toc"], "conversion type 'tar-tarfs' conflicts with '--features blob-toc'"],
    ["tar-rafs", ["--batch-size", "0x1000", "-v", "5"], "`--batch-size` with non-zero value conflicts with `--fs-version 5`"],
    ["tar-rafs", ["--batch-size", "0x200000"], "batch size 0x200000 is bigger than chunk size 0x100000"],
    ["tar-rafs", ["--batch-size", "0x1800"], "invalid batch size: 6144"],
    ["tar-rafs", ["--encrypt", "-v", "5"], "'--encrypt' conflicts with '--fs-version 5'"],
    ["tar-rafs", ["--chunk-dict", "rafs=x"], "invalid chunk dict type rafs"],
    ["tar-rafs", ["--chunk-dict", "/nonexistent/boot"], 'load chunk dict bootstrap "/nonexistent/boot"'],
  ])("%s %j is refused, and nothing is written", async (type, argv, words) => {
    const out = temporary.join("refused");
    mkdirSync(out, { recursive: true });
    const { code, stderr } = await run([
      "create",
      "-t",
      type,
      "-D",
      out,
      "-B",
      join(out, "b"),
      ...argv,
      temporary.join("sources/plain.tar"),
    ]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
    expect(readdirSync(out)).toEqual([]);
  });

  test("--chunk-dict of another version is refused", async () => {
    const out = temporary.join("other-version");
    mkdirSync(out, { recursive: true });
    const below = join(goldenCase("layers-v5-parent").directory, "parent.boot");
    const argv = ["create", "-D", out, "-B", join(out, "b"), "--chunk-dict", below, temporary.join("sources/layer2")];
    const { code, stderr } = await run(argv);
    expect([code, stderr]).toEqual([1, expect.stringContaining("Using inconsistent RAFS version V5, target RAFS version V6")]);
    expect(readdirSync(out)).toEqual([]);
  });
});

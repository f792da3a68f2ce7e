import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { hasFeature, openBootstrap } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { GoldenSources } from "./golden-blobs.ts";
import { run, TemporaryDirectory } from "./support.ts";
import { sameTree } from "./trees.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

describe.skipIf(!hasGolden || process.getuid?.() !== 0)("optimize", () => {
  const temporary = new TemporaryDirectory();
  let sources: GoldenSources;
  beforeAll(() => {
    sources = new GoldenSources(temporary.join("sources"));
  }, 120_000);
  afterAll(() => temporary[Symbol.dispose]());

  /** Optimizes an image; its blobs, and the new one, are in `work`. */
  async function optimize(name: string, bootstrap: string, list: string, work: TemporaryDirectory): Promise<string> {
    const blobs = sources.blobsOf(goldenCase(name), work.join("blobs"));
    const argv = ["optimize", "-B", bootstrap, "-D", blobs, "--output-blob-dir", work.join("new"), "--prefetch-files", list];
    mkdirSync(work.join("new"));
    const { code, stdout, stderr } = await run([...argv, "-O", work.join("bootstrap"), "-J", work.join("output.json")]);
    expect([code, stdout, stderr]).toEqual([0, "", expect.not.stringContaining("Error")]);
    return work.join("bootstrap");
  }

  test("small-v5-optimize: the original's bootstrap, blob and JSON", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("small-v5-optimize");
    const found = await optimize(golden.name, join(golden.directory, "in.boot"), join(sources.path, "optimize.json"), work);
    const [blob] = readdirSync(work.join("new"));
    expect(readdirSync(golden.blobDirectory!)).toContain(blob);
    expect(readFileSync(work.join("new", blob)).equals(readFileSync(join(golden.blobDirectory!, blob)))).toBe(true);
    expect(readFileSync(found).equals(readFileSync(golden.bootstrapFile!))).toBe(true);
    const json = (path: string) => {
      const { version, trace, ...rest } = JSON.parse(readFileSync(path, "utf8"));
      return { ...rest, bootstrap: basename(rest.bootstrap) };
    };
    expect(json(work.join("output.json"))).toEqual(json(join(golden.directory, "output.json")));
  });

  test("small-v6-optimize: the original's data, in a blob that its record describes", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("small-v6-optimize");
    const found = openBootstrap(
      readFileSync(await optimize(golden.name, join(golden.directory, "in.boot"), join(sources.path, "optimize.json"), work)),
    );
    const theirs = openBootstrap(readFileSync(golden.bootstrapFile!)).blobs[1];
    const ours = found.blobs[1];
    const dataBytes = theirs.compressedSize;
    expect([ours.ciOffset, ours.chunkCount, ours.uncompressedSize]).toEqual([dataBytes + 512, theirs.chunkCount, theirs.uncompressedSize]);
    expect(hasFeature(ours, "separatedWithPrefetchFiles")).toBe(true);
    const read = (path: string) => readFileSync(path).subarray(0, dataBytes + 512 + ours.ciCompressedSize);
    expect(read(work.join("new", ours.id)).equals(read(join(golden.blobDirectory!, theirs.id)))).toBe(true);
  });

  test.each([
    ["small-v6-optimize", "in.boot", ["/text40k", "/a/b/link1", "/missing", "/a"]],
    ["small-v5-optimize", "in.boot", ["/text40k", "/a/b/link1"]],
    ["tiny-v6-optimize", "in.boot", ["/mid", "/r"]],
    ["small-v6-chunk4k", "bootstrap", ["/text40k", "/rand20k"]],
    ["small-v6-toc", "bootstrap", ["/text40k", "/text40k"]],
    ["small-v6-lz4_block-sha256", "bootstrap", ["/rand20k"]],
    ["plain-v6-zran", "bootstrap", "*"],
    ["big-v6-zran", "bootstrap", "*"],
    ["layers-v6-merge3", "bootstrap", "*"],
  ])("%s: the result passes the check, and shows the same tree", async (name, bootstrap, paths) => {
    using work = new TemporaryDirectory();
    const golden = goldenCase(name);
    const image = join(golden.directory, bootstrap);
    const before = openBootstrap(readFileSync(image));
    const all = [...before.walk()].filter(({ inode }) => inode.type === "file").map(({ path }) => Buffer.from(path).toString());
    const listed = paths === "*" ? all.slice(0, 12) : (paths as string[]);
    writeFileSync(work.join("list.json"), JSON.stringify({ version: "v1", files: listed.map((path) => ({ path })) }));
    const found = await optimize(name, image, work.join("list.json"), work);
    expect((await run(["check", found])).code).toBe(0);
    const after = openBootstrap(readFileSync(found));
    for (const path of listed) {
      const nid = after.resolve(path);
      if (nid === undefined || after.inode(nid).type !== "file") continue;
      expect(Array.from(after.chunksOf(nid), ({ blobIndex }) => blobIndex)).toEqual(
        Array.from(after.chunksOf(nid), () => before.blobs.length),
      );
    }
    const blobs = work.join("blobs");
    for (const id of readdirSync(work.join("new"))) writeFileSync(join(blobs, id), readFileSync(work.join("new", id)));
    await sameTree(work, { bootstrap: image, blobs }, { bootstrap: found, blobs });
    expect([after.chunkSize, after.flags & 0x5fn]).toEqual([before.chunkSize, before.flags & 0x5fn]);
  });

  test.each([
    ['{"version":"v2","files":[]}', "unsupported prefetch file version: v2"],
    ["{", "failed to parse prefetch file as JSON"],
    ['{"version":"v1","files":[{"path":"/a","ranges":[[1]]}]}', "files[0].ranges[0] is not [offset, size]"],
  ])("the list %s is refused in one line, and nothing is written", async (text, words) => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    writeFileSync(work.join("list"), text);
    mkdirSync(work.join("new"));
    const argv = ["optimize", "-B", golden.bootstrapFile!, "-D", golden.blobDirectory!, "--output-blob-dir", work.join("new")];
    const { code, stderr } = await run([...argv, "-p", work.join("list"), "-O", work.join("out")]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
    expect([readdirSync(work.path).sort(), readdirSync(work.join("new"))]).toEqual([["list", "new"], []]);
  });

  test("what must be given is told in the original's order", async () => {
    expect((await run(["optimize", "-B", "x"])).stderr).toContain("missing parameter `output-blob-dir`");
    expect((await run(["optimize", "-B", "x", "--output-blob-dir", "y"])).stderr).toContain("missing parameter `prefetch-files`");
    expect((await run(["optimize"])).code).toBe(2);
  });
});

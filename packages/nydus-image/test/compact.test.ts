import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { newBlobEntry, type StoredChunk } from "@nydus-ts/rafs-format/writer";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { defaultOutput } from "../src/commands/compact.ts";
import { planCompaction } from "../src/compaction.ts";
import { GoldenSources } from "./golden-blobs.ts";
import { run, TemporaryDirectory } from "./support.ts";
import { sameTree } from "./trees.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

describe("the plan of a compaction", () => {
  const limits = { minUsedRatio: 50, compactBlobBytes: 100, maxCompactBytes: 150 };
  const blob = (id: string, dataBytes: number, used: readonly number[]) => {
    const blob = { ...newBlobEntry({ id, chunkSize: 4096, compressor: 0, digester: 0, features: 0 }), compressedSize: dataBytes };
    const chunks = used.map((compressedSize, index) => ({ blob, index, compressedSize, uncompressedSize: compressedSize }) as StoredChunk);
    return { blob, dataBytes, chunks };
  };
  const plan = (...uses: ReturnType<typeof blob>[]) =>
    planCompaction(uses, limits, () => {}).map((fate) =>
      typeof fate === "string" ? fate : fate.chunks.map(({ blob: { id } }) => id).join(""),
    );

  test("what nobody uses goes, what is used enough stays, the rest is written anew", () => {
    expect(plan(blob("a", 1000, []), blob("b", 1000, [500]), blob("c", 1000, [499]))).toEqual(["drop", "keep", "c"]);
  });

  test("small blobs are joined, smallest first, while the result is not too large", () => {
    expect(plan(blob("a", 90, [90]), blob("b", 40, [40]), blob("c", 99, [99]), blob("d", 100, [100]))).toEqual([
      "drop",
      "ba",
      "keep",
      "keep",
    ]);
  });

  test("one small blob alone stays", () => {
    expect(plan(blob("a", 90, [90]), blob("b", 1000, [1000]))).toEqual(["keep", "keep"]);
  });
});

test.each([
  ["a/boot", "a/boot.bootstrap.compact"],
  ["a/x.boot", "a/x.bootstrap.compact"],
  ["a.b/boot", "a.b/boot.bootstrap.compact"],
  ["a/.boot", "a/.boot.bootstrap.compact"],
])("the output for %s is %s", (path, expected) => expect(defaultOutput(path)).toBe(expected));

describe.skipIf(!hasGolden || process.getuid?.() !== 0)("compact", () => {
  const temporary = new TemporaryDirectory();
  let sources: GoldenSources;
  beforeAll(() => {
    sources = new GoldenSources(temporary.join("sources"));
  }, 120_000);
  afterAll(() => temporary[Symbol.dispose]());

  test.each([
    ["layers-v6-compact", "in.boot"],
    ["layers-v5-compact", "in.boot"],
    ["layers-v6-merge3", "bootstrap"],
    ["layers-v5-merge3", "bootstrap"],
    ["many-v6-23blobs", "bootstrap"],
    ["layers-v6-merge3-inline", "bootstrap"],
  ])("%s: one blob is left, the check passes, the tree is the same", async (name, bootstrap) => {
    using work = new TemporaryDirectory();
    const golden = goldenCase(name);
    const image = join(golden.directory, bootstrap);
    const blobs = sources.blobsOf(golden, work.join("blobs"));
    const before = readdirSync(blobs);
    const argv = ["compact", "-B", image, "-D", blobs, "--min-used-ratio", "100", "-O", work.join("out"), "-J", work.join("json")];
    const { code, stdout, stderr } = await run(argv);
    expect([code, stdout, stderr]).toEqual([0, "", expect.stringContaining("compactor: successfully compacted blob")]);
    const added = readdirSync(blobs).filter((id) => !before.includes(id));
    const found = openBootstrap(readFileSync(work.join("out")));
    expect([found.blobs.map(({ id }) => id), JSON.parse(readFileSync(work.join("json"), "utf8")).blobs]).toEqual([added, added]);
    expect(added).toHaveLength(1);
    expect((await run(["check", work.join("out")])).code).toBe(0);
    mkdirSync(work.join("only"));
    writeFileSync(work.join("only", added[0]), readFileSync(join(blobs, added[0])));
    await sameTree(work, { bootstrap: image, blobs }, { bootstrap: work.join("out"), blobs: work.join("only") });
  });

  test("a blob of which enough is used stays, and nothing is written", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    const blobs = sources.blobsOf(golden, work.join("blobs"));
    const before = readdirSync(blobs);
    const { code, stderr } = await run([
      "compact",
      "-B",
      golden.bootstrapFile!,
      "-D",
      blobs,
      "--min-used-ratio",
      "100",
      "-O",
      work.join("out"),
    ]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("compactor: no chance to compact data blobs")]);
    expect([readdirSync(work.path), readdirSync(blobs)]).toEqual([["blobs"], before]);
  });

  test("blobs of a chunk dictionary stay, and chunks that it has are taken from there", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("layers-v6-merge3");
    const blobs = sources.blobsOf(golden, work.join("blobs"));
    const dictionary = join(golden.directory, "l1.boot");
    const argv = ["compact", "-B", golden.bootstrapFile!, "-D", blobs, "--chunk-dict", dictionary, "-O", work.join("out")];
    expect((await run(argv)).code).toBe(0);
    const found = openBootstrap(readFileSync(work.join("out")));
    const [kept] = openBootstrap(readFileSync(dictionary)).blobs;
    expect(found.blobs.map(({ id }) => id)).toContain(kept.id);
    expect(found.blobs).toHaveLength(2);
    await sameTree(work, { bootstrap: golden.bootstrapFile!, blobs }, { bootstrap: work.join("out"), blobs });
  });

  test("fewer blobs than --layers-to-compact: nothing is done", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("layers-v6-merge3");
    const argv = ["compact", "-B", golden.bootstrapFile!, "-D", golden.blobDirectory!, "--layers-to-compact", "10", "-O", work.join("out")];
    expect([(await run(argv)).code, readdirSync(work.path)]).toEqual([0, []]);
  });

  test.each([
    [["--min-used-ratio", "256"], "number too large to fit in target type"],
    [["--min-used-ratio", "x"], "invalid digit found in string"],
    [["--compact-blob-size", "0x10"], "invalid digit found in string"],
  ])("%j is refused", async (options, words) => {
    const { code, stderr } = await run(["compact", "-B", "x", "-D", "y", ...options]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
  });
});

import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { hasFeature, openBootstrap } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import type { ChunkRow } from "../src/chunkdict/database.ts";
import { distance, divide, selectChunks, smooth } from "../src/chunkdict/select.ts";
import { run, TemporaryDirectory } from "./support.ts";
import { sameTree } from "./trees.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

const row = (image: string, version: string, digest: string, compressedSize = 1): ChunkRow => ({
  ...{ image, version, digest, compressedSize, blobId: `${image}${version}`, crc32: 0 },
  ...{ uncompressedSize: compressedSize, compressedOffset: 0, uncompressedOffset: 0 },
});

describe("what is chosen for a dictionary", () => {
  test("versions are in the order of their numbers, and the first 0.7 of them are learned from", () => {
    const rows = ["1.10", "1.9", "v1.2", "1.0-3"].map((version) => row("a", version, version));
    const { train, test: judged } = divide(rows);
    expect([train.map(({ version }) => version), judged.map(({ version }) => version)]).toEqual([
      ["1.0-3", "v1.2"],
      ["1.9", "1.10"],
    ]);
  });

  test("the distance of two images is the share of bytes that are not there twice", () => {
    expect(distance([row("a", "1", "x", 3), row("a", "1", "y", 1)], [row("b", "1", "x", 3), row("b", "1", "z", 3)])).toBeCloseTo(
      1 - 3 / 10,
    );
    expect(distance([], [])).toBe(1);
  });

  test("scores rise while chunks stay, and halve when one is new", () => {
    const rows = [row("a", "1", "x"), row("a", "1", "y"), row("a", "2", "x"), row("a", "2", "y"), row("a", "2", "z")];
    expect(smooth(rows).map(({ score }) => score)).toEqual([0, 0, 0.5, 0.75, 0.375]);
  });

  test("what an image keeps over its versions is chosen, and the blob it lies in as a whole", () => {
    const rows = ["1", "2", "3", "4"].flatMap((version) => [
      row("a", version, "x"),
      row("a", version, "y"),
      row("a", version, `only${version}`),
    ]);
    const { rows: chosen, alone, testBytes, remainingBytes } = selectChunks(rows);
    // Two of four versions are learned from; "y" of the second follows "x", so its score passes every threshold up to 0.7.
    expect(chosen.map(({ digest, version }) => `${digest}@${version}`)).toEqual(["y@2", "x@2", "only2@2"]);
    expect([alone, testBytes, remainingBytes]).toEqual([["a"], 6, 4]);
  });

  test("twelve images that share a base have it in the dictionary, one that does not stands alone", () => {
    const rows: ChunkRow[] = [];
    for (const version of ["1", "2", "3", "4"]) {
      for (let i = 0; i < 12; i++) rows.push(row(`image${i}`, version, "base", 90), row(`image${i}`, version, `own${i}${version}`, 10));
      rows.push(row("other", version, `other${version}`, 100));
    }
    const { rows: chosen, alone } = selectChunks(rows);
    expect(alone).toEqual(["other"]);
    expect(chosen.map(({ digest }) => digest)).toContain("base");
  });
});

describe.skipIf(!hasGolden)("chunkdict generate", () => {
  /** Bootstraps in directories called NAME:VERSION. */
  function place(work: TemporaryDirectory, images: Readonly<Record<string, string>>): string[] {
    return Object.entries(images).map(([name, from]) => {
      mkdirSync(work.join(name));
      copyFileSync(from, work.join(name, "bootstrap"));
      return work.join(name, "bootstrap");
    });
  }

  test("chunkdict-v6-generate: the original's words, JSON and tables, and a dictionary that passes the check", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("chunkdict-v6-generate");
    const [source] = place(work, { "img:1": join(golden.directory, "in.boot") });
    const url = `sqlite://${work.join("db.sqlite")}`;
    const argv = ["chunkdict", "generate", "--database", url, "-B", work.join("bootstrap"), "-J", work.join("output.json"), source];
    const { code, stdout, stderr } = await run(argv);
    const words = (text: string) => text.split("\n").flatMap((line) => /INFO (.*)$/.exec(line)?.[1].replaceAll(work.path, "$OUT") ?? []);
    const recorded = words(readFileSync(join(golden.directory, "cmd.txt"), "utf8")).filter((line) =>
      /chunk|set|recommended|img/i.test(line),
    );
    expect([code, stdout, words(stderr).filter((line) => !line.startsWith("RAFS"))]).toEqual([
      0,
      "",
      recorded.filter((line) => !line.includes("built") && !/^(data|meta)/.test(line)),
    ]);
    const json = (path: string) => {
      const { version, trace, ...rest } = JSON.parse(readFileSync(path, "utf8"));
      return { ...rest, bootstrap: basename(rest.bootstrap) };
    };
    expect(json(work.join("output.json"))).toEqual(json(join(golden.directory, "output.json")));
    expect((await run(["check", work.join("bootstrap")])).code).toBe(0);
    using database = new DatabaseSync(work.join("db.sqlite"));
    const image = openBootstrap(readFileSync(source));
    const references = [...image.walk()].flatMap(({ nid }) => [...image.chunksOf(nid)]).length;
    expect(database.prepare("SELECT count(*) AS n FROM chunk WHERE image_reference = 'img' AND version = '1'").get()).toEqual({
      n: references,
    });
    expect(database.prepare("SELECT blob_id AS id, blob_compressor AS compressor FROM blob").all()).toEqual([
      { id: image.blobs[0].id, compressor: "zstd" },
    ]);
  });

  test.each(["5", "6"])(
    "version %s: an image built with the dictionary stores nothing that is in it, and reads the same",
    async (version) => {
      using work = new TemporaryDirectory();
      mkdirSync(work.join("source"));
      mkdirSync(work.join("blobs"));
      for (let i = 0; i < 30; i++) writeFileSync(work.join("source", `file${i}`), `${i}`.repeat(2000 + i));
      const create = async (name: string, ...options: string[]) => {
        mkdirSync(work.join(name));
        const argv = [
          "create",
          "-v",
          version,
          "-D",
          work.join("blobs"),
          "-B",
          work.join(name, "bootstrap"),
          ...options,
          work.join("source"),
        ];
        expect((await run(argv)).code).toBe(0);
        return work.join(name, "bootstrap");
      };
      const sources: string[] = [];
      for (const tag of ["1", "2", "3", "4"]) {
        writeFileSync(work.join("source", "changes"), tag.repeat(5000));
        sources.push(await create(`app:${tag}`));
      }
      const argv = ["chunkdict", "generate", "--database", "sqlite://:memory:", "-B", work.join("dictionary"), ...sources];
      expect((await run(argv)).code).toBe(0);
      expect(await run(["check", work.join("dictionary")])).toMatchObject({ code: 0 });
      const dictionary = openBootstrap(readFileSync(work.join("dictionary")));
      expect(dictionary.blobs.length).toBeGreaterThan(0);
      expect(dictionary.blobs.every((blob) => hasFeature(blob, "chunkDictGenerated"))).toBe(true);
      writeFileSync(work.join("source", "changes"), "5".repeat(5000));
      const before = readdirSync(work.join("blobs"));
      const plain = await create("plain:5");
      const built = await create("app:5", "--chunk-dict", work.join("dictionary"));
      const image = openBootstrap(readFileSync(built));
      const added = image.blobs.filter(({ id }) => !before.includes(id));
      expect(added.map(({ chunkCount }) => chunkCount)).toEqual([1]);
      await sameTree(work, { bootstrap: plain, blobs: work.join("blobs") }, { bootstrap: built, blobs: work.join("blobs") });
    },
  );

  test.each([
    [["--database", "mysql://h/d"], "Unsupported database type: mysql"],
    [["--database", "db.sqlite"], "Invalid database URL: db.sqlite"],
    [["--database", "sqlite://db.sqlite"], "Invalid database URL: sqlite://db.sqlite"],
    [["--database", "sqlite:///nowhere/at/all"], "can not be opened"],
  ])("%j is refused in one line", async (options, words) => {
    using work = new TemporaryDirectory();
    const sources = place(work, { "img:1": goldenCase("plain-v6-tar").bootstrapFile! });
    const { code, stderr } = await run(["chunkdict", "generate", ...options, "-B", work.join("out"), ...sources]);
    expect([code, stderr, existsSync(work.join("out"))]).toEqual([1, expect.stringContaining(words), false]);
  });

  test("images of both versions do not go into one dictionary; a source without a name is told", async () => {
    using work = new TemporaryDirectory();
    const both = place(work, { "a:1": goldenCase("plain-v6-tar").bootstrapFile!, "b:1": goldenCase("plain-v5-tar").bootstrapFile! });
    const mixed = await run(["chunkdict", "generate", "--database", "sqlite://:memory:", "-B", work.join("out"), ...both]);
    expect([mixed.code, mixed.stdout]).toEqual([1, expect.stringMatching(/a:1.* has version V6\n.*b:1.* has version V5\n/)]);
    const [nameless] = place(work, { nameless: goldenCase("plain-v6-tar").bootstrapFile! });
    const refused = await run(["chunkdict", "generate", "--database", "sqlite://:memory:", "-B", work.join("out"), nameless]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("NAME:VERSION")]);
  });

  test("without generate the usage line is printed, with status 0", async () => {
    expect(await run(["chunkdict"])).toEqual({ code: 0, stdout: "Usage: [OPTIONS] [COMMAND]\n", stderr: "" });
  });
});

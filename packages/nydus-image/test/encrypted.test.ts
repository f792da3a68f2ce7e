/** New blobs of encrypted images are encrypted too, and what they hold is read back by the program and checked chunk by chunk. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hasFeature, openBootstrap } from "@nydus-ts/rafs-format";
import { describe, expect, test } from "vitest";
import { run, TemporaryDirectory } from "./support.ts";
import { sameTree } from "./trees.ts";

const secret = "words that must not be in a blob of an encrypted image. ".repeat(40);

/** Two layers, the second of which takes half of the first away. */
async function build(work: TemporaryDirectory, options: readonly string[]): Promise<{ bootstrap: string; blobs: string }> {
  for (const name of ["lower", "upper", "blobs"]) mkdirSync(work.join(name));
  writeFileSync(work.join("lower/short"), "7 bytes");
  writeFileSync(work.join("lower/text"), secret);
  writeFileSync(work.join("lower/random"), randomBytes(70_000));
  writeFileSync(work.join("lower/gone"), randomBytes(200_000));
  writeFileSync(work.join("upper/.wh.gone"), "");
  writeFileSync(work.join("upper/more"), secret.slice(1));
  const create = async (name: string, ...more: string[]) => {
    const argv = ["create", "--encrypt", "-D", work.join("blobs"), "-B", work.join(`${name}.boot`), ...options, ...more, work.join(name)];
    const { code, stderr } = await run(argv);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
  };
  await create("lower");
  await create("upper", "--parent-bootstrap", work.join("lower.boot"));
  return { bootstrap: work.join("upper.boot"), blobs: work.join("blobs") };
}

function expectEncrypted(work: TemporaryDirectory, bootstrap: string, added: readonly string[]): void {
  expect(added).toHaveLength(1);
  const record = openBootstrap(readFileSync(bootstrap)).blobs.find(({ id }) => id === added[0])!;
  expect([record.cipher, hasFeature(record, "encrypted")]).toEqual(["aes-128-xts", true]);
  expect(readFileSync(work.join("blobs", added[0])).includes("words that must not")).toBe(false);
}

describe.each([[[]], [["--compressor", "none"]], [["--batch-size", "0x10000"]], [["--chunk-size", "0x1000"]]])(
  "built with %j",
  (options) => {
    test("optimize stores the listed files with a new key", async () => {
      using work = new TemporaryDirectory();
      const image = await build(work, options);
      const before = readdirSync(image.blobs);
      writeFileSync(work.join("list"), JSON.stringify({ version: "v1", files: ["/text", "/short", "/more"].map((path) => ({ path })) }));
      const argv = ["optimize", "-B", image.bootstrap, "-D", image.blobs, "--output-blob-dir", image.blobs, "-p", work.join("list")];
      const { code, stderr } = await run([...argv, "-O", work.join("out")]);
      expect([code, stderr]).toEqual([0, expect.any(String)]);
      expect((await run(["check", work.join("out")])).code).toBe(0);
      expectEncrypted(
        work,
        work.join("out"),
        readdirSync(image.blobs).filter((id) => !before.includes(id)),
      );
      await sameTree(work, image, { bootstrap: work.join("out"), blobs: image.blobs });
    });

    test("compact joins blobs, each of which had a key of its own", async () => {
      using work = new TemporaryDirectory();
      const image = await build(work, options);
      const before = readdirSync(image.blobs);
      const { code, stderr } = await run([
        "compact",
        "-B",
        image.bootstrap,
        "-D",
        image.blobs,
        "--min-used-ratio",
        "90",
        "-O",
        work.join("out"),
      ]);
      expect([code, stderr]).toEqual([0, expect.stringContaining("successfully compacted")]);
      expect((await run(["check", work.join("out")])).code).toBe(0);
      const added = readdirSync(image.blobs).filter((id) => !before.includes(id));
      expectEncrypted(work, work.join("out"), added);
      expect(openBootstrap(readFileSync(work.join("out"))).blobs.map(({ id }) => id)).toEqual(added);
      await sameTree(work, image, { bootstrap: work.join("out"), blobs: image.blobs });
    });
  },
);

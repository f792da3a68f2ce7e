import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { formatError } from "../src/errors.ts";
import { hoistGlobalOptions } from "../src/main.ts";
import { quoteBytes } from "../src/text.ts";
import { layerTar, run, TemporaryDirectory } from "./support.ts";

const temporary = new TemporaryDirectory();
afterAll(() => temporary[Symbol.dispose]());
mkdirSync(temporary.join("source"));
writeFileSync(temporary.join("source/file"), "content");
writeFileSync(temporary.join("layer.tar"), layerTar({ "d/": "", "d/f": "data" }));
const source = temporary.join("source");
const to = (name: string) => {
  mkdirSync(temporary.join(name), { recursive: true });
  return ["-D", temporary.join(name)];
};

describe("usage", () => {
  test("without a verb the usage line goes to standard output with status 0", async () => {
    expect(await run([])).toEqual({ code: 0, stdout: "Usage: [OPTIONS] [COMMAND]\n", stderr: "" });
  });

  test("help and version end with status 0", async () => {
    for (const argv of [["--help"], ["create", "--help"], ["convert", "-h"], ["--version"]])
      expect((await run(argv)).code, argv.join(" ")).toBe(0);
  });

  test.each([
    [["fly"], "unknown command"],
    [["create", "--flight", source], "unknown option"],
    [["create", "-D", "x"], "missing required argument"],
    [["create", source], "--bootstrap <path>"],
    [["create", "-B", "x", source], "--blob <path>"],
    [["create", "-D", "x", "--compressor", "gzip", source], "Allowed choices are none, lz4_block, zstd"],
    [["create", "-D", "x", "--blob-inline-meta", "-B", "y", source], "cannot be used with"],
    [["merge"], "missing required argument"],
    [["check"], "<BOOTSTRAP>"],
    [["check", "a", "-B", "b"], "cannot be used with"],
    [["convert", "--target", "x"], "--source"],
  ])("%j is wrong usage: status 2 and words about it", async (argv, words) => {
    const { code, stderr } = await run(argv);
    expect([code, stderr]).toEqual([2, expect.stringContaining(words)]);
  });

  test("global options may stand behind the verb", () => {
    expect(hoistGlobalOptions(["create", "-l", "warn", "--log-file=x", "src", "--", "-l"])).toEqual([
      "-l",
      "warn",
      "--log-file=x",
      "create",
      "src",
      "--",
      "-l",
    ]);
  });
});

describe("run-time failures end with status 1 and one Error", () => {
  test.each([
    [["create", ...to("a"), temporary.join("missing")], "failed to access path"],
    [["create", ...to("a"), "-t", "tar-rafs", source], "specified path must be a regular/fifo/char_device file"],
    [["create", ...to("a"), temporary.join("layer.tar")], "specified path must be a directory"],
    [["create", "-D", temporary.join("nowhere"), source], "directory to store blobs does not exist"],
    [["create", ...to("a"), "--chunk-size", "0x1001", source], "invalid chunk size: 4097"],
    [["create", ...to("a"), "--chunk-size", "big", source], "invalid chunk size big"],
    [["create", ...to("a"), "--blob-id", "i".repeat(256), source], "blob id is limited to length 255"],
    [["create", ...to("a"), "--blob-id", "i".repeat(65), source], "longer than 64 bytes"],
    [["check", temporary.join("missing")], "failed to open"],
    [["check", temporary.join("layer.tar")], "is not a RAFS image"],
    [["merge", "-B", temporary.join("m"), "--blob-sizes", "1,2", "x"], "number of blob size entries 2 doesn't match number of sources 1"],
    [["merge", "-B", temporary.join("m"), "--blob-sizes", "many", "x"], "invalid number in --blob-sizes option"],
    [["merge", "x"], "both --bootstrap and --blob-dir are missing"],
    [["inspect", "-R", "fly", temporary.join("missing")], "failed to open"],
  ])("%j", async (argv, words) => {
    const { code, stdout, stderr } = await run(argv);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain(words);
    expect(stderr.match(/^Error: /gm)).toHaveLength(1);
  });

  test.each([["convert", "--source", "a", "--target", "b", "--source-backend-type", "modelfile"]])(
    "what is not done is refused with what to do instead: %j",
    async (...argv) => {
      const { code, stderr } = await run(argv);
      expect([code, stderr]).toEqual([1, expect.stringMatching(/^Error: .* is not supported by this version: \w/m)]);
    },
  );
});

test("a log file gets the records instead of standard error, and grows", async () => {
  for (let i = 0; i < 2; i++) {
    const { stderr } = await run(["create", "-L", temporary.join("logs/build"), ...to("log"), source]);
    expect(stderr).toBe("");
  }
  expect(
    readFileSync(temporary.join("logs/build.log"), "utf8").match(
      /^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} [+-]\d\d:\d\d\] INFO successfully built/gm,
    ),
  ).toHaveLength(2);
});

test("inspect goes on after a command that fails, and ends with its input", async () => {
  await run(["create", ...to("inspect"), "-B", temporary.join("inspect/boot"), source]);
  const { code, stdout } = await run(["inspect", temporary.join("inspect/boot")], {
    stdin: "ls\nfly\ncd nowhere\nstat file\nicheck 128\nchunk 0\n",
  });
  expect(code).toBe(0);
  for (const words of [
    '"file"',
    "Unsupported command: fly",
    "nowhere is not there",
    "decompressed size: 7",
    "Inode Number:       128",
    "File: file",
  ]) {
    expect(stdout).toContain(words);
  }
});

test("an error is told with its causes, each once", () => {
  const inner = new Error("disk full");
  expect(formatError(new Error("a", { cause: inner }))).toBe("Error: a\n\nCaused by:\n    disk full\n");
  expect(formatError(new Error("a", { cause: new Error("b", { cause: inner }) }))).toBe(
    "Error: a\n\nCaused by:\n    0: b\n    1: disk full\n",
  );
  expect(formatError(new Error("a: disk full", { cause: inner }))).toBe("Error: a: disk full\n");
});

test("bytes in quotes: text stays, the rest is escaped", () => {
  expect(quoteBytes(Buffer.from('a"\\\n\té日😀'))).toBe('"a\\"\\\\\\n\\té日😀"');
  expect(quoteBytes(Buffer.from([0x61, 0xff, 0xe9, 0x1b]))).toBe('"a\\xFF\\xE9\\u{1b}"');
});

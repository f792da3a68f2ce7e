/** Recorded command lines of the original, run here: version 5, and layers that stay as they are. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, TemporaryDirectory } from "./support.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

describe.skipIf(!hasGolden)("recorded command lines", () => {
  const temporary = new TemporaryDirectory();
  beforeAll(() => {
    execFileSync("bash", [join(goldenDir()!, "make-sources.sh"), temporary.join("sources")]);
  });
  afterAll(() => temporary[Symbol.dispose]());

  /** Runs the command lines of a case that begin with one of `verbs`, in a directory of its own. */
  async function repeat(name: string, verbs: readonly string[]): Promise<string> {
    const golden = goldenCase(name).directory;
    const out = temporary.join(name);
    mkdirSync(join(out, "blobs"), { recursive: true });
    for (const line of readFileSync(join(golden, "cmd.txt"), "utf8").split("\n")) {
      const [command, stdin] = line.split(" < ");
      const [program, verb, ...argv] = command.split(" ");
      if (program !== "nydus-image" || !verbs.includes(verb)) continue;
      const path = (text: string) =>
        text.replace("$OUT", verb === "merge" && text.endsWith(".boot") ? golden : out).replace("$SRC", temporary.join("sources"));
      const { code, stderr } = await run([verb, ...argv.map(path)], { stdin: stdin ? readFileSync(path(stdin), "utf8") : "" });
      expect([code, stderr]).toEqual([0, expect.not.stringContaining("Error")]);
    }
    return out;
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
  ])("%s: the same files, the same JSON", async (name) => {
    const golden = goldenCase(name).directory;
    const out = await repeat(name, ["create"]);
    if (existsSync(join(golden, "bootstrap"))) {
      expect(readFileSync(join(out, "bootstrap")).equals(readFileSync(join(golden, "bootstrap")))).toBe(true);
    }
    expect(readdirSync(join(out, "blobs"))).toEqual(readdirSync(join(golden, "blobs")));
    const read = (directory: string) => {
      const json = JSON.parse(readFileSync(join(directory, "output.json"), "utf8"));
      const { version, trace, ...rest } = json;
      return {
        ...rest,
        bootstrap: basename(json.bootstrap),
        external_bootstrap: basename(json.external_bootstrap),
        events: trace.registered_events,
      };
    };
    expect(read(out)).toEqual(read(golden));
  });

  test("layers-v5-merge3: merge writes the original's bootstrap", async () => {
    const out = await repeat("layers-v5-merge3", ["merge"]);
    expect(readFileSync(join(out, "bootstrap")).equals(readFileSync(goldenCase("layers-v5-merge3").bootstrapFile!))).toBe(true);
  });

  test.each([
    [["--prefetch-policy", "blob"], "conversion type targz-ref conflicts with '--prefetch-policy blob'"],
    [["-v", "5"], "'--fs-version 5' conflicts with conversion type 'targz-ref', only V6 is supported"],
    [["--blob-id", "x"], "conversion type 'targz-ref' conflicts with '--blob-id'"],
  ])("a layer that stays as it is can not be built with %j", async (argv, words) => {
    const out = temporary.join("refused");
    mkdirSync(out, { recursive: true });
    const { code, stderr } = await run([
      "create",
      "-t",
      "targz-ref",
      "-D",
      out,
      "-B",
      join(out, "b"),
      ...argv,
      temporary.join("sources/plain.tar.gz"),
    ]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
    expect(readdirSync(out)).toEqual([]);
  });
});

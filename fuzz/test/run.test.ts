import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { goldenAbsent, goldenDir } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";

const golden = goldenDir();
const folder = join(import.meta.dirname, "..");
/** These have no seeds in the repository. */
const goldenOnly = ["blob-metas", "tocs"];
const targets = readdirSync(join(folder, "targets")).map((file) => file.slice(0, -".ts".length));

describe("a fixed share of the fuzz run", () => {
  test.each(targets)("%s: mutated inputs are read or refused with a code", { timeout: 60_000 }, async (target) => {
    if (golden === undefined && goldenOnly.includes(target)) return console.log(`${target}: ${goldenAbsent}`);
    const { code, output } = await fuzz([
      "--target",
      target,
      "--count",
      "300",
      "--seed",
      "20",
      ...(golden === undefined ? [] : ["--golden", golden]),
    ]);
    expect([code, output]).toEqual([0, expect.stringContaining("300 cases, no failure")]);
  });
});

describe("the driver", () => {
  const own = ["--folder", join(import.meta.dirname, "targets")];

  test("names an error without a code and the case that repeats it", async () => {
    const first = await fuzz([...own, "--target", "other-error", "--count", "2000"]);
    expect(first.code).toBe(1);
    expect(first.output).toContain("other-error, seven: TypeError: byte 20 was changed");
    const [, words] = /repeat: (.*)/.exec(first.output) ?? [];
    const again = await fuzz([...own, ...(words as string).split(" ")]);
    expect([again.code, again.output]).toEqual([1, expect.stringContaining("byte 20 was changed")]);
  });

  test("tells its options when it is asked", async () => {
    const { code, output } = await fuzz(["--help"]);
    expect([code, output]).toEqual([0, expect.stringMatching(/^Usage: npm run fuzz.*layers.*--count N/s)]);
  });

  test.each([
    [["--target", "nothing"], "no target nothing; there are "],
    [["--count", "many"], "--count takes a whole number from 1, not many"],
    [["--speed", "1"], "Unknown option '--speed'"],
    [["all"], "Unexpected argument 'all'"],
    [["--folder", "/nowhere"], "ENOENT"],
  ])("refuses %j in one line", async (args, words) => {
    const { code, output } = await fuzz(args);
    expect([code, output.trim().split("\n")]).toEqual([2, [expect.stringContaining(words)]]);
  });

  test("ends a case that hangs", async () => {
    const { code, output } = await fuzz([...own, "--target", "hang", "--case-ms", "1000"]);
    expect([code, output]).toEqual([1, expect.stringContaining("hang: a case takes more than 1000 ms; --target hang --seed 1 --from 0")]);
  });

  test("ends a case that takes too much memory", async () => {
    const { code, output } = await fuzz([...own, "--target", "growth"]);
    expect([code, output]).toEqual([1, expect.stringContaining("growth, zeros: Error: the process grew by")]);
  });
});

function fuzz(args: string[]): Promise<{ code: number; output: string }> {
  const command = ["--conditions=@nydus-ts/source", "--disable-warning=ExperimentalWarning", join(folder, "run.ts"), ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, command, { timeout: 50_000 }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr }),
    );
  });
}

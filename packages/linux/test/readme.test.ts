import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { findMount } from "../src/index.ts";

test("the example of the README runs as it stands", () => {
  const directory = mkdtempSync(join(tmpdir(), "linux-readme-"));
  try {
    const example = /```ts\n(.*?)```/s.exec(readFileSync(join(import.meta.dirname, "../README.md"), "utf8"))![1]!;
    const file = join(directory, "example.mts");
    // A place of its own, so that two runs do not meet.
    const program = example.replace("/tmp/descriptors.sock", join(directory, "descriptors.sock"));
    writeFileSync(file, program.replace('"@nydus-ts/linux"', JSON.stringify(join(import.meta.dirname, "../src/index.ts"))));
    const output = execFileSync(process.execPath, ["--conditions=@nydus-ts/source", file], { encoding: "utf8" });
    expect(output).toBe(`${findMount("/")?.type}\n`);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

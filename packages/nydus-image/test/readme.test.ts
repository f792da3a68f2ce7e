import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { run } from "./support.ts";

const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");

test("every verb and option that the README names is in the help", async () => {
  for (const [, verb, text] of readme.matchAll(/^\| `([a-z]+)` +\| (.*) \|$/gm)) {
    const { stdout } = await run([verb, "--help"]);
    for (const [option] of text.matchAll(/--?[a-z][a-z-]*/g)) expect(stdout, `${verb} ${option}`).toContain(option);
  }
});

test("every error code stands in the README", () => {
  const codes = readFileSync(join(import.meta.dirname, "../src/errors.ts"), "utf8").match(/IMAGE_[A-Z]+/g)!;
  for (const code of new Set(codes)) expect(readme).toMatch(new RegExp(`^\\| ${code} +\\|`, "m"));
});

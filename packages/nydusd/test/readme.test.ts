import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { parseCommandLine } from "../src/cli.ts";
import { parseConfig } from "../src/config/index.ts";
import { nydusdErrors } from "../src/errors.ts";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
const block = (language: string): string => new RegExp(`\`\`\`${language}\n([\\s\\S]*?)\`\`\``).exec(readme)?.[1]?.trim() ?? "";

test("the README's command line is one, and its configuration is valid without a warning", () => {
  const argv = block("sh").split(" ").slice(1);
  const io = { version: "", writeOut: () => undefined, writeErr: (text: string) => expect.unreachable(text) };
  expect(parseCommandLine(argv, io)).toMatchObject({ mode: "fuse", options: { mountpoint: "/mnt", bootstrap: "image.boot" } });
  const { config, warnings } = parseConfig(block("json"), "nydusd.json");
  expect(warnings).toEqual([]);
  expect(config.backend?.registry).toMatchObject({ host: "registry.example", repo: "app" });
});

test("the README lists every error code", () => {
  for (const code of Object.keys(nydusdErrors)) expect(readme).toContain(code);
});

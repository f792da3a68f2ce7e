import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { nydusctl } from "./support.ts";

test("every command of the README's example exists, with its options", async () => {
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const example = /```sh\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  const lines = example.trim().split("\n");
  expect(lines).toHaveLength(4);
  for (const line of lines) {
    // Without a daemon a command that exists fails with 1; an unknown one with 2.
    const argv = line
      .split(" ")
      .slice(1)
      .map((word) => word.replace("registry.example/app:1", "127.0.0.1:1/app:1"));
    expect([0, 1]).toContain((await nydusctl(...argv)).exitCode);
  }
});

test("every command of the README's table has a help text", async () => {
  const { out } = await nydusctl("--help");
  for (const name of ["info", "metrics", "mount", "remount", "umount", "backend", "events", "inflight", "set", "explain", "doctor"]) {
    expect(out).toMatch(new RegExp(`^  ${name}\\b`, "m"));
  }
});

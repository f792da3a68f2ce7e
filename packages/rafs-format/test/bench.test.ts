import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

test("the benchmark of the cursor runs on a small input", async () => {
  const file = join(import.meta.dirname, "../bench/cursor.ts");
  const options = { timeout: 20_000 };
  const { stdout } = await promisify(execFile)(process.execPath, ["--conditions=@nydus-ts/source", file, "--small", "--json"], options);
  for (const ns of Object.values(JSON.parse(stdout).results)) expect(ns).toBeGreaterThan(0);
});

test("the benchmark of builds and walks runs on a small input, and every walk meets every name", async () => {
  const file = join(import.meta.dirname, "../bench/walk.ts");
  const options = { timeout: 20_000 };
  const { stdout } = await promisify(execFile)(process.execPath, ["--conditions=@nydus-ts/source", file, "--small", "--json"], options);
  const { results } = JSON.parse(stdout) as { results: { names: number }[] };
  expect(results.map(({ names }) => names)).toEqual([500, 1000, 500, 1000]);
});

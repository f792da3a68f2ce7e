import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createLog } from "../src/log/log.ts";
import { RotatingFile } from "../src/log/rotating-file.ts";

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "nydusd-log-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function collect(format: "text" | "json"): { lines: string[]; log: ReturnType<typeof createLog> } {
  const lines: string[] = [];
  return { lines, log: createLog({ write: (line) => void lines.push(line) }, { level: "info", format }) };
}

test("a line has local time with microseconds and offset; levels other than INFO name their part", () => {
  const { lines, log } = collect("text");
  log.info("ready");
  log.part("images").warn("first\nsecond");
  expect(lines[0]).toMatch(/^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} [+-]\d\d:\d\d\] INFO ready\n$/);
  expect(lines[1]).toMatch(/\] WARN \[images\] first\\nsecond\n$/);
});

test("the level of parts follows the daemon's at run time, off included", () => {
  const { lines, log } = collect("text");
  const part = log.part("images");
  part.debug("hidden");
  log.setLevel("debug");
  part.debug("shown");
  log.setLevel("off");
  part.error("hidden");
  expect(lines).toHaveLength(1);
});

test("JSON lines are objects with level, time, part and text", () => {
  const { lines, log } = collect("json");
  log.part("api").warn("slow");
  expect(JSON.parse(lines[0]!)).toMatchObject({ level: "warn", part: "api", msg: "slow", time: expect.any(Number) });
});

test("a full log file is rotated and compressed, and the newest ten stay", async () => {
  for (let n = 0; n < 12; n++) await writeFile(join(directory, `nydusd_r2020-01-01_00-00-${String(n).padStart(2, "0")}.log.gz`), "");
  {
    await using file = new RotatingFile(join(directory, "nydusd.log"), 100);
    for (let n = 0; n < 4; n++) file.write(`${"x".repeat(99)}\n`);
  }
  const names = await readdir(directory);
  const rotated = names.filter((name) => name.endsWith(".gz"));
  expect(rotated).toHaveLength(10);
  expect(names).toContain("nydusd_rCURRENT.log");
  const fresh = rotated.filter((name) => !name.startsWith("nydusd_r2020"));
  expect(fresh).toHaveLength(3);
  expect(gunzipSync(await readFile(join(directory, fresh[0]!))).toString()).toBe(`${"x".repeat(99)}\n`);
});

test("without rotation the file is appended to under its own name", async () => {
  const path = join(directory, "sub", "plain.txt");
  for (const text of ["a\n", "b\n"]) {
    await using file = new RotatingFile(path, 0);
    file.write(text);
  }
  expect(await readFile(path, "utf8")).toBe("a\nb\n");
});

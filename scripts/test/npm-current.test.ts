import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

const program = join(import.meta.dirname, "../npm-current.mjs");
const wanted = {
  "": {},
  "node_modules/one": { version: "1.0.0", integrity: "sha512-a" },
  "node_modules/other-machine": { version: "1.0.0", integrity: "sha512-b", optional: true },
};

describe("npm ci is run again only when node_modules is not what the lock file says", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "npm-current-"));
    mkdirSync(join(folder, "node_modules"));
    writeFileSync(join(folder, "package-lock.json"), JSON.stringify({ packages: wanted }));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const exitWith = (present: object | undefined): number | null => {
    if (present !== undefined) writeFileSync(join(folder, "node_modules/.package-lock.json"), JSON.stringify({ packages: present }));
    return spawnSync(process.execPath, [program], { cwd: folder }).status;
  };

  test("nothing is installed: run it", () => expect(exitWith(undefined)).toBe(1));
  test("all is there, but for what other machines need: leave it", () =>
    expect(exitWith({ "node_modules/one": wanted["node_modules/one"] })).toBe(0));
  test("another version is there: run it", () =>
    expect(exitWith({ "node_modules/one": { version: "1.0.1", integrity: "sha512-c" } })).toBe(1));
  test("a package is missing: run it", () => expect(exitWith({})).toBe(1));
});

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compareListings, goldenAbsent, goldenCase, goldenCases, goldenDir, listTree, readBootstrap, readListing } from "../src/index.ts";

const golden = goldenDir();
if (golden === undefined) console.log(goldenAbsent);
const root = process.getuid?.() === 0;

describe.skipIf(golden === undefined)("golden data", () => {
  test("every case that has a listing parses, root first", () => {
    const cases = goldenCases();
    expect(cases.length).toBe(78);
    for (const entry of cases.filter((one) => one.hasListing)) expect(readListing(entry)[0]?.path, entry.name).toBe("/");
  });

  test("the bootstrap of an inline case is cut out of its blob", () => {
    for (const name of ["small-v6-inline", "small-v6-inline-toc", "plain-v6-zran-inline"]) {
      const bytes = readBootstrap(goldenCase(name));
      expect(Buffer.from(bytes.subarray(1024, 1028)).toString("hex"), name).toBe("e2e1f5e0");
    }
  });
});

describe.skipIf(golden === undefined || !root)("a listing of the source trees", () => {
  let work: string;
  beforeAll(async () => {
    work = await mkdtemp(join(tmpdir(), "testkit-"));
    await promisify(execFile)("bash", [join(golden as string, "make-sources.sh"), work]);
  }, 60_000);
  afterAll(() => rm(work, { recursive: true, force: true }));

  test.each([
    ["small", "small-v6-none-sha256"],
    ["xattrs", "xattrs-v6"],
  ])("%s equals the listing an independent model wrote, but for what building changes", async (tree, name) => {
    const actual = await listTree(join(work, tree));
    const expected = readListing(goldenCase(name));
    const withoutDirectories = (entries: typeof actual) =>
      entries.filter((entry) => entry.path !== "/").map((entry) => (entry.type === "dir" ? { ...entry, size: 0, nlink: 0 } : entry));
    expect(compareListings(withoutDirectories(actual), withoutDirectories(expected))).toEqual([]);
  });
});

test("a changed mode, a missing path and an extra path are each one line", () => {
  const entry = {
    path: "/a",
    type: "file",
    mode: "0644",
    uid: 0,
    gid: 0,
    mtime: 0,
    nsec: 0,
    size: 0,
    nlink: 1,
    rdev: 0,
    xattrs: {},
  } as const;
  const differences = compareListings(
    [
      { ...entry, mode: "0600" },
      { ...entry, path: "/c" },
    ],
    [entry, { ...entry, path: "/b" }],
  );
  expect(differences).toEqual(['"/a": mode is "0600", expected "0644"', '"/b": missing', '"/c": unexpected file']);
});

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const tracked = execFileSync("git", ["ls-files", "-z"], { cwd: root, encoding: "utf8" })
  .split("\0")
  .filter((name) => name !== "" && existsSync(join(root, name)));
const read = (name: string): string => readFileSync(join(root, name), "utf8");
const packages = [...new Set(tracked.filter((name) => /^packages\/[^/]+\/src\//.test(name)).map((name) => name.split("/")[1] as string))];

describe("every package is complete", () => {
  test.each(packages)("%s has a README, a public surface, tests and a version of its own", (name) => {
    const manifest = JSON.parse(read(`packages/${name}/package.json`));
    expect(existsSync(join(root, `packages/${name}/README.md`)), `write packages/${name}/README.md`).toBe(true);
    expect(existsSync(join(root, `packages/${name}/src/index.ts`)), `packages/${name}/src/index.ts names what the package offers`).toBe(
      true,
    );
    expect(manifest.exports["."]["@nydus-ts/source"]).toBe("./src/index.ts");
    expect(manifest.version).toMatch(/^\d+\.\d+\.\d+$/);
    const tests = tracked.filter((file) => file.startsWith(`packages/${name}/test/`) && file.endsWith(".test.ts"));
    expect(tests.length, `packages/${name} has no test`).toBeGreaterThan(0);
  });
});

test("what a package imports stands in its package.json", () => {
  const faults: string[] = [];
  for (const name of packages) {
    const manifest = JSON.parse(read(`packages/${name}/package.json`));
    const declared = new Set([...Object.keys(manifest.dependencies ?? {}), ...Object.keys(manifest.peerDependencies ?? {}), manifest.name]);
    for (const file of tracked.filter((entry) => entry.startsWith(`packages/${name}/src/`) && entry.endsWith(".ts"))) {
      for (const [, specifier] of read(file).matchAll(/^(?:import|export)[^;]*?from "([^".][^"]*)";/gm)) {
        if (specifier === undefined || specifier.startsWith("node:")) continue;
        const dependency = specifier.startsWith("@") ? specifier.split("/").slice(0, 2).join("/") : (specifier.split("/")[0] as string);
        if (!declared.has(dependency) && dependency !== "vitest")
          faults.push(`${file}: add ${dependency} to packages/${name}/package.json`);
      }
    }
  }
  expect(faults).toEqual([]);
});

test("every relative link in a text leads somewhere", () => {
  const dead: string[] = [];
  for (const file of tracked.filter((name) => name.endsWith(".md"))) {
    for (const [, target] of read(file).matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)) {
      if (target === undefined || /^[a-z]+:/.test(target)) continue;
      if (!existsSync(join(root, dirname(file), target))) dead.push(`${file}: ${target}`);
    }
  }
  expect(dead).toEqual([]);
});

// npm leaves an optional package out, without a word, when its `engines` exclude the Node that runs npm. What we run is our own Node, so
// such an entry is taken out of the lock file: else no test starts where Debian's Node 18 installs (vitest needs a binding of rolldown).
test("the lock file has no optional package that Node 18 would leave out", () => {
  const { packages: entries } = JSON.parse(read("package-lock.json")) as {
    packages: Record<string, { optional?: boolean; os?: string[]; engines?: { node?: string } }>;
  };
  const excluded = Object.entries(entries).filter(([, { optional, os, engines }]) => {
    if (optional !== true || engines?.node === undefined || os?.includes("linux") === false) return false;
    const least = /^>=\s*(\d+)(\.\d+)*$/.exec(engines.node)?.[1];
    return least === undefined || Number(least) > 18;
  });
  expect(excluded.map(([path, { engines }]) => `${path}: remove "engines" (${engines?.node})`)).toEqual([]);
});

test("the lock file carries no download address", () => {
  expect(read("package-lock.json")).not.toMatch(/"resolved": "https?:/);
});

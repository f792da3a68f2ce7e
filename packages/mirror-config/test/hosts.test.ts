import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type HostConfig, HostSet, hostFolders, type LoadedHosts, loadHosts, originHost, parseMirrors, watchHosts } from "../src/index.ts";

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "mirror-config-"));
});
afterEach(() => rm(directory, { recursive: true }));

/** Replaces the file as editors and configuration tools do: whole, by rename. */
async function put(folder: string, text: string): Promise<void> {
  await mkdir(join(directory, folder), { recursive: true });
  await writeFile(join(directory, folder, "next"), text);
  await rename(join(directory, folder, "next"), join(directory, folder, "hosts.toml"));
}

describe("hosts directories", () => {
  test("the folder of host and port comes before that of the host and the default", async () => {
    expect(hostFolders("r.example:5000")).toEqual(["r.example_5000_", "r.example:5000", "_default"]);
    await put("_default", '[host."https://default.example"]\n');
    await put("r.example_5000_", '[host."https://own.example"]\n');
    expect((await loadHosts([directory], "r.example:5000"))?.mirrors.map(({ host }) => host)).toEqual(["own.example"]);
    expect((await loadHosts([directory], "other.example"))?.mirrors.map(({ host }) => host)).toEqual(["default.example"]);
  });

  test("mirrors keep their order in the file, and nydus's own keys count", async () => {
    await put(
      "r.example",
      '[host."http://b.example"]\n  failure_limit = 2\n  health_check_interval = 9\n  auth_through = true\n[host."a.example"]\n',
    );
    const [b, a] = (await loadHosts([directory], "r.example"))!.mirrors as [HostConfig, HostConfig];
    expect(b).toMatchObject({ scheme: "http", host: "b.example", failureLimit: 2, healthCheckIntervalMs: 9000, authThrough: true });
    expect(a).toMatchObject({ scheme: "https", host: "a.example", sharesCredentials: false });
  });

  test("every fault of a file is named with its line and key at once", async () => {
    await put("r.example", '[host."http://x"]\n  capabilities = ["fly"]\n  failure_limit = 0\n');
    const problems = await loadHosts([directory], "r.example").catch((error) => error.problems);
    expect(problems.map(({ line }: { line: number }) => line)).toEqual([2, 3]);
  });

  test("a name that would leave the directory reads the default only", () => {
    expect(hostFolders("../../etc")).toEqual(["_default"]);
  });

  test("each of several changes in a row is followed by inotify alone, and a broken one leaves the last good one in force", async () => {
    await put("r.example", '[host."http://one.example"]\n');
    const seen: (LoadedHosts | undefined)[] = [];
    const said: string[] = [];
    await using watcher = await watchHosts({
      directories: [directory],
      registryHost: "r.example",
      onChange: (loaded) => seen.push(loaded),
      onProblem: (line) => said.push(line),
      pollIntervalMs: 0,
    });
    for (const name of ["two", "three", "four"]) {
      await put("r.example", `[host."http://${name}.example"]\n`);
      await expect.poll(() => seen.at(-1)?.mirrors[0]?.host, { timeout: 5000 }).toBe(`${name}.example`);
    }
    await put("r.example", "nonsense");
    await expect.poll(() => said.join("\n"), { timeout: 5000 }).toContain("stays in force");
    expect(watcher.loaded?.mirrors[0]?.host).toBe("four.example");
  });
});

test("nydusd's JSON mirrors: empty hosts are left out, and a wrong one is named by its place", () => {
  const place = { file: "nydusd.json", key: "mirrors" };
  expect(parseMirrors([{ host: "" }, { host: "http://127.0.0.1:65001/path", headers: { "X-A": "b" } }], place)).toMatchObject([
    { host: "127.0.0.1:65001", basePath: "/v2", headers: { "x-a": ["b"] } },
  ]);
  expect(() => parseMirrors([{ host: "not a url" }], place)).toThrow(expect.objectContaining({ code: "MIRROR_CONFIG_INVALID" }));
});

describe("hosts in turn", () => {
  const mirror: HostConfig = { ...originHost("m.example", "http"), kind: "mirror", failureLimit: 2, healthCheckIntervalMs: 1000 };
  const names = (set: HostSet): string[] =>
    [...set.candidates("pull")].map((host) => {
      host.release();
      return host.config.host;
    });
  const fail = (set: HostSet): void => {
    const [host] = set.candidates("pull");
    host?.fail("connection refused");
  };

  test("a mirror that failed failure_limit times is left out, and comes back after a good probe, no sooner than its interval", async () => {
    let now = 0;
    let probes = 0;
    await using set = new HostSet({
      hosts: [mirror, originHost("o.example", "https")],
      now: () => now,
      probe: async () => {
        probes++;
        return true;
      },
    });
    expect(names(set)).toEqual(["m.example", "o.example"]);
    fail(set);
    fail(set);
    expect(names(set)).toEqual(["o.example"]);
    now = 999;
    expect([names(set), probes]).toEqual([["o.example"], 0]);
    now = 1000;
    expect([names(set), probes]).toEqual([["o.example"], 1]);
    await expect.poll(() => names(set)).toEqual(["m.example", "o.example"]);
  });

  test("the registry itself is always asked, however often it failed", async () => {
    await using set = new HostSet({ hosts: [originHost("o.example", "https")], probe: async () => false });
    for (let count = 0; count < 20; count++) fail(set);
    expect(names(set)).toEqual(["o.example"]);
  });

  test("a new list keeps the health of hosts that did not change", async () => {
    await using set = new HostSet({ hosts: [mirror], probe: async () => false });
    fail(set);
    fail(set);
    set.replace([{ ...mirror, host: "n.example" }, mirror]);
    expect(names(set)).toEqual(["n.example"]);
  });
});

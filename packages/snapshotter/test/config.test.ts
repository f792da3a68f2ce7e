import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseDurationMs } from "../src/config/duration.ts";
import { loadConfig } from "../src/config/load.ts";
import { loadTemplate } from "../src/instances/template.ts";
import { temporaryRoot } from "./support/world.ts";

async function faultsOf(toml: string, overrides = {}): Promise<string[]> {
  await using root = temporaryRoot();
  const path = join(root.path, "config.toml");
  writeFileSync(path, toml);
  try {
    loadConfig(path, overrides);
  } catch (error) {
    expect(error).toMatchObject({ code: "CONFIG_INVALID" });
    return (error as Error).message.replaceAll(`${root.path}/`, "").split("\n");
  }
  return [];
}

async function warningsOf(toml: string): Promise<readonly string[]> {
  await using root = temporaryRoot();
  const path = join(root.path, "config.toml");
  writeFileSync(path, toml);
  return loadConfig(path, {}).warnings.map((warning) => warning.replace(`${root.path}/`, ""));
}

describe("the configuration", () => {
  test("all faults are named at once, with file, line, key, expectation and finding", async () => {
    const toml =
      'version = 1\ndaemon_mode = "sharedd"\n[daemon]\nthreads_number = 2000\n[metrics]\ncollect_interval = "1 minute"\n[log]\nlog_to_stdout = "yes"\n';
    expect((await faultsOf(toml)).sort()).toEqual([
      'config.toml:2: daemon_mode: expected one of "shared", "dedicated", "multiple", "none", found "sharedd"',
      "config.toml:4: daemon.threads_number: expected at most 1024, found 2000",
      'config.toml:6: metrics.collect_interval: expected a duration such as "10s" or "1m30s", found "1 minute"',
      'config.toml:8: log.log_to_stdout: expected true or false, found "yes"',
    ]);
  });

  test.for([
    ["", /config\.toml: version: expected 1/],
    ["version = 2", /config\.toml:1: version: expected 1.*found 2/],
    [`version = 1\nroot = "/${"r".repeat(70)}"`, /config\.toml:2: root: .*70 bytes/],
    ['version = 1\n[daemon]\nfs_driver = "fscache"', /config\.toml:3: daemon\.fs_driver: .*fusedev/],
    [
      'version = 1\n[remote.mirrors_config]\ndir = "/nonexistent"',
      /config\.toml:3: remote\.mirrors_config\.dir: \/nonexistent is not a directory/,
    ],
    ["version = 1\n[snapshot]\nenable_kata_volume = true", /config\.toml:3: snapshot\.enable_kata_volume/],
    ["version = 1\n[daemon]\nnydusd_path = ", /config\.toml:3:\d+: not TOML/],
    ["version = 1\n[daemon\n", /config\.toml:2:\d+: not TOML/],
  ] as const)("%j is refused", async ([toml, expected]) => {
    expect(await faultsOf(toml)).toEqual([expect.stringMatching(expected)]);
  });

  test("a fault of a flag names the flag, and a flag replaces what the file says", async () => {
    expect(await faultsOf("version = 1\n[log]\nlevel = 'debug'\n", { logLevel: "loud" })).toEqual([
      expect.stringMatching(/^--log-level: expected one of .*found "loud"$/),
    ]);
    expect(loadConfig(undefined, { root: "/r", daemonMode: "dedicated", logToStdout: true }).config).toMatchObject({
      root: "/r",
      daemon_mode: "dedicated",
      log: { log_to_stdout: true },
    });
  });

  test("an unknown key is a warning with the key that was probably meant", async () => {
    expect(
      await warningsOf("version = 1\nadress = 'x'\n[daemon]\nnydusd_pth = 'x'\n[remote.mirrors_config]\ndirs = ''\n[nonsense]\nx = 1\n"),
    ).toEqual([
      "config.toml:2: adress: unknown key, ignored; did you mean address?",
      "config.toml:4: daemon.nydusd_pth: unknown key, ignored; did you mean daemon.nydusd_path?",
      "config.toml:6: remote.mirrors_config.dirs: unknown key, ignored; did you mean remote.mirrors_config.dir?",
      "config.toml:7: nonsense: unknown key, ignored",
    ]);
  });

  test("false and zero are what they say, not the default", async () => {
    await using root = temporaryRoot();
    const path = join(root.path, "config.toml");
    writeFileSync(
      path,
      'version = 1\n[log]\nlog_rotation_compress = false\nlog_rotation_max_size = 0\n[metrics]\ncollect_interval = "0s"\n',
    );
    expect(loadConfig(path, {}).config).toMatchObject({
      log: { log_rotation_compress: false, log_rotation_max_size: 0 },
      metrics: { collect_interval: 0 },
    });
  });

  test("a file that is not there is named", () => {
    expect(() => loadConfig("/nonexistent/config.toml", {})).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", message: expect.stringContaining("/nonexistent/config.toml") }),
    );
  });

  test("the shipped files load without a warning, and the unit keeps daemons alive and starts before containerd", () => {
    const shipped = join(import.meta.dirname, "../../../misc/snapshotter");
    const text = readFileSync(join(shipped, "config.toml"), "utf8").replace('"/etc/nydus/certs.d"', '""');
    return (async () => {
      await using root = temporaryRoot();
      const path = join(root.path, "config.toml");
      writeFileSync(path, text);
      expect(loadConfig(path, {}).warnings).toEqual([]);
      loadTemplate(join(shipped, "nydusd-config.json"), { optional: false });
      const unit = readFileSync(join(shipped, "nydus-snapshotter.service"), "utf8");
      expect(unit).toMatch(/^KillMode=process$/m);
      expect(unit).toMatch(/^Before=containerd\.service$/m);
    })();
  });

  test.for([
    ["24h", 86_400_000],
    ["1m30s", 90_000],
    ["300ms", 300],
    ["1.5s", 1500],
    [10_000_000, 10],
    ["0", 0],
    ["10", undefined],
    ["1 s", undefined],
    ["", undefined],
    [-1, undefined],
  ] as const)("the duration %j is %s ms", ([text, expected]) => {
    expect(parseDurationMs(text)).toBe(expected);
  });
});

describe("nydusd's template", () => {
  test.for([
    ["{", /JSON/],
    ["{}", /device: /],
    ['{"device":{"backend":{"type":"http-proxy"}}}', /device\.backend\.type: expected "registry"/],
  ] as const)("%j is refused with path and key", async ([text, expected]) => {
    await using root = temporaryRoot();
    const path = join(root.path, "t.json");
    writeFileSync(path, text);
    expect(() => loadTemplate(path, { optional: false })).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", message: expect.stringMatching(expected) }),
    );
  });

  test("only the default path may be absent", () => {
    expect(loadTemplate("/nonexistent", { optional: true }).device.backend.type).toBe("registry");
    expect(() => loadTemplate("/nonexistent", { optional: false })).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  });
});

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CannedDaemon, nydusctl } from "./support.ts";

let daemon: CannedDaemon;
beforeEach(async () => {
  daemon = await CannedDaemon.start();
});
afterEach(() => daemon[Symbol.asyncDispose]());

const ctl = (...argv: string[]) => nydusctl("--sock", daemon.socketPath, ...argv);

const info = {
  version: { package_ver: "v2.4.4", git_commit: "0123", build_time: "t", profile: "release", rustc: "r" },
  id: null,
  supervisor: null,
  state: "RUNNING",
  backend_collection: {
    "/images/app": {
      backend_type: "Rafs",
      mountpoint: "/images/app",
      mounted_time: "2026-03-04 05:06:07.123456789 +00:00:00",
      config: { rafs: { mode: "direct" }, cache: { prefetch: { enable: true, batch_size: 1048576 } } },
    },
  },
};

const zeros = [0, 0, 0, 0, 0, 0, 0, 0];
const backend = {
  backend_type: "registry",
  read_count: 9,
  read_errors: 0,
  read_amount_total: 5242880,
  read_cumulative_latency_millis_total: 300,
  read_cumulative_latency_millis_dist: [0, 3, 0, 10, 0, 0, 12, 200],
  read_count_block_size_dist: [0, 1, 0, 2, 0, 0, 1, 5],
  read_latency_sizes_dist: Array.from({ length: 8 }, () => zeros),
};

const cache = {
  underlying_files: ["ab12.blob.data"],
  store_path: "/var/lib/nydus/cache",
  partial_hits: 12,
  whole_hits: 30,
  total: 45,
  entries_count: 3,
  prefetch_data_amount: 1048576,
  prefetch_requests_count: 4,
  prefetch_workers: 8,
  prefetch_unmerged_chunks: 0,
  prefetch_cumulative_time_millis: 50,
  prefetch_begin_time_secs: 100,
  prefetch_begin_time_millis: 0,
  prefetch_end_time_secs: 100,
  prefetch_end_time_millis: 250,
  buffered_backend_size: 0,
  data_all_ready: false,
};

const fs = {
  files_account_enabled: false,
  access_pattern_enabled: false,
  record_latest_read_files_enabled: false,
  measure_latency: true,
  id: "/",
  nr_opens: 0,
  data_read: 5242880,
  block_count_read: zeros,
  fop_hits: [10, 0, 4, 4, 80, 1, 2, 0, 3, 55, 0, 6, 0, 1, 0],
  fop_errors: new Array(15).fill(0),
  fop_cumulative_latency_total: new Array(15).fill(0),
  read_latency_dist: [120, 3, 0, 0, 0, 0, 0, 0],
};

describe("texts, byte for byte", () => {
  test("info", async () => {
    daemon.answers.set("GET /api/v1/daemon", info);
    expect((await ctl("info")).out).toBe(`
Version:                "v2.4.4"
Status:                 "RUNNING"
Profile:                "release"
Commit:                 "0123"
Instances:
	Instance Mountpoint:  /images/app
	Type:  Rafs
	Mounted Time:  2026-03-04 5:06:07.123456789 +00:00:00
	Mode:  direct
	Prefetch:  true
	Prefetch Merging Size:  1048576

`);
  });

  test("metrics cache", async () => {
    daemon.answers.set("GET /api/v1/metrics/blobcache", cache);
    expect((await ctl("metrics", "cache")).out).toBe(`
Partial Hits:               12
Whole Hits:                 30
Total Read:                 45
Directory:                  "/var/lib/nydus/cache"
Files:                      ["ab12.blob.data"]
Persister Buffer:           0

Prefetch Workers:           8
Prefetch Amount:            1048576 = 1024 KB
Prefetch Requests:          4
Prefetch Average Size:      262144 Bytes
Prefetch Duration:          0.25 Seconds
Prefetch Bandwidth:         4 MB/S
Prefetch Request Latency:   0.0125 Seconds
Prefetch Unmerged:          0
`);
  });

  test("metrics cache without any prefetch, or while it runs, shows no NaN and no negative duration", async () => {
    const none = { ...cache, prefetch_requests_count: 0, prefetch_data_amount: 0, prefetch_begin_time_secs: 0, prefetch_end_time_secs: 0 };
    daemon.answers.set("GET /api/v1/metrics/blobcache", { ...none, prefetch_end_time_millis: 0 });
    expect((await ctl("metrics", "cache")).out).toContain("Prefetch Duration:          - Seconds");
    daemon.answers.set("GET /api/v1/metrics/blobcache", { ...cache, prefetch_end_time_secs: 0, prefetch_end_time_millis: 0 });
    expect((await ctl("metrics", "cache")).out).toContain("Prefetch Bandwidth:         - MB/S");
  });

  test("metrics backend", async () => {
    daemon.answers.set("GET /api/v1/metrics/backend", backend);
    const lines = (await ctl("metrics", "backend")).out.split("\n");
    expect(lines).toEqual([
      "",
      'Backend Type:       "registry"',
      "Read Amount:        5242880 Bytes (5 MB)",
      "Read Count:         9",
      "Read Errors:        0",
      "",
      "Block Sizes:             <1K     1K~     4K~     16K~    64K~    128K~   512K~   1M~     ",
      "Average Latency(millis): 0       3       0       5       0       0       12      40      ",
      "",
      "Block Sizes:             <1K     1K~     4K~     16K~    64K~    128K~   512K~   1M~     ",
      "Request Count:           0       1       0       2       0       0       1       5       ",
      "",
    ]);
  });

  test("metrics fsstats, with the daemon's real latency classes", async () => {
    daemon.answers.set("GET /api/v1/metrics", fs);
    expect((await ctl("metrics", "fsstats")).out.split("\n")).toEqual([
      "",
      "Read Latency:   <200us  ~1ms    ~20ms   ~50ms   ~500ms  ~1s     ~2s     2s~     ",
      "Reads Count:    120     3       0       0       0       0       0       0       ",
      "",
      "Read Errors: 0",
      "Read Data: 5242880Bytes (5MB)",
      "",
      "FOP Counters:",
      "Getattr(10) Readlink(0) Open(4) Release(4) Read(80) Statfs(1) Getxattr(2) Listxattr(0)",
      "Opendir(3) Lookup(55) Readdir(0) Readdirplus(6) Access(0) Forget(1) BatchForget(0)",
      "",
    ]);
  });

  test("--raw is one line of JSON with sorted keys, before or after the command", async () => {
    daemon.answers.set("GET /api/v1/daemon", info);
    const { out } = await ctl("info", "--raw");
    expect(out).toBe((await ctl("--raw", "info")).out);
    expect(Object.keys(JSON.parse(out))).toEqual(["backend_collection", "id", "state", "supervisor", "version"]);
  });
});

describe("commands", () => {
  test("mount sends the text of the configuration and encodes the mountpoint; umount takes the long option", async () => {
    const config = join(daemon.directory, "c.json");
    await writeFile(config, '{"a":1}');
    daemon.answers.set("POST /api/v1/mount", 204);
    daemon.answers.set("DELETE /api/v1/mount", 204);
    await expect(ctl("mount", "-s", "/i.boot", "-c", config, "-m", "/a b", "-t", "rafs", "--probe")).resolves.toEqual({
      exitCode: 0,
      out: "",
      err: "",
    });
    await expect(ctl("umount", "--mountpoint", "/a b")).resolves.toEqual({ exitCode: 0, out: "", err: "" });
    expect(daemon.requests).toEqual([
      'POST /api/v1/mount?mountpoint=%2Fa%20b {"source":"/i.boot","fs_type":"rafs","config":"{\\"a\\":1}","probe":true}',
      "DELETE /api/v1/mount?mountpoint=%2Fa%20b",
    ]);
  });

  test("a configuration file that can't be read fails before any request", async () => {
    const { exitCode, err } = await ctl("mount", "-s", "x", "-c", "/absent.json", "-m", "/a", "-t", "rafs");
    expect({ exitCode, err }).toEqual({ exitCode: 1, err: "Error: failed to read mount config /absent.json (ENOENT)\n" });
    expect(daemon.requests).toEqual([]);
  });

  test("set log-level sends the level; what the daemon refuses is exit code 1 with its words", async () => {
    daemon.answers.set("PUT /api/v1/daemon", 500);
    const { exitCode, err } = await ctl("set", "log-level", "bogus");
    expect(exitCode).toBe(1);
    expect(err).toContain("refused with 500");
    expect(daemon.requests).toEqual(['PUT /api/v1/daemon {"log_level":"bogus"}']);
  });

  test("metrics selects an object by --id", async () => {
    daemon.answers.set("GET /api/v1/metrics", fs);
    await ctl("metrics", "fsstats", "--id", "/images/app");
    expect(daemon.requests).toEqual(["GET /api/v1/metrics?id=%2Fimages%2Fapp"]);
  });
});

describe("wrong command lines", () => {
  test.each([
    ["an unknown command", ["frob"]],
    ["an unknown category", ["metrics", "cpu"]],
    ["--interval where it means nothing", ["metrics", "cache", "-I", "1"]],
    ["mount without --source", ["mount", "-m", "/a", "-t", "rafs"]],
    ["an unknown type", ["mount", "-s", "x", "-c", "x", "-m", "/a", "-t", "ext4"]],
  ])("%s is exit code 2", async (_name, argv) => {
    expect((await ctl(...argv)).exitCode).toBe(2);
  });

  test.each(["x", "4294967296", "0"])("metrics backend -I %s is exit code 1", async (interval) => {
    expect((await ctl("metrics", "backend", "-I", interval)).exitCode).toBe(1);
  });

  test("without --sock the option is named, exit code 2", async () => {
    expect(await nydusctl("info")).toMatchObject({ exitCode: 2, err: expect.stringContaining("--sock") });
  });

  test("a daemon that is not there is one line that names the socket, exit code 1", async () => {
    const { exitCode, err } = await nydusctl("-S", "/absent.sock", "info");
    expect(exitCode).toBe(1);
    expect(err).toContain("there is no socket /absent.sock");
  });

  test("an answer of another form is one line that names the key", async () => {
    daemon.answers.set("GET /api/v1/daemon", { nonsense: true });
    expect((await ctl("info")).err).toContain("version");
  });
});

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { findMount } from "@nydus-ts/linux";
import type { NydusApiError } from "@nydus-ts/nydus-api";
import { compareListings, goldenAbsent, goldenDir, listTree, readListing, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { copyCase, endOfNydusd, localConfig, startNydusd } from "./support.ts";

let workspace: Workspace;
beforeEach(() => {
  workspace = new Workspace("nydusd");
});
afterEach(() => workspace[Symbol.asyncDispose]());

const caseName = "small-v6-zstd-blake3";
const gone = async (program: { exited: Promise<number> }, mountpoint: string): Promise<number> => {
  const code = await program.exited;
  expect(findMount(mountpoint)).toBeUndefined();
  return code;
};

describe.skipIf(goldenDir() === undefined)(`a daemon with a golden image${goldenDir() === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  test.each([caseName, "small-v5-zstd-blake3"])(
    "--bootstrap and --localfs-dir mount %s at the root; SIGTERM ends it with code 0 and leaves no mount",
    async (name) => {
      const { golden, bootstrap, blobs } = await copyCase(workspace, name);
      const nydusd = await startNydusd(workspace, ["fuse", "--bootstrap", bootstrap, "--localfs-dir", blobs]);
      expect(compareListings(await listTree(nydusd.mountpoint), readListing(golden))).toEqual([]);
      expect((await nydusd.client.info()).state).toBe("RUNNING");
      nydusd.program.kill("SIGTERM");
      expect(await gone(nydusd.program, nydusd.mountpoint)).toBe(0);
      expect(existsSync(nydusd.socket)).toBe(false);
    },
  );

  test("the form without sub-command and a virtual mountpoint work, and a blob with its bootstrap inside is an image", async () => {
    const { golden, blobs } = await copyCase(workspace, "small-v6-inline");
    const [blob] = (await readdir(blobs)).filter((name) => /^[0-9a-f]{64}$/.test(name));
    const nydusd = await startNydusd(workspace, ["-B", join(blobs, blob!), "-D", blobs, "-m", "/deep/inside", "--fuse-threads", "1"]);
    expect(compareListings(await listTree(join(nydusd.mountpoint, "deep/inside")), readListing(golden))).toEqual([]);
  });

  test("several images live in one daemon; equal configurations share one fetch of each chunk", async () => {
    const { golden, bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    const request = { source: bootstrap, fs_type: "rafs", config: localConfig(blobs, cache) };
    await nydusd.client.mount("/a", request);
    await nydusd.client.mount("/b", request);
    expect(compareListings(await listTree(join(nydusd.mountpoint, "a")), readListing(golden))).toEqual([]);
    const first = await nydusd.client.backendMetrics();
    expect(first.read_count).toBeGreaterThan(0);
    expect(compareListings(await listTree(join(nydusd.mountpoint, "b")), readListing(golden))).toEqual([]);
    expect((await nydusd.client.backendMetrics("/b")).read_count).toBe(first.read_count);
    await nydusd.client.umount("/a");
    expect(await readdir(nydusd.mountpoint)).not.toContain("a/anything");
    expect(compareListings(await listTree(join(nydusd.mountpoint, "b")), readListing(golden))).toEqual([]);
  });

  test("info, metrics, events, backend and Prometheus text tell what happened, without secrets", async () => {
    const { golden, bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    await nydusd.client.mount("/a", { source: bootstrap, fs_type: "rafs", config: localConfig(blobs, cache) });
    const size = readListing(golden).reduce((total, entry) => total + (entry.type === "file" ? entry.size : 0), 0);
    await listTree(join(nydusd.mountpoint, "a"));
    const info = await nydusd.client.info();
    expect(info.backend_collection?.["/a"]).toMatchObject({ backend_type: "Rafs", mountpoint: "/a", config: { version: 2 } });
    const fs = await nydusd.client.metrics();
    expect(fs).toMatchObject({ id: "/a", measure_latency: true });
    expect(fs.data_read).toBeGreaterThan(0);
    expect(size).toBeGreaterThan(0);
    const cacheMetrics = await nydusd.client.blobcacheMetrics();
    expect(cacheMetrics.store_path).toBe(cache);
    expect(cacheMetrics.entries_count).toBeGreaterThan(0);
    expect(await nydusd.client.inflight()).toEqual([]);
    expect((await nydusd.client.events()).errors).toEqual([]);
    expect(await nydusd.client.backend("/a")).toMatchObject({ version: 0x600, chunk_size: 0x100000 });
    expect(await nydusd.client.prometheus()).toMatch(/nydusd_read_bytes_total\{mountpoint="\/a"\} \d+/);
    await nydusd.client.setLogLevel("DEBUG");
    await expect(nydusd.client.setLogLevel("loud")).rejects.toMatchObject({ status: 500 });
  });

  test("mounts that can't be are refused with the status and the reason, and leave nothing behind", async () => {
    const { bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    const config = localConfig(blobs, cache);
    const refused = async (mountpoint: string, request: { source: string; fs_type: string; config: string }): Promise<NydusApiError> =>
      nydusd.client.mount(mountpoint, request).then(
        () => expect.unreachable("the mount was accepted"),
        (error: NydusApiError) => error,
      );
    const good = { source: bootstrap, fs_type: "rafs", config };
    await nydusd.client.mount("/a", good);
    expect(await refused("/a", good)).toMatchObject({ status: 500, daemonCode: "MOUNT_EXISTS" });
    expect(await refused("/b", { ...good, source: "/absent.boot" })).toMatchObject({ status: 500, daemonCode: "MOUNT_SOURCE" });
    expect(await refused("/b", { ...good, source: join(blobs, (await readdir(blobs))[0]!) })).toMatchObject({ daemonCode: "MOUNT_IMAGE" });
    const wrong = await refused("/b", { ...good, config: localConfig(blobs, cache, { mode: "fast", amplify_io: -1 }) });
    expect(wrong).toMatchObject({ status: 500, daemonCode: "CONFIG_INVALID" });
    expect(wrong.daemonMessage).toContain("amplify_io");
    expect(wrong.daemonMessage).toContain("mode");
    expect(await refused("/b", { ...good, fs_type: "passthrough_fs" })).toMatchObject({ status: 501 });
    expect(await refused("b", good)).toMatchObject({ status: 400 });
    await expect(nydusd.client.umount("/b")).rejects.toMatchObject({ status: 500, daemonCode: "MOUNT_NOT_FOUND" });
    expect(Object.keys((await nydusd.client.info()).backend_collection ?? {})).toEqual(["/a"]);
  });

  test("v6 with digest_validate is mounted and verified; the original refuses it and the container dies later", async () => {
    const { golden, bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    await nydusd.client.mount("/", { source: bootstrap, fs_type: "rafs", config: localConfig(blobs, cache, { digest_validate: true }) });
    expect(compareListings(await listTree(nydusd.mountpoint), readListing(golden))).toEqual([]);
  });

  test("an external umount ends the daemon with code 0", async () => {
    const { bootstrap, blobs } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse", "-B", bootstrap, "-D", blobs]);
    const { umount2 } = await import("@nydus-ts/linux");
    umount2(nydusd.mountpoint, 0);
    expect(await gone(nydusd.program, nydusd.mountpoint)).toBe(0);
  });

  test("a remount gives readers another configuration without a break", async () => {
    const { bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    const config = (dir: string): string => localConfig(dir, cache);
    await nydusd.client.mount("/a", { source: bootstrap, fs_type: "rafs", config: config(workspace.path("absent-for-now")) });
    const file = readListing((await copyCase(workspace, caseName)).golden).find((entry) => entry.type === "file" && entry.size > 0)!;
    const path = join(nydusd.mountpoint, "a", String(file.path));
    await expect(readFile(path)).rejects.toMatchObject({ code: "EIO" });
    await nydusd.client.remount("/a", { source: bootstrap, fs_type: "rafs", config: config(blobs) });
    expect((await readFile(path)).length).toBe(file.size);
    await expect(nydusd.client.remount("/a", { source: "/other", fs_type: "rafs", config: config(blobs) })).rejects.toMatchObject({
      status: 501,
    });
  });

  test("prefetch fetches the listed files, or all of the image, without a reader", async () => {
    const { bootstrap, blobs, cache } = await copyCase(workspace, caseName);
    const nydusd = await startNydusd(workspace, ["fuse"]);
    const config = localConfig(blobs, cache, { fs_prefetch: { enable: true, prefetch_all: true } });
    await nydusd.client.mount("/a", { source: bootstrap, fs_type: "rafs", config });
    await expect.poll(async () => (await nydusd.client.blobcacheMetrics()).data_all_ready, { timeout: 10_000 }).toBe(true);
    expect((await nydusd.client.blobcacheMetrics()).prefetch_data_amount).toBeGreaterThan(0);
    expect((await stat(join(cache, (await readdir(cache)).find((name) => name.endsWith(".blob.data"))!))).size).toBeGreaterThan(0);
  });
});

describe("the API", () => {
  const raw = (
    socketPath: string,
    method: string,
    path: string,
    body?: string,
  ): Promise<{ status: number; body: string; headers: unknown }> =>
    new Promise((resolve, reject) => {
      const call = request({ socketPath, method, path }, (response) => {
        let text = "";
        response.on("data", (part: Buffer) => {
          text += part.toString();
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body: text, headers: response.headers }));
      });
      call.on("error", reject);
      call.end(body);
    });

  test("answers unknown routes, wrong methods and wrong bodies as the specification says", async () => {
    const { socket } = await startNydusd(workspace, ["singleton"]);
    expect(await raw(socket, "GET", "/api/v1/nothing")).toMatchObject({ status: 404 });
    expect(await raw(socket, "GET", "/api/v1/daemon/")).toMatchObject({ status: 404 });
    expect(await raw(socket, "DELETE", "/api/v1/daemon")).toMatchObject({ status: 400 });
    expect(await raw(socket, "PUT", "/api/v1/daemon")).toMatchObject({ status: 400 });
    expect(await raw(socket, "PUT", "/api/v1/daemon", "{")).toMatchObject({ status: 400 });
    expect(await raw(socket, "PUT", "/api/v1/daemon/start", "{}")).toMatchObject({ status: 400 });
    expect(await raw(socket, "PUT", "/api/v1/daemon/start")).toMatchObject({ status: 400 });
    expect(await raw(socket, "POST", "/api/v1/mount", "{}")).toMatchObject({ status: 400 });
    expect(await raw(socket, "POST", "/api/v1/mount?mountpoint=/a", '{"source":"x","fs_type":"rafs","config":""}')).toMatchObject({
      status: 501,
    });
    expect(await raw(socket, "GET", "/api/v2/blobs?domain_id=x")).toMatchObject({ status: 501 });
    expect(await raw(socket, "GET", "/api/v1/metrics")).toMatchObject({ status: 404 });
    expect(await raw(socket, "GET", "http://localhost/api/v2/daemon")).toMatchObject({ status: 200, headers: { server: "Nydus API" } });
    const { body } = await raw(socket, "GET", "/api/v1/nothing");
    expect(JSON.parse(body)).toEqual({ code: "ROUTE_UNKNOWN", message: expect.stringContaining("/api/v1/nothing") });
  });

  test("sendfd without a supervisor is refused, never a crash", async () => {
    const nydusd = await startNydusd(workspace, ["fuse"]);
    await expect(nydusd.client.sendFd()).rejects.toMatchObject({ status: 500, daemonCode: "SUPERVISOR" });
    await expect(nydusd.client.takeover()).rejects.toMatchObject({ status: 400, daemonCode: "STATE_REFUSED" });
    expect((await nydusd.client.info()).state).toBe("RUNNING");
  });

  test("a file at the socket's path that is no socket is left alone", async () => {
    const path = workspace.path("precious");
    writeFileSync(path, "data");
    const { exitCode, output } = await endOfNydusd(workspace, ["singleton", "--apisock", path]);
    expect(exitCode).toBe(1);
    expect(output).toContain("is no socket");
    expect(readFileSync(path, "utf8")).toBe("data");
  });

  test("a second daemon on a socket that answers does not steal it", async () => {
    const first = await startNydusd(workspace, ["fuse"]);
    const { exitCode, output } = await endOfNydusd(workspace, ["singleton", "--apisock", first.socket]);
    expect(exitCode).toBe(1);
    expect(output).toContain("another daemon answers");
    expect((await first.client.info()).state).toBe("RUNNING");
  });
});

describe("wrong starts", () => {
  test.each([
    ["no mountpoint", ["fuse"], 2, "--mountpoint"],
    ["an unknown option", ["fuse", "--frob"], 2, "--frob"],
    ["too many threads", ["fuse", "-M", "/tmp", "--fuse-threads", "2000"], 2, "1 to 1024"],
    ["a level that is none", ["fuse", "-M", "/tmp", "--log-level", "loud"], 2, "loud"],
    ["--id without --supervisor", ["fuse", "-M", "/tmp", "--id", "x"], 2, "--supervisor"],
    ["a mode of the original that is not here", ["virtiofs", "--sock", "/x"], 2, "not built in this version"],
    ["a mountpoint that is not there", ["fuse", "-M", "/absent/mnt"], 1, "/absent/mnt"],
    ["a mountpoint that is a file", ["fuse", "-M", "/etc/hostname"], 1, "not a directory"],
    ["a bootstrap without data", ["fuse", "-M", "/tmp", "-B", "/x"], 1, "both --config and --localfs-dir are missing"],
    ["a configuration that is not there", ["fuse", "-M", "/tmp", "-B", "/x", "-C", "/absent.json"], 1, "/absent.json"],
  ])("%s is one clear line", async (_name, args, code, text) => {
    const { exitCode, output } = await endOfNydusd(workspace, args as string[]);
    expect(output).toContain(text);
    expect(exitCode).toBe(code);
    expect(output).not.toMatch(/\n\s+at /);
  });

  test("--version prints the block of the original's labels", async () => {
    const { exitCode, output } = await endOfNydusd(workspace, ["--version"]);
    expect(exitCode).toBe(0);
    expect(output).toMatch(/^Version: \tv\d+\.\d+\.\d+\nGit Commit: \t.+\nBuild Time: \t.+\nProfile: \t.+\n/);
  });

  test("a log file gets the log, stderr stays empty", async () => {
    const logFile = workspace.path("logs", "nydusd.log");
    const nydusd = await startNydusd(workspace, ["fuse", "--log-file", logFile, "--log-level", "debug"]);
    expect(nydusd.log()).toBe("");
    expect(readFileSync(logFile, "utf8")).toMatch(/INFO serving /);
  });
});

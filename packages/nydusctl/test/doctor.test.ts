import { mkdir, writeFile } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkContainerd } from "../src/doctor/containerd.ts";
import { examine } from "../src/doctor/doctor.ts";
import type { Finding } from "../src/doctor/finding.ts";
import { checkFileSystems, checkFuse, checkKernel, checkLimits } from "../src/doctor/kernel.ts";
import { checkMirrors, checkRegistry, hostOf } from "../src/doctor/registry.ts";
import { CannedDaemon, nydusctl } from "./support.ts";

let daemon: CannedDaemon;
let folder: string;
beforeEach(async () => {
  daemon = await CannedDaemon.start();
  folder = daemon.directory;
});
afterEach(() => daemon[Symbol.asyncDispose]());

const address = "/run/containerd-nydus/containerd-nydus-grpc.sock";
const faults = (findings: readonly Finding[]): readonly Finding[] => findings.filter((finding) => finding.status !== "ok");

async function containerd(text: string): Promise<{ findings: Finding[]; facts: { hostsDirs: readonly string[] } }> {
  const configPath = join(folder, "containerd.toml");
  await writeFile(configPath, text);
  return checkContainerd({ configPath, snapshotterAddress: address, snapshotterName: "nydus" });
}

const plugin = `[proxy_plugins.nydus]\n  type = "snapshot"\n  address = "${address}"\n`;

describe("containerd's configuration", () => {
  test.each([
    ["version 1", `${plugin}[plugins.cri.containerd]\nsnapshotter = "nydus"\ndisable_snapshot_annotations = false\n`],
    [
      "version 2",
      `version = 2\n${plugin}[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "nydus"\ndisable_snapshot_annotations = false\n`,
    ],
    [
      "version 3",
      `version = 3\n${plugin}[plugins.'io.containerd.cri.v1.images']\nsnapshotter = "nydus"\ndisable_snapshot_annotations = false\n`,
    ],
  ])("of %s that is right has no fault", async (_name, text) => {
    const { findings } = await containerd(text);
    expect(faults(findings)).toEqual([]);
  });

  test("that knows no plugin is told the lines of its own version", async () => {
    const { findings } = await containerd("version = 3\n");
    const missing = findings.find((finding) => finding.text.includes("[proxy_plugins.nydus] is missing"));
    expect(missing?.status).toBe("bad");
    expect(missing?.fix).toContain("[plugins.'io.containerd.cri.v1.images']");
  });

  test("with another address, annotations off, and layers thrown away: each is its own finding with its line", async () => {
    const { findings } = await containerd(`version = 2
[proxy_plugins.nydus]
  type = "snapshot"
  address = "/elsewhere.sock"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "nydus"
  discard_unpacked_layers = true
`);
    expect(faults(findings).map((finding) => [finding.status, finding.fix?.at(-1)])).toEqual([
      ["bad", `  address = "${address}"`],
      ["bad", "  disable_snapshot_annotations = false"],
      ["warn", "  discard_unpacked_layers = false"],
    ]);
  });

  test("that is no TOML is named with its line, and one that is missing with how to make it", async () => {
    expect(faults((await containerd("version = 2\n= x\n")).findings)[0]?.text).toContain("containerd.toml:2:");
    const { findings } = checkContainerd({ configPath: join(folder, "absent"), snapshotterAddress: address, snapshotterName: "nydus" });
    expect(findings[0]?.fix?.[0]).toContain("containerd config default");
  });

  test("a runtime of its own snapshotter counts as used", async () => {
    const { findings } = await containerd(`version = 2\n${plugin}[plugins."io.containerd.grpc.v1.cri".containerd]
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.lazy]
snapshotter = "nydus"
`);
    expect(faults(findings)).toEqual([]);
  });
});

describe("the machine", () => {
  test("an old kernel, a missing /dev/fuse, no overlayfs and low limits are found", async () => {
    await mkdir(join(folder, "proc/self"), { recursive: true });
    await mkdir(join(folder, "proc/sys/fs"), { recursive: true });
    await writeFile(join(folder, "proc/filesystems"), "nodev\tsysfs\n\text4\n");
    await writeFile(join(folder, "proc/self/limits"), "Max open files            1024                 4096                 files\n");
    await writeFile(join(folder, "proc/sys/fs/file-max"), "1000\n");
    const roots = { proc: join(folder, "proc"), dev: join(folder, "dev"), kernelRelease: "4.4.0-generic" };
    expect(checkKernel(roots)[0]?.status).toBe("bad");
    expect(checkKernel({ ...roots, kernelRelease: "6.1.0" })[0]?.status).toBe("warn");
    expect(checkFuse(roots)[0]).toMatchObject({ status: "bad", fix: expect.arrayContaining(["modprobe fuse"]) });
    expect(checkFileSystems(roots).map((finding) => finding.status)).toEqual(["bad", "warn"]);
    expect(checkLimits(roots, 65_536).map((finding) => finding.status)).toEqual(["warn", "bad"]);
  });
});

describe("mirrors", () => {
  async function rule(directory: string, host: string, url: string): Promise<void> {
    await mkdir(join(folder, directory, host), { recursive: true });
    await writeFile(join(folder, directory, host, "hosts.toml"), `server = "https://${host}"\n[host."${url}"]\n`);
  }
  const compare = (): Finding[] =>
    checkMirrors({
      containerdDirs: [join(folder, "theirs")],
      snapshotterDirs: [join(folder, "ours")],
      snapshotterConfig: "/etc/nydus/config.toml",
    });

  test("a mirror that only containerd knows is wrong, and the lines that share its directory are given", async () => {
    await rule("theirs", "registry.example", "http://mirror:5000");
    const [finding] = compare();
    expect(finding).toMatchObject({ status: "bad", fix: expect.arrayContaining([`  dir = "${join(folder, "theirs")}"`]) });
    expect(finding?.text).toContain("registry.example");
  });

  test("the same hosts on both sides are in order, other hosts are not", async () => {
    await rule("theirs", "registry.example", "http://mirror:5000");
    await rule("ours", "registry.example", "http://mirror:5000");
    expect(faults(compare())).toEqual([]);
    await rule("ours", "registry.example", "http://other:5000");
    expect(compare()[0]?.status).toBe("bad");
  });
});

describe("the registry", () => {
  test("references name their host, Docker Hub by default", () => {
    expect(hostOf("alpine")).toBe("registry-1.docker.io");
    expect(hostOf("library/alpine:3")).toBe("registry-1.docker.io");
    expect(hostOf("docker.io/library/alpine")).toBe("registry-1.docker.io");
    expect(hostOf("localhost:5000/app:1")).toBe("localhost:5000");
    expect(hostOf("registry.example/app@sha256:00")).toBe("registry.example");
  });

  test("a loopback registry answers over plain HTTP, 401 is an answer; nobody there is wrong", async () => {
    const server = createHttpServer((_request, response) => response.writeHead(401).end());
    const { promise, resolve } = Promise.withResolvers<void>();
    server.listen(0, "127.0.0.1", resolve);
    await promise;
    const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    expect(await checkRegistry(`${host}/app:1`, 2000)).toMatchObject({ status: "ok" });
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
    expect(await checkRegistry(`${host}/app:1`, 2000)).toMatchObject({ status: "bad", text: expect.stringContaining("ECONNREFUSED") });
  });
});

describe("the whole", () => {
  test("sockets that answer and a right configuration leave nothing wrong; --json says so and the exit code too", async () => {
    const grpc = createServer();
    const containerdSocket = join(folder, "containerd.sock");
    const { promise, resolve } = Promise.withResolvers<void>();
    grpc.listen(containerdSocket, resolve);
    await promise;
    const config = join(folder, "containerd.toml");
    const lines = `version = 2\n[proxy_plugins.nydus]\n type = "snapshot"\n address = "${containerdSocket}"\n[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "nydus"\ndisable_snapshot_annotations = false\n`;
    await writeFile(config, lines);
    daemon.answers.set("GET /api/v1/daemon", { version: { package_ver: "v1" }, state: "RUNNING", backend_collection: {} });
    const options = [
      "--containerd-config",
      config,
      "--containerd-address",
      containerdSocket,
      "--address",
      containerdSocket,
      "--root",
      folder,
    ];
    const argv = ["--sock", daemon.socketPath, "doctor", ...options, "--snapshotter-config", join(folder, "absent.toml")];
    const { exitCode, out } = await nydusctl(...argv, "--json");
    grpc.close();
    const { findings } = JSON.parse(out) as { findings: Finding[] };
    const onThisMachine = ["kernel", "fuse", "overlayfs", "erofs", "limits", "disk"];
    expect(findings.filter((finding) => finding.status !== "ok" && !onThisMachine.includes(finding.check))).toEqual([]);
    expect(findings.filter((finding) => finding.check === "nydusd")[0]?.text).toContain("RUNNING");
    expect(exitCode).toBe(findings.some((finding) => finding.status === "bad") ? 1 : 0);
  });

  test("a machine without anything is exit code 1, and each wrong thing has a fix below it", async () => {
    const absent = join(folder, "absent");
    const argv = [
      "--containerd-config",
      absent,
      "--containerd-address",
      absent,
      "--address",
      absent,
      "--root",
      folder,
      "--snapshotter-config",
      absent,
    ];
    const { exitCode, out } = await nydusctl("doctor", ...argv);
    expect(exitCode).toBe(1);
    expect(out).toContain("systemctl start containerd");
    expect(out).toMatch(/\d+ wrong, \d+ to look at, \d+ in order\n$/);
  });

  test("a check that fails itself is a finding, not the end", async () => {
    const absent = join(folder, "absent");
    const findings = await examine({
      containerdConfig: absent,
      containerdAddress: absent,
      snapshotterConfig: absent,
      snapshotterName: "nydus",
      root: folder,
      daemonSockets: [],
      references: [],
      machine: { proc: absent, dev: "/dev", kernelRelease: "6.18.0" },
    });
    expect(findings.some((finding) => finding.text.startsWith("the check itself failed"))).toBe(true);
  });
});

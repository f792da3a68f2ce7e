import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { TestRegistry, type TestRegistryOptions } from "@nydus-ts/registry-client/testing";
import { compareListings, goldenAbsent, goldenDir, listTree, readListing, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { copyCase, localConfig, type Nydusd, registryConfig, startNydusd } from "./support.ts";

const caseName = "small-v6-zstd-blake3";
const basic = (text: string): string => Buffer.from(text).toString("base64");

describe.skipIf(goldenDir() === undefined)(`images from a registry${goldenDir() === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let image: Awaited<ReturnType<typeof copyCase>>;
  let nydusd: Nydusd;

  beforeEach(async () => {
    workspace = new Workspace("nydusd-registry");
    image = await copyCase(workspace, caseName);
  });
  afterEach(() => workspace[Symbol.asyncDispose]());

  async function serve(options: TestRegistryOptions = {}): Promise<TestRegistry> {
    const registry = await TestRegistry.start(options);
    workspace.defer(() => registry[Symbol.asyncDispose]());
    for (const name of readdirSync(image.blobs)) registry.putBlob(readFileSync(join(image.blobs, name)), "app");
    return registry;
  }

  const listing = () => readListing(image.golden);
  const someFile = (): string => String(listing().find((entry) => entry.type === "file" && entry.size > 0)!.path);
  const mount = (config: string, options: { probe?: boolean; at?: string } = {}) =>
    nydusd.client.mount(options.at ?? "/a", {
      source: image.bootstrap,
      fs_type: "rafs",
      config,
      ...(options.probe === undefined ? {} : { probe: options.probe }),
    });
  const everything = async (at = "a"): Promise<string[]> => compareListings(await listTree(join(nydusd.mountpoint, at)), listing());

  test("every byte is right, each chunk is fetched once, and credentials show up nowhere", async () => {
    const registry = await serve({ auth: { kind: "bearer", username: "user", password: "hunter2" } });
    nydusd = await startNydusd(workspace, ["fuse", "--log-level", "trace"]);
    await mount(registryConfig(registry.host, image.cache, { backend: { auth: basic("user:hunter2") } }), { probe: true });
    expect(await everything()).toEqual([]);
    const { blobBytes } = registry.counters;
    expect(await everything()).toEqual([]);
    expect(registry.counters.blobBytes).toBe(blobBytes);
    const shown = JSON.stringify(await nydusd.client.info()) + (await nydusd.client.prometheus()) + nydusd.log();
    expect(shown).not.toContain("hunter2");
    expect(shown).not.toContain(basic("user:hunter2"));
  });

  test("IMAGE_PULL_AUTH replaces the credentials of the start mount", async () => {
    const registry = await serve({ auth: { kind: "basic", username: "user", password: "hunter2" } });
    const config = workspace.path("config.json");
    writeFileSync(config, registryConfig(registry.host, image.cache, { backend: { auth: basic("user:old") } }));
    nydusd = await startNydusd(workspace, ["fuse", "-B", image.bootstrap, "-C", config, "-m", "/a"], {
      env: { IMAGE_PULL_AUTH: basic("user:hunter2") },
    });
    expect(await everything()).toEqual([]);
  });

  test("credentials given at run time are used by the next read; before that readers get EIO", async () => {
    const registry = await serve({ auth: { kind: "basic", username: "user", password: "hunter2" } });
    nydusd = await startNydusd(workspace, ["fuse"]);
    await mount(registryConfig(registry.host, image.cache));
    await expect(readFile(join(nydusd.mountpoint, "a", someFile()))).rejects.toMatchObject({ code: "EIO" });
    await nydusd.client.setConfig("/a", { registry_auth: basic("user:hunter2") });
    expect(await everything()).toEqual([]);
    expect((await nydusd.client.events()).errors.length).toBeGreaterThan(0);
  });

  test.each([
    ["401", { status: 401 }],
    ["403", { status: 403 }],
    ["404", { status: 404 }],
    ["500", { status: 500 }],
    ["a cut in the middle of the body", { resetAfterBytes: 10 }],
    ["another content", { corrupt: true }],
    ["silence", { stallMs: Number.POSITIVE_INFINITY }],
  ])("a registry that answers %s: the reader gets EIO, nothing wrong is cached, and later reads are right", async (_name, fault) => {
    const registry = await serve();
    nydusd = await startNydusd(workspace, ["fuse"]);
    const local = join(image.cache, "local");
    mkdirSync(local, { recursive: true });
    await mount(localConfig(image.blobs, local), { at: "/local" });
    await mount(registryConfig(registry.host, image.cache, { backend: { timeout: 1, connect_timeout: 1 } }));
    const bad = registry.faults.add({ path: /blobs/ }, fault);
    await expect(readFile(join(nydusd.mountpoint, "a", someFile()))).rejects.toMatchObject({ code: "EIO" });
    expect(await everything("local")).toEqual([]);
    bad.remove();
    expect(await everything()).toEqual([]);
    expect(nydusd.log()).toContain("blob ");
  });

  test("an absent registry fails a mount with probe, with host and cause, and leaves none; without probe it fails the read", async () => {
    nydusd = await startNydusd(workspace, ["fuse"]);
    const config = registryConfig("127.0.0.1:1", image.cache, { backend: { timeout: 1 } });
    await expect(mount(config, { probe: true })).rejects.toMatchObject({
      daemonCode: "MOUNT_BACKEND",
      daemonMessage: expect.stringMatching(/127\.0\.0\.1:1/),
    });
    expect(Object.keys((await nydusd.client.info()).backend_collection ?? {})).toEqual([]);
    await mount(config);
    await expect(readFile(join(nydusd.mountpoint, "a", someFile()))).rejects.toMatchObject({ code: "EIO" });
  });

  test("a mount with probe needs no registry when the cache has data", async () => {
    const registry = await serve();
    nydusd = await startNydusd(workspace, ["fuse"]);
    await mount(registryConfig(registry.host, image.cache));
    expect(await everything()).toEqual([]);
    await nydusd.client.umount("/a");
    registry.faults.add({}, { status: 500 });
    await mount(registryConfig(registry.host, image.cache), { probe: true });
    expect(await everything()).toEqual([]);
  });

  test("two images of different repositories share a blob's cache, and each can fetch when the other's repository is gone", async () => {
    const registry = await serve();
    for (const name of readdirSync(image.blobs)) registry.putBlob(readFileSync(join(image.blobs, name)), "other");
    nydusd = await startNydusd(workspace, ["fuse"]);
    await mount(registryConfig(registry.host, image.cache));
    await mount(registryConfig(registry.host, image.cache, { repo: "other" }), { at: "/b" });
    registry.faults.add({ path: /v2\/other\// }, { status: 404 });
    expect(await everything("b")).toEqual([]);
    const { blobBytes } = registry.counters;
    expect(await everything("a")).toEqual([]);
    expect(registry.counters.blobBytes).toBe(blobBytes);
  });

  test("a hosts.toml directory is honoured, and replaced without a restart", async () => {
    const registry = await serve();
    const dead = "127.0.0.1:1";
    const directory = workspace.path("certs.d", "registry.example");
    mkdirSync(directory, { recursive: true });
    const hosts = (host: string): void =>
      writeFileSync(join(directory, "hosts.toml"), `server = "http://${dead}"\n[host."http://${host}"]\n`);
    hosts(dead);
    nydusd = await startNydusd(workspace, ["fuse"]);
    await mount(registryConfig("registry.example", image.cache, { backend: { hosts_dirs: [workspace.path("certs.d")], timeout: 1 } }));
    const read = (): Promise<string> =>
      readFile(join(nydusd.mountpoint, "a", someFile())).then(
        () => "read",
        (error) => String(error.code),
      );
    expect(await read()).toBe("EIO");
    hosts(registry.host);
    await expect.poll(read, { timeout: 20_000 }).toBe("read");
    expect(await everything()).toEqual([]);
  });

  test("the log names blob, range and cause of a failed read in one line", async () => {
    const registry = await serve();
    registry.faults.add({ path: /blobs/ }, { status: 404 });
    nydusd = await startNydusd(workspace, ["fuse"]);
    await mount(registryConfig(registry.host, image.cache));
    await expect(readFile(join(nydusd.mountpoint, "a", someFile()))).rejects.toMatchObject({ code: "EIO" });
    const lines = nydusd
      .log()
      .split("\n")
      .filter((text) => text.includes("EIO"));
    // The kernel may have asked twice: with read-ahead, and for the one page.
    expect(lines.length).toBeGreaterThan(0);
    expect(lines[0]).toMatch(
      /ERROR \[fuse\] \/a: a read failed with EIO: inode \d+ \[\d+\.\.\d+\), blob .*sha256:[0-9a-f]{64}.*answered 404/,
    );
  });
});

import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { status } from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { daemonProcesses } from "../src/daemons/process.ts";
import {
  FIXTURE_BLOB,
  FIXTURE_BOOTSTRAP,
  IMAGE_REF,
  LABEL,
  lowersOf,
  pullNydusImage,
  REGISTRY_TEMPLATE,
  startStack,
  upperOf,
} from "./support/stack.ts";
import { temporaryRoot, tinyNydusd, until } from "./support/world.ts";

const instanceConfig = (root: string, key: string): string => {
  const [daemon] = readdirSync(join(root, "config"));
  return join(root, "config", daemon, key, "config.json");
};

test("the blob layers of a nydus image are skipped, the bootstrap is unpacked, and a container is served from one mount", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const { client } = stack;
  const top = await pullNydusImage(client, { blobs: 3 });
  const { mounts } = await client.call("Prepare", { key: "test/9/container", parent: top });
  expect(mounts).toHaveLength(1);
  expect(mounts[0].type).toBe("overlay");
  expect(lowersOf(mounts)).toEqual([join(stack.root, "mnt/4")]);
  expect(await client.call("Mounts", { key: "test/9/container" })).toEqual({ mounts });
  const view = await client.call("View", { key: "test/10/view", parent: top });
  expect(lowersOf(view.mounts)).toEqual([join(stack.root, "mnt/4"), join(stack.root, "snapshots/6/fs")]);
  expect(await client.call("Mounts", { key: "test/10/view" })).toEqual(view);
  for (const [key, mode] of [
    ["test/9/container", "lazy"],
    [top, "lazy"],
    ["sha256:image-0", "lazy"],
  ] as const)
    expect((await client.call("Stat", { key })).info.labels[`${LABEL}nydus-mode`]).toBe(mode);
  expect(await client.names(["kind==active"])).toEqual(["test/9/container"]);
});

test("a layer of ordinary files on top of a nydus image is part of every mount above it", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const { client } = stack;
  const top = await pullNydusImage(client);
  const layer = await client.call("Prepare", {
    key: "test/4/extract",
    parent: top,
    labels: { "containerd.io/snapshot.ref": "sha256:extra" },
  });
  expect(lowersOf(layer.mounts)).toEqual([join(stack.root, "mnt/2")]);
  await client.call("Commit", { key: "test/4/extract", name: "test/5/sha256:extra" });
  const { mounts } = await client.call("Prepare", { key: "test/6/c", parent: "test/5/sha256:extra" });
  expect(lowersOf(mounts)).toEqual([join(stack.root, "snapshots/3/fs"), join(stack.root, "mnt/2")]);
  expect(await client.call("Mounts", { key: "test/6/c" })).toEqual({ mounts });
});

test("a data blob without its bootstrap is refused instead of shown as an empty directory", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  await pullNydusImage(stack.client);
  for (const method of ["Prepare", "View"] as const)
    await expect(stack.client.call(method, { key: "test/9/c", parent: "sha256:image-0" })).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
    });
  expect(await stack.client.names(["name==test/9/c"])).toEqual([]);
});

test("the same layer may be pulled again in another namespace, on the same or on another parent", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path, { nydusd: tinyNydusd(root.path).command });
  const { client } = stack;
  for (const parent of ["one", "two"]) {
    await client.call("Prepare", { key: parent });
    await client.call("Commit", { key: parent, name: `test/1/${parent}` });
  }
  const labels = { "containerd.io/snapshot.ref": "sha256:t", [`${LABEL}nydus-blob`]: "true" };
  for (const parent of ["test/1/one", "test/1/two", "test/1/one"]) {
    await expect(client.call("Prepare", { key: "test/2/extract", parent, labels })).rejects.toMatchObject({ code: status.ALREADY_EXISTS });
    expect(await client.names([`labels."containerd.io/snapshot.ref"==sha256:t,parent==${JSON.stringify(parent)}`])).toHaveLength(1);
  }
});

test("200 containers of one image prepared at once lead to one daemon and one mount", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path, { mountDelayMs: 300 });
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const { client } = stack;
  const top = await pullNydusImage(client);
  const all = await Promise.all(Array.from({ length: 200 }, (_, index) => client.call("Prepare", { key: `test/${index}/c`, parent: top })));
  expect(new Set(all.map(({ mounts }) => lowersOf(mounts).join())).size).toBe(1);
  expect(daemonProcesses(`${root.path}/`)).toHaveLength(1);
});

test("a mount that the daemon refuses fails Prepare with the daemon's own words, leaves nothing, and may be tried again", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path, { refuseMount: "registry localhost:5000: connection refused" });
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const { client } = stack;
  const top = await pullNydusImage(client);
  await expect(client.call("Prepare", { key: "test/9/c", parent: top })).rejects.toMatchObject({
    code: status.UNKNOWN,
    message: expect.stringContaining("registry localhost:5000: connection refused"),
  });
  expect(await client.names(["name==test/9/c"])).toEqual([]);
  tiny.order({});
  await client.call("Prepare", { key: "test/9/c", parent: top });
});

test.for([
  ["absent", null, "holds no bootstrap"],
  ["no bootstrap at all", "text", "image.boot"],
] as const)("a bootstrap that is %s is named in the error", async ([, content, words]) => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const path = join(root.path, "bad.boot");
  writeFileSync(path, "x".repeat(8192));
  const top = await pullNydusImage(stack.client, { bootstrap: content === null ? null : path });
  await expect(stack.client.call("Prepare", { key: "test/9/c", parent: top })).rejects.toMatchObject({
    code: status.UNKNOWN,
    message: expect.stringContaining(words),
  });
});

test("a bootstrap that is a symbolic link in the layer is not followed", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const top = await pullNydusImage(stack.client, { bootstrap: null });
  symlinkSync(FIXTURE_BOOTSTRAP, join(stack.root, "snapshots/2/fs/image/image.boot"));
  await expect(stack.client.call("Prepare", { key: "test/9/c", parent: top })).rejects.toMatchObject({
    message: expect.stringContaining("holds no bootstrap"),
  });
});

test("the instance's configuration is complete, private, and holds what the template had", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command, template: { ...REGISTRY_TEMPLATE, unknown_member: 7 } });
  const top = await pullNydusImage(stack.client, {
    metas: [`${FIXTURE_BLOB}.blob.meta`, "evil.blob.meta"],
    labels: { [IMAGE_REF]: "" },
  });
  await stack.client.call("Prepare", {
    key: "test/9/c",
    parent: top,
    labels: { [IMAGE_REF]: "localhost:5000/image:latest", [`${LABEL}pullusername`]: "user", [`${LABEL}pullsecret`]: "a:b" },
  });
  const path = instanceConfig(stack.root, "2");
  expect(statSync(path).mode & 0o7777).toBe(0o600);
  const config = JSON.parse(readFileSync(path, "utf8"));
  expect(config.unknown_member).toBe(7);
  expect(config.device.id).toBe("/2");
  expect(config.device.cache.config.work_dir).toBe(join(stack.root, "cache"));
  expect(config.device.backend.config).toMatchObject({
    host: "localhost:5000",
    repo: "image",
    scheme: "http",
    timeout: 5,
    auth: Buffer.from("user:a:b").toString("base64"),
  });
  expect(readdirSync(join(stack.root, "cache"))).toEqual([`${FIXTURE_BLOB}.blob.meta`]);
  expect(stack.log.join("")).not.toContain(config.device.backend.config.auth);
});

test("an image whose reference nobody knows is refused with the settings that would tell", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command, template: REGISTRY_TEMPLATE });
  const top = await pullNydusImage(stack.client, { labels: { [IMAGE_REF]: "" } });
  await expect(stack.client.call("Prepare", { key: "test/9/c", parent: top })).rejects.toMatchObject({
    message: expect.stringContaining("disable_snapshot_annotations"),
  });
});

test.for(["shared", "dedicated"])(
  "removing the last container and the image leaves no process, socket, configuration, log or cache file (%s)",
  async (mode) => {
    await using root = temporaryRoot();
    const tiny = tinyNydusd(root.path);
    await using stack = await startStack(root.path, { nydusd: tiny.command, top: `daemon_mode = "${mode}"\n` });
    const { client } = stack;
    const top = await pullNydusImage(client, { metas: [`${FIXTURE_BLOB}.blob.meta`] });
    await client.call("Prepare", { key: "test/9/c", parent: top });
    expect(daemonProcesses(`${root.path}/`)).toHaveLength(1);
    writeFileSync(join(stack.root, "cache", `${FIXTURE_BLOB}.blob.data`), "x");
    expect((await client.call("Usage", { key: "sha256:image-0" })).inodes).toBe(3);
    await client.call("Remove", { key: "test/9/c" });
    await client.call("Cleanup", {});
    expect(readdirSync(join(stack.root, "cache"))).toHaveLength(2);
    await client.call("Remove", { key: top });
    await client.call("Remove", { key: "sha256:image-0" });
    await client.call("Cleanup", {});
    expect(daemonProcesses(`${root.path}/`)).toEqual([]);
    for (const directory of ["cache", "config", "socket", "snapshots", "supervisor", "logs"].filter((name) =>
      existsSync(join(stack.root, name)),
    ))
      expect([directory, readdirSync(join(stack.root, directory))]).toEqual([directory, []]);
  },
);

test("the blobs of an image that is still wanted stay when another is removed", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const { client } = stack;
  const one = await pullNydusImage(client, { name: "one" });
  const two = await pullNydusImage(client, { name: "two" });
  await client.call("Prepare", { key: "test/9/c1", parent: one });
  await client.call("Prepare", { key: "test/9/c2", parent: two });
  const other = "0".repeat(64);
  for (const name of [
    `${FIXTURE_BLOB}.blob.data`,
    `${FIXTURE_BLOB}.blob.data.chunk_map`,
    `${other}.blob.data`,
    `${other}.v6.blob.data`,
    `${other}.v6.blob.data.chunk_map`,
    "keep.txt",
  ])
    writeFileSync(join(stack.root, "cache", name), "x");
  for (const key of ["test/9/c1", one, "sha256:one-0"]) await client.call("Remove", { key });
  await client.call("Cleanup", {});
  expect(readdirSync(join(stack.root, "cache")).sort()).toEqual([
    `${FIXTURE_BLOB}.blob.data`,
    `${FIXTURE_BLOB}.blob.data.chunk_map`,
    "keep.txt",
  ]);
  expect(daemonProcesses(`${root.path}/`)).toHaveLength(1);
  expect(await client.call("Mounts", { key: "test/9/c2" })).toBeDefined();
});

test("a daemon started for a pull that came to nothing goes with the next clean-up", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const top = await pullNydusImage(stack.client);
  await until(() => daemonProcesses(`${root.path}/`).length === 1, "the daemon to be started ahead of need");
  for (const key of [top, "sha256:image-0"]) await stack.client.call("Remove", { key });
  await stack.client.call("Cleanup", {});
  expect(daemonProcesses(`${root.path}/`)).toEqual([]);
});

test.for(["none", "restart", "failover"])(
  "the daemon lives through a restart of the snapshotter and serves the same mounts (policy %s)",
  async (policy) => {
    await using root = temporaryRoot();
    const tiny = tinyNydusd(root.path);
    const options = { nydusd: tiny.command, daemon: `recover_policy = "${policy}"` };
    const first = await startStack(root.path, options);
    const top = await pullNydusImage(first.client);
    const before = await first.client.call("Prepare", { key: "test/9/c", parent: top });
    const [daemon] = daemonProcesses(`${root.path}/`);
    await first.stop();
    expect(daemonProcesses(`${root.path}/`)).toEqual([daemon]);
    tiny.order({ refuseMount: "nothing may be mounted again" });
    await using second = await startStack(root.path, options);
    expect(await second.client.call("Mounts", { key: "test/9/c" })).toEqual(before);
    await second.client.call("Prepare", { key: "test/9/d", parent: top });
    expect(daemonProcesses(`${root.path}/`)).toEqual([daemon]);
  },
);

test("after a reboot every image is mounted again without the network; one that cannot is set aside and can be removed", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  const first = await startStack(root.path, { nydusd: tiny.command, template: REGISTRY_TEMPLATE });
  const labels = { [IMAGE_REF]: "" };
  const good = await pullNydusImage(first.client, { name: "good", labels });
  const bad = await pullNydusImage(first.client, { name: "bad", labels });
  await first.client.call("Prepare", { key: "test/9/good", parent: good, labels: { [IMAGE_REF]: "localhost:5000/good:latest" } });
  await first.client.call("Prepare", { key: "test/9/bad", parent: bad, labels: { [IMAGE_REF]: "localhost:5000/bad:latest" } });
  await first.stop();
  for (const { pid } of daemonProcesses(`${root.path}/`)) process.kill(pid, "SIGKILL");
  rmSync(join(first.root, "snapshots/4/fs/image"), { recursive: true });
  await using second = await startStack(root.path, { nydusd: tiny.command, template: REGISTRY_TEMPLATE });
  expect(lowersOf((await second.client.call("Mounts", { key: "test/9/good" })).mounts)).toEqual([join(second.root, "mnt/2")]);
  await until(() => second.log.some((line) => line.includes("set aside")), "the broken image to be reported");
  await expect(second.client.call("Mounts", { key: "test/9/bad" })).rejects.toMatchObject({
    message: expect.stringContaining("holds no bootstrap"),
  });
  for (const key of ["test/9/bad", bad, "sha256:bad-0"]) await second.client.call("Remove", { key });
  await second.client.call("Cleanup", {});
  expect(readdirSync(join(second.root, "snapshots")).sort()).toEqual(["1", "2", "5"]);
  expect(await second.client.call("Mounts", { key: "test/9/good" })).toBeDefined();
});

test("a daemon that is killed while containers are prepared is replaced, and the calls succeed", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path, { mountDelayMs: 500 });
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const top = await pullNydusImage(stack.client);
  const preparing = stack.client.call("Prepare", { key: "test/9/c", parent: top });
  await until(() => stack.log.some((line) => line.includes("nydusd serves")), "the daemon to serve");
  const [daemon] = daemonProcesses(`${root.path}/`);
  process.kill(daemon.pid, "SIGKILL");
  expect(lowersOf((await preparing).mounts)).toEqual([join(stack.root, "mnt/2")]);
});

test("a stray daemon and leftover directories of a start that was cut off are cleaned up", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  const first = await startStack(root.path, { nydusd: tiny.command });
  await pullNydusImage(first.client);
  await until(() => daemonProcesses(`${root.path}/`).length === 1, "a daemon");
  await first.stop();
  rmSync(join(first.root, "metadata.sqlite"));
  for (const suffix of ["-wal", "-shm"]) rmSync(join(first.root, `metadata.sqlite${suffix}`), { force: true });
  // No daemon is started ahead of need in this mode.
  await using second = await startStack(root.path, { nydusd: tiny.command, top: 'daemon_mode = "dedicated"' });
  await until(() => daemonProcesses(`${root.path}/`).length === 0, "the stray daemon to end");
  await until(() => readdirSync(join(second.root, "snapshots")).length === 0, "the directories to go");
  expect(readdirSync(join(second.root, "socket"))).toEqual([]);
});

test("the shared daemon is there before the first image, and goes with a snapshotter that stops without images", async () => {
  await using root = temporaryRoot();
  const stack = await startStack(root.path, { nydusd: tinyNydusd(root.path).command });
  await until(() => daemonProcesses(`${root.path}/`).length === 1, "a daemon ahead of need");
  await stack.client.call("Cleanup", {});
  expect(daemonProcesses(`${root.path}/`)).toHaveLength(1);
  await stack.stop();
  expect(daemonProcesses(`${root.path}/`)).toEqual([]);
});

test("with daemon_mode none ordinary images work and nydus images say why not", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path, { top: 'daemon_mode = "none"' });
  const top = await pullNydusImage(stack.client);
  await stack.client.call("Prepare", { key: "plain" });
  await expect(stack.client.call("Prepare", { key: "test/9/c", parent: top })).rejects.toMatchObject({
    message: expect.stringContaining("daemon_mode"),
  });
});

test("a bootstrap at the place of old images is found too", async () => {
  await using root = temporaryRoot();
  const tiny = tinyNydusd(root.path);
  await using stack = await startStack(root.path, { nydusd: tiny.command });
  const top = await pullNydusImage(stack.client, { bootstrap: null });
  copyFileSync(FIXTURE_BOOTSTRAP, join(stack.root, "snapshots/2/fs/image.boot"));
  const { mounts } = await stack.client.call("Prepare", { key: "test/9/c", parent: top });
  expect(upperOf(mounts)).toBe(join(stack.root, "snapshots/3/fs"));
});

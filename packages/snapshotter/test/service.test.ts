import { linkSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { status } from "@grpc/grpc-js";
import { expect, test } from "vitest";
import { LABEL, lowersOf, startStack, upperOf } from "./support/stack.ts";
import { TestClient } from "../src/testing/index.ts";
import { temporaryRoot, until } from "./support/world.ts";

test("Prepare without a parent is a writable bind of a fresh directory with mode 0755", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { mounts } = await stack.client.call("Prepare", { key: "a" });
  expect(mounts).toEqual([{ type: "bind", source: join(stack.root, "snapshots/1/fs"), target: "", options: ["rw", "rbind"] }]);
  expect(statSync(mounts[0].source).mode & 0o7777).toBe(0o755);
  expect(statSync(join(stack.root, "snapshots/1")).mode & 0o7777).toBe(0o700);
  expect(statSync(join(stack.root, "snapshots/1/work")).mode & 0o7777).toBe(0o711);
});

test("Mounts answers exactly what Prepare and View answered, and committed snapshots have none", async () => {
  await using root = temporaryRoot();
  const { client, ...stack } = await startStack(root.path);
  await using _ = stack;
  await client.call("Prepare", { key: "a" });
  await client.call("Commit", { key: "a", name: "A" });
  const active = await client.call("Prepare", { key: "b", parent: "A", labels: { [`${LABEL}overlay.volatile`]: "1" } });
  expect(active.mounts[0].options).toEqual([
    expect.stringMatching(/^workdir=/),
    expect.stringMatching(/^upperdir=/),
    "redirect_dir=on",
    "volatile",
    expect.stringMatching(/^lowerdir=/),
  ]);
  expect(await client.call("Mounts", { key: "b" })).toEqual(active);
  await client.call("Commit", { key: "b", name: "B" });
  const one = await client.call("View", { key: "v1", parent: "A" });
  expect(one.mounts[0]).toMatchObject({ type: "bind", options: ["ro", "rbind"] });
  const two = await client.call("View", { key: "v2", parent: "B" });
  expect(two.mounts[0].options).toHaveLength(1);
  expect(lowersOf(two.mounts)).toEqual([2, 1].map((id) => join(stack.root, `snapshots/${id}/fs`)));
  const none = await client.call("View", { key: "v3" });
  expect(none.mounts[0]).toMatchObject({ type: "bind", options: ["ro", "rbind"] });
  for (const [key, mounts] of [
    ["v1", one],
    ["v2", two],
    ["v3", none],
  ] as const)
    expect(await client.call("Mounts", { key })).toEqual(mounts);
  await expect(client.call("Mounts", { key: "A" })).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
});

test("every misuse has containerd's error class", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  await client.call("Prepare", { key: "a" });
  const refused = async (call: Promise<unknown>, code: status) =>
    expect(
      await call.then(
        () => "accepted",
        (error) => error.code,
      ),
    ).toBe(code);
  for (const method of ["Stat", "Mounts", "Remove", "Usage"] as const)
    await refused(client.call(method, { key: "absent" }), status.NOT_FOUND);
  await refused(client.call("Prepare", { key: "b", parent: "absent" }), status.NOT_FOUND);
  await refused(client.call("Commit", { key: "absent", name: "x" }), status.NOT_FOUND);
  await refused(client.call("Update", { info: { name: "absent" } as never }), status.NOT_FOUND);
  await refused(client.call("Prepare", { key: "a" }), status.ALREADY_EXISTS);
  await refused(client.call("View", { key: "a" }), status.ALREADY_EXISTS);
  await refused(client.call("Prepare", { key: "b", parent: "a" }), status.INVALID_ARGUMENT);
  await refused(client.call("View", { key: "b", parent: "a" }), status.INVALID_ARGUMENT);
  await refused(client.call("Prepare", { key: "" }), status.INVALID_ARGUMENT);
  await refused(client.call("Commit", { key: "a", name: "" }), status.INVALID_ARGUMENT);
  await refused(client.call("Update", { info: { name: "a" } as never, updateMask: { paths: ["parent"] } }), status.INVALID_ARGUMENT);
  await refused(client.call("Update", {}), status.INVALID_ARGUMENT);
  await refused(client.list(["kind="]), status.INVALID_ARGUMENT);
  await client.call("Commit", { key: "a", name: "A" });
  await refused(client.call("Stat", { key: "a" }), status.NOT_FOUND);
  await refused(client.call("Commit", { key: "a", name: "B" }), status.NOT_FOUND);
  await client.call("View", { key: "v", parent: "A" });
  await refused(client.call("Commit", { key: "v", name: "V" }), status.FAILED_PRECONDITION);
  await refused(client.call("Remove", { key: "A" }), status.FAILED_PRECONDITION);
  await client.call("Prepare", { key: "c" });
  await refused(client.call("Commit", { key: "c", name: "A" }), status.ALREADY_EXISTS);
  await client.call("Prepare", { key: "d", parent: "A" });
  await client.call("Commit", { key: "c", name: "C" });
  await refused(client.call("Commit", { key: "d", name: "D", parent: "C" }), status.INVALID_ARGUMENT);
});

/** What the disk holds of files and directories; an empty directory takes a block on ext4, and none on xfs and tmpfs. */
const onDisk = (...paths: string[]): number => paths.reduce((sum, path) => sum + statSync(path).blocks * 512, 0);

test("Commit replaces the labels, keeps the directory and sets both times anew; a parent given for a snapshot without one is taken", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  const before = Date.now();
  const { mounts } = await client.call("Prepare", { key: "a", labels: { old: "1" } });
  const upper = upperOf(mounts);
  writeFileSync(join(upper, "file"), "x".repeat(10_000));
  await client.call("Commit", { key: "a", name: "A", labels: { new: "1" } });
  const { info } = await client.call("Stat", { key: "A" });
  expect(info.labels).toEqual({ new: "1" });
  expect(info.createdAt).toEqual(info.updatedAt);
  expect(info.createdAt.seconds * 1000 + info.createdAt.nanos / 1e6).toBeGreaterThanOrEqual(before);
  expect(await client.call("Usage", { key: "A" })).toEqual({ size: onDisk(upper, join(upper, "file")), inodes: 2 });
  await client.call("Prepare", { key: "b" });
  await client.call("Commit", { key: "b", name: "B", parent: "A" });
  expect((await client.call("Stat", { key: "B" })).info.parent).toBe("A");
});

test("Update follows the mask: all labels, one label whose name holds dots and slashes, or its removal", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  const labels = { "containerd.io/gc.root": "1", b: "2" };
  await client.call("Prepare", { key: "a", labels });
  const update = async (labels: Record<string, string>, paths?: string[]) =>
    (await client.call("Update", { info: { name: "a", labels } as never, ...(paths === undefined ? {} : { updateMask: { paths } }) })).info
      .labels;
  expect(await update({ "containerd.io/gc.root": "9", ignored: "x" }, ["labels.containerd.io/gc.root"])).toEqual({
    "containerd.io/gc.root": "9",
    b: "2",
  });
  expect(await update({}, ["labels.b"])).toEqual({ "containerd.io/gc.root": "9" });
  expect(await update({ c: "3" }, ["labels"])).toEqual({ c: "3" });
  expect(await update({ d: "4" })).toEqual({ d: "4" });
});

test("List filters on every field, sends at most 100 infos a message and none when nothing matches", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  await client.call("Prepare", { key: "base", labels: { "containerd.io/snapshot.ref": "sha256:x", plain: "yes" } });
  await client.call("Commit", { key: "base", name: "ns/1/Base one", labels: { "containerd.io/snapshot.ref": "sha256:x" } });
  for (let index = 0; index < 120; index++) await client.call("View", { key: `v${index}`, parent: "ns/1/Base one" });
  expect((await client.list()).map((message) => message.length)).toEqual([100, 21]);
  expect(await client.list(["name==absent"])).toEqual([]);
  expect(await client.names(["kind==committed"])).toEqual(["ns/1/Base one"]);
  expect(await client.names(['name=="ns/1/Base one"'])).toEqual(["ns/1/Base one"]);
  expect(await client.names(['parent=="ns/1/Base one",name~="^v11[0-9]$"'])).toHaveLength(10);
  expect(await client.names(['labels."containerd.io/snapshot.ref"==sha256:x,parent==""'])).toEqual(["ns/1/Base one"]);
  expect(await client.names(["name==v1", "name==v2"])).toEqual(["v1", "v2"]);
});

test("calls that arrive while a List is being read are answered", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  for (let index = 0; index < 250; index++) await client.call("Prepare", { key: `k${index}` });
  const other = new TestClient(stack.socket);
  const listing = client.list();
  for (let index = 0; index < 20; index++) await other.call("Stat", { key: `k${index}` });
  expect((await listing).flat()).toHaveLength(250);
  other.close();
});

test("Remove only takes the record; the directory goes in the background or with Cleanup, and Cleanup may be repeated", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  await client.call("Prepare", { key: "a" });
  await client.call("Prepare", { key: "b" });
  mkdirSync(join(stack.root, "snapshots/new-leftover"));
  await client.call("Remove", { key: "a" });
  await client.call("Cleanup", {});
  await client.call("Cleanup", {});
  expect(readdirSync(join(stack.root, "snapshots"))).toEqual(["2"]);
  await client.call("Prepare", { key: "c" });
  expect(readdirSync(join(stack.root, "snapshots")).sort()).toEqual(["2", "3"]);
});

test("with sync_remove the directory is gone when Remove returns", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path, { tables: "[snapshot]\nsync_remove = true\n" });
  await stack.client.call("Prepare", { key: "a" });
  await stack.client.call("Remove", { key: "a" });
  expect(readdirSync(join(stack.root, "snapshots"))).toEqual([]);
});

test("Usage of a running container counts what it wrote, hard links once", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  const upper = upperOf((await client.call("Prepare", { key: "a" })).mounts);
  writeFileSync(join(upper, "f"), "x".repeat(4096));
  linkSync(join(upper, "f"), join(upper, "g"));
  expect(await client.call("Usage", { key: "a" })).toEqual({ size: onDisk(upper, join(upper, "f")), inodes: 2 });
  await client.call("View", { key: "v" });
  expect(await client.call("Usage", { key: "v" })).toEqual({ size: 0, inodes: 0 });
});

test("all is there after a restart, and ids go on", async () => {
  await using root = temporaryRoot();
  const first = await startStack(root.path);
  await first.client.call("Prepare", { key: "a", labels: { x: "1" } });
  await first.client.call("Commit", { key: "a", name: "A", labels: { y: "1" } });
  await first.client.call("Prepare", { key: "b", parent: "A" });
  await first.client.call("Remove", { key: "b" });
  expect(await first.stop()).toBe(0);
  await using second = await startStack(root.path);
  expect((await second.client.call("Stat", { key: "A" })).info).toMatchObject({ kind: 3, labels: { y: "1" } });
  await second.client.call("Prepare", { key: "c", parent: "A" });
  await until(() => readdirSync(join(second.root, "snapshots")).length === 2, "the directory of the removed one to go");
  expect(readdirSync(join(second.root, "snapshots")).sort()).toEqual(["1", "3"]);
});

test("a user namespace maps an ordinary container; halves and nonsense are refused", async () => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const { client } = stack;
  const map = (uid: string, gid = uid) => ({ [`${LABEL}uidmapping`]: uid, [`${LABEL}gidmapping`]: gid });
  const { mounts } = await client.call("Prepare", { key: "a", labels: map("0:100000:65536") });
  expect(mounts[0].options).toEqual(["rw", "rbind", "uidmap=0:100000:65536", "gidmap=0:100000:65536"]);
  expect(statSync(mounts[0].source)).toMatchObject({ uid: 100_000, gid: 100_000 });
  for (const labels of [map("0:1:0"), map("0:1"), map("0:1:5", "0:2:5"), map("0:4294967295:2"), { [`${LABEL}uidmapping`]: "0:1:1" }])
    await expect(client.call("Prepare", { key: "b", labels })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
});

test.for(["localhost", "%2Frun%2Fs.sock"])("a client may name any host as authority: %s", async (authority) => {
  await using root = temporaryRoot();
  await using stack = await startStack(root.path);
  const client = new TestClient(stack.socket, { "grpc.default_authority": authority });
  await client.call("Prepare", { key: "a" });
  client.close();
});

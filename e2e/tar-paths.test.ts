/** Odd paths in layers, `..` and links on the way: containerd's own unpacking and every form that nydus-image makes of the layer give the same files, and nothing leaves them. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  compareListings,
  type Containerd,
  gzipLayer,
  type ListingEntry,
  listTree,
  ownBinaries,
  pushLayout,
  run,
  startContainerd,
  startRegistry,
  Workspace,
  writeLayout,
} from "@nydus-ts/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { tar } from "../packages/builder/test/support.ts";

const layer = tar(
  { name: "./", type: "5", mode: 0o755 },
  { name: "kept/", type: "5", mode: 0o755 },
  { name: "./kept/../beside", data: "one name up" },
  { name: "kept/deep/../file", data: "in kept" },
  { name: "../../above", data: "clamped" },
  { name: "/../absolute", data: "absolute" },
  { name: "kept/../../../etc/passwd", data: "not the host's" },
  { name: "..", type: "5", mode: 0o700 },
  { name: "kept/..", data: "ignored" },
  { name: "link", type: "2", link: "../../../../etc/shadow" },
  { name: "hard", type: "1", link: "../kept/file" },
  { name: "to-kept", type: "2", link: "kept" },
  { name: "to-kept/by-link", data: "in kept" },
  { name: "kept/dangling", type: "2", link: "../../../made/on the way" },
  { name: "to-kept/dangling/x", data: "where the link leads" },
  { name: "absolute-link", type: "2", link: "/to-kept" },
  { name: "absolute-link/sub/y", data: "through two links" },
  { name: "hard-by-link", type: "1", link: "absolute-link/by-link" },
  { name: "...", data: "three dots" },
  { name: "..x/y..", data: "no dots of the kind" },
  { name: "long", data: "by pax", pax: { path: `kept/${"d/".repeat(80)}${"../".repeat(79)}e` } },
);

let workspace: Workspace;
let containerd: Containerd;
let expected: ListingEntry[];
let image: string;
const nydusImage = join(ownBinaries, "nydus-image");

beforeAll(async () => {
  workspace = new Workspace("tar-paths");
  writeFileSync(workspace.path("layer.tar"), layer);
  const packed = await gzipLayer(workspace.path("layer.tar"));
  const layout = await writeLayout(workspace.path("layout"), [packed], {});
  const registry = await startRegistry(workspace);
  image = `${registry.host}/paths:1`;
  await pushLayout(layout, image);
  containerd = await startContainerd(workspace, { sandboxImage: image });
  const tree = workspace.path("containerd-tree");
  mkdirSync(tree);
  await containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "native", image]);
  await containerd.ctr(["images", "mount", "--snapshotter", "native", image, tree]);
  workspace.defer(() => run("umount", [tree]).then(() => undefined));
  expected = comparable(await listTree(tree));
});
afterAll(() => workspace?.[Symbol.asyncDispose]());

/** Directories that the layer does not name have the time of the unpacking, and every file system its own sizes of directories. */
function comparable(listing: readonly ListingEntry[]): ListingEntry[] {
  return listing
    .filter(({ path }) => path !== "/")
    .map((entry) => (entry.type === "dir" ? { ...entry, size: 0, mtime: 0, nsec: 0 } : entry));
}

async function unpacked(name: string, argv: readonly string[]): Promise<ListingEntry[]> {
  const [archive, tree] = [workspace.path(`${name}.tar`), workspace.path(`${name}-tree`)];
  mkdirSync(tree);
  await run(nydusImage, ["unpack", "--output", archive, ...argv]);
  const { stderr } = await run("tar", ["-C", tree, "-xpf", archive]);
  // GNU tar tells when it takes `..` or a slash from a name. Targets of hard links begin with a slash, as the original writes them.
  expect(stderr.replace("tar: Removing leading `/' from hard link targets\n", "")).toBe("");
  return comparable(await listTree(tree));
}

test("containerd puts them where a cleaned path says, and where the links on its way lead", () => {
  expect(expected.map(({ path }) => path).sort()).toEqual(
    [
      ...["/...", "/..x", "/..x/y..", "/above", "/absolute", "/beside", "/etc", "/etc/passwd", "/hard", "/kept"],
      ...["/kept/d", "/kept/d/e", "/kept/file", "/link"],
      ...["/absolute-link", "/hard-by-link", "/kept/by-link", "/kept/dangling", "/kept/sub", "/kept/sub/y", "/to-kept"],
      ...["/made", "/made/on the way", "/made/on the way/x"],
    ].sort(),
  );
});

test.each(["tar-rafs", "targz-rafs", "targz-ref", "tar-tarfs"])("create --type %s", async (type) => {
  const blobs = workspace.path(`${type}-blobs`);
  mkdirSync(blobs);
  const source = workspace.path(type.startsWith("targz") ? "layer.tar.gz" : "layer.tar");
  await run(nydusImage, ["create", "-t", type, "-D", blobs, "-B", workspace.path(`${type}.boot`), source]);
  // The original layer is the data of these.
  if (!type.endsWith("rafs")) await run("sh", ["-c", `cp "$1" "$2/$(sha256sum < "$1" | cut -c-64)"`, "sh", source, blobs]);
  expect(compareListings(await unpacked(type, ["-D", blobs, workspace.path(`${type}.boot`)]), expected)).toEqual([]);
});

test.each([[[]], [["--oci-ref"]], [["--fs-version", "5"]]])("convert %j, checked by nydusify and turned back", async (options) => {
  const name = `converted-${options.join("")}`;
  await run(nydusImage, ["convert", "--source", image, "--target", `${image}-${name}`, ...options]);
  const { stderr } = await run(join(ownBinaries, "nydusify"), ["check", "--source", image, "--target", `${image}-${name}`]);
  expect(stderr).toContain("verified image");
  await run(nydusImage, ["convert", "--reverse", "--source", `${image}-${name}`, "--target", `oci:${workspace.path(name)}:1`]);
  const tree = workspace.path(`${name}-containerd`);
  mkdirSync(tree);
  await run("tar", ["-C", workspace.path(name), "-cf", workspace.path(`${name}.tar`), "."]);
  await containerd.ctr(["images", "import", "--no-unpack", "--base-name", `${name}/back`, workspace.path(`${name}.tar`)]);
  const { stdout } = await containerd.ctr(["images", "ls", "-q"]);
  const imported = stdout.split("\n").find((line) => line.startsWith(`${name}/back`)) ?? "";
  await containerd.ctr(["images", "mount", "--snapshotter", "native", imported, tree]);
  try {
    expect(compareListings(comparable(await listTree(tree)), expected)).toEqual([]);
  } finally {
    await run("umount", [tree]);
  }
});

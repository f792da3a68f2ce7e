/** Every command of nydus-image and nydusify that writes files, killed at random moments and on a full disk: no file is there by half, and the next run succeeds. */
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { busyboxImage, ownBinaries, run, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const program = join(ownBinaries, "nydus-image");
const nydusify = join(ownBinaries, "nydusify");
const killsPerCommand = 4;

/** A command that reads from `input` and writes below `output`, which exists. */
interface Writer {
  readonly argv: (input: string, output: string) => string[];
  /** default: nydus-image */
  readonly program?: string;
  /** puts into the output folder what must be there before */
  readonly prepare?: (input: string, output: string) => void;
}

const copyBlobs = (input: string, output: string): void => {
  mkdirSync(join(output, "blobs"));
  for (const id of readdirSync(join(input, "blobs"))) copyFileSync(join(input, "blobs", id), join(output, "blobs", id));
};

const writers: Readonly<Record<string, Writer>> = {
  create: { argv: (input, out) => ["create", "-D", out, "-B", join(out, "boot"), "-J", join(out, "json"), join(input, "tree")] },
  "create -v 5": { argv: (input, out) => ["create", "-v", "5", "-b", join(out, "blob"), "-B", join(out, "boot"), join(input, "tree")] },
  "create --blob-inline-meta": {
    argv: (input, out) => ["create", "-D", out, "-t", "tar-rafs", "--blob-inline-meta", "--features", "blob-toc", join(input, "layer.tar")],
  },
  "create -t targz-ref": {
    argv: (input, out) => ["create", "-D", out, "-B", join(out, "boot"), "-t", "targz-ref", join(input, "layer.tar.gz")],
  },
  "create --blob-cache-dir": { argv: (input, out) => ["create", "--blob-cache-dir", out, "-B", join(out, "boot"), join(input, "tree")] },
  "create --parent-bootstrap": {
    argv: (input, out) => [
      ...["create", "-D", out, "-B", join(out, "boot"), "-J", join(out, "json")],
      ...["--parent-bootstrap", join(input, "two.boot"), join(input, "tree")],
    ],
  },
  "create --chunk-dict": {
    argv: (input, out) => ["create", "-D", out, "-B", join(out, "boot"), "--chunk-dict", join(input, "two.boot"), join(input, "tree")],
  },
  "create --attributes": {
    argv: (input, out) => [
      ...["create", "-D", out, "-B", join(out, "boot"), "--chunk-size", "0x100000", "--external-blob", join(out, "external")],
      ...["--attributes", join(input, "attributes"), join(input, "tree")],
    ],
  },
  "create -t tar-tarfs": {
    argv: (input, out) => ["create", "-D", out, "-B", join(out, "boot"), "-t", "tar-tarfs", join(input, "layer.tar")],
  },
  merge: {
    argv: (input, out) => ["merge", "-B", join(out, "boot"), "-J", join(out, "json"), join(input, "one.boot"), join(input, "two.boot")],
  },
  unpack: { argv: (input, out) => ["unpack", "-D", join(input, "blobs"), "--output", join(out, "tar"), join(input, "one.boot")] },
  export: {
    argv: (input, out) => [
      "export",
      "--block",
      "--verity",
      "-B",
      join(input, "one.boot"),
      "-D",
      join(input, "blobs"),
      "-O",
      join(out, "disk"),
    ],
  },
  optimize: {
    argv: (input, out) => [
      ...["optimize", "-B", join(input, "one.boot"), "-D", join(input, "blobs"), "--output-blob-dir", out],
      ...["-p", join(input, "list.json"), "-O", join(out, "boot"), "-J", join(out, "json")],
    ],
  },
  compact: {
    argv: (input, out) => [
      "compact",
      "-B",
      join(input, "both.boot"),
      "-D",
      join(out, "blobs"),
      "-O",
      join(out, "boot"),
      "-J",
      join(out, "json"),
    ],
    prepare: copyBlobs,
  },
  "chunkdict generate": {
    argv: (input, out) => [
      ...["chunkdict", "generate", "--database", `sqlite://${out}/db.sqlite`, "-B", join(out, "boot")],
      ...[1, 2, 3].map((tag) => join(input, `app:${tag}`, "boot")),
    ],
  },
  "convert --oci-ref": {
    argv: (_input, out) => [
      ...["convert", "--oci-ref", "--source", `oci:${layout}`, "--target", `oci:${join(out, "layout")}:v1`],
      ...["--work-dir", join(out, "work.tmp")],
    ],
  },
  "convert --reverse": {
    argv: (input, out) => [
      ...["convert", "--reverse", "--source", `oci:${join(input, "nydus")}:v1`, "--target", `oci:${join(out, "layout")}:v1`],
      ...["--work-dir", join(out, "work.tmp")],
    ],
  },
  "convert --target-archive": {
    argv: (_input, out) => [
      ...["convert", "--source", `oci:${layout}`, "--target", "app:nydus", "--target-archive", join(out, "app.tar")],
      ...["--work-dir", join(out, "work.tmp")],
    ],
  },
  "convert --backend-type localfs": {
    argv: (_input, out) => [
      ...["convert", "--source", `oci:${layout}`, "--target", `oci:${join(out, "layout")}:v1`, "--work-dir", join(out, "work.tmp")],
      ...["--backend-type", "localfs", "--backend-config", JSON.stringify({ dir: join(out, "blobs") })],
    ],
  },
  "nydusify build": {
    program: nydusify,
    argv: (input, out) => ["build", "--source-dir", join(input, "tree"), "--name", "app", "--output-dir", out],
  },
  "nydusify build --parent-bootstrap --compact": {
    program: nydusify,
    argv: (input, out) => [
      ...["build", "--source-dir", join(input, "tree2"), "--name", "app", "--output-dir", join(out, "blobs")],
      ...["--parent-bootstrap", join(out, "parent.boot"), "--compact"],
    ],
    prepare: (input, out) => {
      copyBlobs(input, out);
      copyFileSync(join(input, "one.boot"), join(out, "parent.boot"));
    },
  },
  "nydusify copy to a folder": {
    program: nydusify,
    argv: (input, out) => [
      ...["copy", "--source", `oci:${join(input, "nydus")}:v1`, "--target", `oci:${join(out, "layout")}:v1`],
      ...["--work-dir", join(out, "work.tmp")],
    ],
  },
  "nydusify copy to an archive": {
    program: nydusify,
    argv: (input, out) => [
      ...["copy", "--source", `oci:${join(input, "nydus")}:v1`, "--target", `file://${join(out, "app.tar")}`],
      ...["--work-dir", join(out, "work.tmp")],
    ],
  },
  "nydusify optimize": {
    program: nydusify,
    argv: (input, out) => [
      ...["optimize", "--source", `oci:${join(input, "nydus")}:v1`, "--target", `oci:${join(out, "layout")}:v1`],
      ...["--prefetch-files", join(input, "image-list.json"), "--work-dir", join(out, "work.tmp")],
    ],
  },
  convert: {
    argv: (_input, out) => [
      ...["convert", "--source", `oci:${layout}`, "--target", `oci:${join(out, "layout")}:v1`],
      ...["--work-dir", join(out, "work.tmp")],
    ],
  },
};

let workspace: Workspace;
let input: string;
let layout: string;

beforeAll(async () => {
  workspace = new Workspace("interrupted");
  input = workspace.path("input");
  for (const name of ["tree", "tree2", "blobs", "app:1", "app:2", "app:3"]) mkdirSync(join(input, name), { recursive: true });
  // Large enough that a command writes for a while, half of it incompressible.
  for (let i = 0; i < 24; i++)
    writeFileSync(join(input, "tree", `file${i}`), Buffer.concat([randomBytes(512 * 1024), Buffer.alloc(512 * 1024, i)]));
  for (let i = 0; i < 8; i++) writeFileSync(join(input, "tree2", `other${i}`), randomBytes(512 * 1024));
  await run("tar", ["-C", join(input, "tree"), "-cf", join(input, "layer.tar"), "."]);
  await run("tar", ["-C", join(input, "tree"), "-czf", join(input, "layer.tar.gz"), "."]);
  const create = (boot: string, tree: string) =>
    run(program, ["create", "-D", join(input, "blobs"), "-B", join(input, boot), join(input, tree)]);
  await create("one.boot", "tree");
  await create("two.boot", "tree2");
  for (const tag of [1, 2, 3]) {
    writeFileSync(join(input, "tree2", "version"), String(tag).repeat(9000));
    await create(`app:${tag}/boot`, "tree2");
  }
  const ids = ["one.boot", "two.boot"].map((boot) => blobOf(join(input, boot)));
  await run(program, [
    "merge",
    "-B",
    join(input, "both.boot"),
    "--original-blob-ids",
    ids.join(","),
    join(input, "one.boot"),
    join(input, "two.boot"),
  ]);
  writeFileSync(join(input, "list.json"), JSON.stringify({ version: "v1", files: [{ path: "/file3" }, { path: "/file7" }] }));
  const big = Object.fromEntries([0, 1, 2, 3].map((i) => [`data/file${i}`, randomBytes(1024 * 1024)]));
  layout = await busyboxImage(join(input, "image"), big);
  await run(program, [
    "convert",
    "--source",
    `oci:${layout}`,
    "--target",
    `oci:${join(input, "nydus")}:v1`,
    "--work-dir",
    join(input, "work"),
  ]);
  writeFileSync(
    join(input, "image-list.json"),
    JSON.stringify({ version: "v1", files: [{ path: "/data/file1" }, { path: "/data/file2" }] }),
  );
  const external = "type=external blob_index=0 blob_id=" + "ab".repeat(32) + " chunk_size=1048576 chunk_0_compressed_offset=0";
  writeFileSync(join(input, "attributes"), `file3 ${external} compressed_size=1048576 crcs=0x11111111\n`);
});
afterAll(() => workspace?.[Symbol.asyncDispose]());

function blobOf(bootstrap: string): string {
  return readdirSync(join(input, "blobs")).find((id) => readFileSync(bootstrap).includes(id))!;
}

const isTemporary = (path: string): boolean => /\.tmp(\/|$)/.test(path) || /\/db\.sqlite/.test(path) || path.endsWith("index.json.lock");

/** Digests of the files under their final names. */
function finished(directory: string): Map<string, string> {
  const files = globSync("**/*", { cwd: directory, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = [...files.map((entry) => join(entry.parentPath, entry.name)), ...hidden(directory)];
  return new Map(
    paths
      .filter((path) => !isTemporary(path))
      .map((path) => [path.slice(directory.length), createHash("sha256").update(readFileSync(path)).digest("hex")]),
  );
}

function hidden(directory: string): string[] {
  return globSync("**/.*", { cwd: directory })
    .map((name) => join(directory, name))
    .filter((path) => statSync(path).isFile());
}

function outputFolder(name: string, parent = workspace.directory): string {
  const directory = join(parent, name.replaceAll(/[^a-z0-9]/gi, "-"));
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  return directory;
}

/** Starts the command and kills it some milliseconds after it began to write. */
async function killWhileWriting(command: string, argv: readonly string[], output: string, before: number): Promise<void> {
  const child = spawn(command, argv, { stdio: "ignore" });
  const ended = new Promise((resolve) => child.on("close", resolve));
  const count = () => readdirSync(output, { recursive: true }).length;
  while (child.exitCode === null && count() === before) await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => setTimeout(resolve, Math.random() * 60));
  child.kill("SIGKILL");
  await ended;
}

/** JSON that tells paths names another folder in each run; all else must be equal. */
const withoutJson = (files: Map<string, string>): Map<string, string> =>
  new Map([...files].filter(([path]) => !/\/(output\.)?json$/.test(path)));

test.each(Object.keys(writers))("%s, killed while it writes, leaves whole files only, and the same command then succeeds", async (name) => {
  const { argv, prepare, program: command = program } = writers[name]!;
  const whole = outputFolder(`${name} whole`);
  prepare?.(input, whole);
  await run(command, argv(input, whole));
  const expected = withoutJson(finished(whole));
  for (let i = 0; i < killsPerCommand; i++) {
    const output = outputFolder(`${name} killed`);
    prepare?.(input, output);
    await killWhileWriting(command, argv(input, output), output, readdirSync(output, { recursive: true }).length);
    for (const [path, digest] of withoutJson(finished(output))) expect([path, digest]).toEqual([path, expected.get(path)]);
    if (existsSync(join(output, "json"))) JSON.parse(readFileSync(join(output, "json"), "utf8"));
    await run(command, argv(input, output));
    expect(withoutJson(finished(output))).toEqual(expected);
  }
});

test.each(Object.keys(writers))(
  "%s on a full disk fails in one line, leaves nothing by half, and succeeds when there is room",
  async (name) => {
    const { argv, prepare, program: command = program } = writers[name]!;
    const whole = outputFolder(`${name} roomy`);
    prepare?.(input, whole);
    await run(command, argv(input, whole));
    const expected = withoutJson(finished(whole));
    const disk = outputFolder(`${name} disk`);
    await run("mount", ["-t", "tmpfs", "-o", "size=1g", "tmpfs", disk]);
    const output = join(disk, "out");
    mkdirSync(output);
    prepare?.(input, output);
    for (const room of [8 * 1024, 200 * 1024]) {
      const present = finished(output);
      const { blocks, bfree, bsize } = statfsSync(disk);
      const used = (blocks - bfree) * bsize;
      const needed = [...expected.keys()]
        .filter((path) => !present.has(path))
        .reduce((sum, path) => sum + statSync(join(whole, path)).size, 0);
      if (needed < room * 2) continue;
      await run("mount", ["-o", `remount,size=${Math.ceil((used + room) / 4096) * 4096}`, disk]);
      const { code, stderr } = await run(command, argv(input, output), { check: false });
      expect([code, stderr.match(command === nydusify ? /level=fatal/g : /^Error: /gm)?.length, stderr]).toEqual([
        1,
        1,
        expect.stringMatching(/ENOSPC|no space|disk is full|database or disk/i),
      ]);
      for (const [path, digest] of withoutJson(finished(output))) expect([path, digest]).toEqual([path, expected.get(path)]);
      expect(globSync("**/{.*.tmp,*.tmp}", { cwd: output }).filter((path) => statSync(join(output, path)).isFile())).toEqual([]);
    }
    await run("mount", ["-o", "remount,size=1g", disk]);
    await run(command, argv(input, output));
    expect(withoutJson(finished(output))).toEqual(expected);
    await run("umount", [disk]);
  },
);

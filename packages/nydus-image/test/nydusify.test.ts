import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { openBootstrap } from "@nydus-ts/rafs-format";
import type { TestRegistry } from "@nydus-ts/registry-client/testing";
import { describe, expect, test } from "vitest";
import { nydusify } from "../src/index.ts";
import {
  base,
  fetchBlob,
  fetchJson,
  onlyDirectories,
  pull,
  sha256,
  startRegistry,
  temporaryDirectory,
  upper,
  writeLayout,
} from "./convert-support.ts";
import { succeed } from "./nydusify-support.ts";
import { layerTar, type Outcome, run } from "./support.ts";

const tool = (...argv: string[]): Promise<Outcome> => run(argv, { program: nydusify });

async function converted(...options: string[]): Promise<{ registry: TestRegistry; source: string; target: string }> {
  const registry = await startRegistry();
  registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper), gzipSync(onlyDirectories)], {
    config: {
      architecture: "amd64",
      os: "linux",
      config: { Cmd: ["sh"] },
      rootfs: { type: "layers", diff_ids: [base, upper, onlyDirectories].map(sha256) },
    },
  });
  const [source, target] = [`${registry.host}/app:v1`, `${registry.host}/app:nydus`];
  const { code, stderr } = await tool("convert", "--source", source, "--target", target, ...options);
  expect([code, stderr]).toEqual([0, expect.stringMatching(/^time="[^"]+" level=info msg="converting /)]);
  return { registry, source, target };
}

describe("the program", () => {
  test("every failure is status 1 and one line at level fatal", async () => {
    const { code, stdout, stderr } = await tool(
      "convert",
      "--source",
      "127.0.0.1:1/a:b",
      "--target",
      "127.0.0.1:1/a:c",
      "--backend-type",
      "floppy",
    );
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^time="[^"]+" level=fatal msg=".*floppy.*"\n$/);
  });

  test("a wrong option, and no platform of another kind, are status 1 too", async () => {
    expect((await tool("copy", "--nonsense")).code).toBe(1);
    expect((await tool("check", "--target", "127.0.0.1:1/a:b", "--platform", "windows/amd64")).stderr).toContain(
      "linux/amd64, linux/arm64",
    );
    expect((await tool("--version")).stdout).toMatch(/^nydusify v/);
  });

  test("--log-file takes the log, --log-level silences it", async () => {
    const work = temporaryDirectory();
    const options = ["--source", "127.0.0.1:1/a:b", "--target", "127.0.0.1:1/a:c", "--oci-ref", "--fs-version", "5"];
    const { stderr } = await tool("--log-file", work.join("log"), "convert", ...options);
    expect(stderr).toBe("");
    expect(readFileSync(work.join("log"), "utf8")).toContain("level=fatal");
    expect((await tool("-l", "panic", "convert", ...options)).stderr).toBe("");
  });
});

describe("check", () => {
  test.each([[[]], [["--oci-ref"]], [["--fs-version", "5"]], [["--merge-platform"]]])(
    "an image that was converted with %j is what its source is",
    async (options) => {
      const { source, target } = await converted(...options);
      const { code, stderr } = await tool("check", "--source", source, "--target", target, "--platform", "linux/amd64");
      expect([code, stderr]).toEqual([0, expect.stringContaining("checked filesystem: 8 paths")]);
    },
  );

  test("an image whose data are in a folder; manifests and bootstrap are kept to look at", async () => {
    const work = temporaryDirectory();
    const config = JSON.stringify({ dir: work.join("blobs") });
    const { source, target } = await converted("--backend-type", "localfs", "--backend-config", config);
    const argv = ["check", "--source", source, "--target", target, "--platform", "linux/amd64", "--work-dir", work.join("out")];
    const { code, stderr } = await tool(...argv, "--target-backend-type", "localfs", "--target-backend-config", config);
    expect([code, stderr]).toEqual([0, expect.stringContaining("verified image")]);
    expect(readdirSync(work.join("out/target")).sort()).toEqual(["nydus_bootstrap", "nydus_config.json", "nydus_manifest.json"]);
    // The data are not in the registry: without the folder they can not be had.
    expect((await tool(...argv)).code).toBe(1);
  });

  test("every difference of the file systems is told, by path", async () => {
    const { registry, target } = await converted();
    const other = layerTar({ "etc/conf": "version 3\n", more: "x" });
    registry.putImage("app", "other", [gzipSync(base), gzipSync(other)], {
      config: {
        architecture: "amd64",
        os: "linux",
        config: { Cmd: ["sh"] },
        rootfs: { type: "layers", diff_ids: [base, other].map(sha256) },
      },
    });
    const { code, stderr } = await tool("check", "--source", `${registry.host}/app:other`, "--target", target, "--platform", "linux/amd64");
    expect(code).toBe(1);
    for (const words of [
      '\\"/etc/conf\\": content is',
      '\\"/gone\\" is only in the source',
      '\\"/more\\" is only in the source',
      '\\"/new\\" is only in the target',
      "differ in 7 points",
    ])
      expect(stderr).toContain(words);
  });

  test.each([
    ["a blob that has other bytes", /is damaged/],
    ["a layer of another type", /media type/],
    ["a missing diff ID", /diff IDs/],
    ["a bootstrap that the config does not know", /diff id/],
    ["a blob that the manifest does not list", /does not list/],
    ["a command that differs", /Cmd/],
  ] as const)("%s is found", async (what, words) => {
    const { registry, source, target } = await converted();
    const bytes = await fetchJson(registry, "app", "nydus");
    const manifest = JSON.parse(bytes.toString());
    const config = JSON.parse((await fetchBlob(registry, "app", manifest.config.digest)).toString());
    if (what === "a blob that has other bytes") registry.faults.add({ path: new RegExp(manifest.layers[0].digest) }, { corrupt: true });
    if (what === "a layer of another type") manifest.layers[0].mediaType = "application/vnd.oci.image.layer.v1.tar";
    if (what === "a missing diff ID") config.rootfs.diff_ids.pop();
    if (what === "a bootstrap that the config does not know") config.rootfs.diff_ids[3] = config.rootfs.diff_ids[0];
    if (what === "a blob that the manifest does not list") {
      manifest.layers.shift();
      config.rootfs.diff_ids.shift();
    }
    if (what === "a command that differs") config.config.Cmd = ["bash"];
    manifest.config = { ...manifest.config, ...registry.putBlob(Buffer.from(JSON.stringify(config)), "app") };
    registry.store.putManifest("app", "nydus", Buffer.from(JSON.stringify(manifest)), "application/vnd.oci.image.manifest.v1+json");
    const { code, stderr } = await tool("check", "--source", source, "--target", target, "--platform", "linux/amd64");
    expect([code, stderr]).toEqual([1, expect.stringMatching(words)]);
  });
});

describe("copy", () => {
  test("an index with everything in it keeps its digest, and layers that are referred to come along", async () => {
    const { registry, target } = await converted("--oci-ref", "--merge-platform");
    const { code, stdout } = await tool("copy", "--source", target, "--target", `${registry.host}/copied:v1`, "--platform", "linux/amd64");
    expect([code, stdout.trim()]).toEqual([0, sha256(await fetchJson(registry, "app", "nydus"))]);
    expect(await fetchBlob(registry, "copied", sha256(gzipSync(base)))).toEqual(gzipSync(base));
    const check = await tool("check", "--source", target, "--target", `${registry.host}/copied:v1`, "--platform", "linux/amd64");
    expect([check.code, check.stderr]).toEqual([0, expect.any(String)]);
  });

  test("one platform of several is its manifest alone; a second copy sends nothing", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    writeLayout(work.join("in"), [gzipSync(base)], ["arm64", "amd64"]);
    const argv = ["copy", "--source", `oci:${work.join("in")}:v1`, "--target", `${registry.host}/one:v1`, "--platform", "linux/arm64"];
    expect((await tool(...argv)).stderr).toContain("2 blobs sent");
    expect(JSON.parse((await fetchJson(registry, "one", "v1")).toString()).layers).toHaveLength(1);
    expect((await tool(...argv)).stderr).toContain("0 blobs sent");
  });

  test("with --push-chunk-size larger blobs go in pieces of that size, the others whole", async () => {
    const { registry, target } = await converted();
    // Within a registry nothing is sent.
    const other = await startRegistry();
    const argv = ["copy", "--source", target, "--target", `${other.host}/pieces:v1`, "--platform", "linux/amd64"];
    await succeed(...argv, "--push-chunk-size", "100KB");
    const { layers, config } = JSON.parse((await fetchJson(other, "pieces", "v1")).toString());
    const sizes = [config, ...layers].map(({ size }: { size: number }) => size);
    const pieces = sizes.filter((size) => size > 100_000).map((size) => Math.ceil(size / 100_000));
    expect(pieces.length).toBeGreaterThan(0);
    expect(other.requests.filter(({ method }) => method === "PATCH")).toHaveLength(pieces.reduce((sum, count) => sum + count, 0));
    for (const { digest } of layers) expect(await fetchBlob(other, "pieces", digest)).toEqual(await fetchBlob(registry, "app", digest));
    const refused = await tool(...argv, "--push-chunk-size", "1GiB");
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("at most 256MiB each")]);
  });

  test("with --source-backend-type the copy has the blobs of the folder, and a copy of the copy nothing to add", async () => {
    const work = temporaryDirectory();
    const backend = (side: string) => [
      `--${side}backend-type`,
      "localfs",
      `--${side}backend-config`,
      JSON.stringify({ dir: work.join("blobs") }),
    ];
    const { registry, source, target } = await converted(...backend(""));
    const copy = (from: string, to: string) => [
      "copy",
      "--source",
      from,
      "--target",
      `${registry.host}/${to}`,
      "--platform",
      "linux/amd64",
    ];
    await succeed(...copy(target, "whole:v1"), ...backend("source-"));
    const { manifest, config } = await pull(registry, "whole", "v1");
    expect(
      manifest.layers
        .slice(0, -1)
        .map(({ digest }) => digest.slice(7))
        .sort(),
    ).toEqual(
      readdirSync(work.join("blobs"))
        .filter((id) => manifest.layers.some(({ digest }) => digest.endsWith(id)))
        .sort(),
    );
    expect(manifest.layers.length).toBeGreaterThan(1);
    expect(config.rootfs.diff_ids).toHaveLength(manifest.layers.length);
    const check = await succeed("check", "--source", source, "--target", `${registry.host}/whole:v1`, "--platform", "linux/amd64");
    expect(check.stderr).toContain("verified image");
    await succeed(...copy(`${registry.host}/whole:v1`, "again:v1"), ...backend("source-"));
    expect(await fetchJson(registry, "again", "v1")).toEqual(await fetchJson(registry, "whole", "v1"));
    rmSync(work.join("blobs"), { recursive: true });
    const { code, stderr } = await tool(...copy(target, "none:v1"), ...backend("source-"));
    expect([code, stderr]).toEqual([1, expect.stringMatching(/level=fatal msg="blob [0-9a-f]{64} of .* is not in /)]);
  });

  test("through an archive and back, the image is the same, and the work directory is gone", async () => {
    const { registry, target } = await converted();
    const work = temporaryDirectory();
    const archive = `file://${work.join("a.tar")}`;
    const more = ["--platform", "linux/amd64", "--work-dir", work.join("tmp")];
    const out = await tool("copy", "--source", target, "--target", archive, ...more);
    expect([out.code, out.stderr]).toEqual([0, expect.any(String)]);
    const back = await tool("copy", "--source", archive, "--target", `${registry.host}/back:v1`, ...more);
    expect([back.code, back.stdout]).toEqual([0, out.stdout]);
    expect(await fetchJson(registry, "back", "v1")).toEqual(await fetchJson(registry, "app", "nydus"));
    expect(existsSync(work.join("tmp"))).toBe(false);
  });

  test.each([
    ["that is not there", undefined, /is not there/],
    ["that is no archive", Buffer.from("x".repeat(2000)), /can not be read as an archive/],
    ["of something else", layerTar({ a: "b" }), /index.json is missing/],
    ["of no image", layerTar({ "index.json": '{"manifests": []}' }), /holds 0 images/],
  ])("an archive %s is refused", async (_, bytes, words) => {
    const work = temporaryDirectory();
    if (bytes) writeFileSync(work.join("a.tar"), bytes);
    const argv = [
      "copy",
      "--source",
      `file://${work.join("a.tar")}`,
      "--target",
      `oci:${work.join("out")}`,
      "--work-dir",
      work.join("tmp"),
    ];
    const { code, stderr } = await tool(...argv);
    expect([code, stderr]).toEqual([1, expect.stringMatching(words)]);
  });
});

describe("build", () => {
  test("a directory becomes a bootstrap and a blob, also under the name pack", async () => {
    const work = temporaryDirectory();
    mkdirSync(work.join("in/sub"), { recursive: true });
    writeFileSync(work.join("in/sub/file"), "content");
    symlinkSync("sub/file", work.join("in/link"));
    const { code, stderr } = await tool("pack", "--source-dir", work.join("in"), "--output-dir", work.join("out"), "--name", "image");
    expect([code, stderr]).toEqual([0, expect.stringContaining("successfully built Nydus image")]);
    expect(readdirSync(work.join("out"))).toEqual(expect.arrayContaining(["image.meta", "image.blob", "output.json"]));
    expect((await run(["unpack", work.join("out/image.meta"), "-b", work.join("out/image.blob"), "--output", work.join("tar")])).code).toBe(
      0,
    );
    expect(readFileSync(work.join("tar")).includes("content")).toBe(true);
  });

  test("--compact writes the parent's blobs anew, and the new image stands on them", async () => {
    const work = temporaryDirectory();
    const out = ["--output-dir", work.join("out")];
    for (const [name, content] of [
      ["one", "first".repeat(9000)],
      ["two", "second"],
      ["three", "third"],
    ] as const) {
      mkdirSync(work.join(name));
      writeFileSync(work.join(name, "file"), content);
    }
    const parent = ["--parent-bootstrap", work.join("out/two.meta")];
    await succeed("build", "--source-dir", work.join("one"), ...out, "--name", "one");
    renameSync(work.join("out/one.blob"), work.join("out", JSON.parse(readFileSync(work.join("out/output.json"), "utf8")).blobs[0]));
    await succeed("build", "--source-dir", work.join("two"), ...out, "--name", "two", "--parent-bootstrap", work.join("out/one.meta"));
    writeFileSync(work.join("limits"), JSON.stringify({ min_used_ratio: 5, LayersToCompact: "1" }));
    const limits = ["--compact-config-file", work.join("limits")];
    await succeed("build", "--source-dir", work.join("three"), ...out, "--name", "three", ...parent, "--compact", ...limits);
    const ids = openBootstrap(readFileSync(work.join("out/three.meta"))).blobs.map(({ id }) => id);
    expect(ids).toEqual([...openBootstrap(readFileSync(work.join("out/two.meta.compact"))).blobs.map(({ id }) => id), expect.any(String)]);
    expect(ids).toHaveLength(2);
    const unpack = ["unpack", work.join("out/three.meta"), "-D", work.join("out"), "--output", work.join("tar")];
    expect(await run(unpack)).toMatchObject({ code: 0, stderr: "" });
    expect(readFileSync(work.join("tar")).includes("third")).toBe(true);
    writeFileSync(work.join("limits"), '{"min_used_ratio": "few"}');
    const { code, stderr } = await tool(
      "build",
      "--source-dir",
      work.join("one"),
      ...out,
      "--name",
      "n",
      ...parent,
      "--compact",
      ...limits,
    );
    expect([code, stderr]).toEqual([1, expect.stringContaining("expected a number")]);
  });

  test.each([
    [["--source-dir", "/nowhere", "--name", "a"], "is not a directory"],
    [["--name", "a"], "--source-dir"],
    [["--source-dir", "/tmp"], "--name"],
    [["--source-dir", "/tmp", "--name", "a", "--backend-push"], "give --backend-config"],
  ])("%j is refused", async (argv, words) => {
    const { code, stderr } = await tool("build", ...argv);
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
  });
});

describe("mount", () => {
  test("an image that is no nydus image, and a daemon that is not there, are told, and nothing stays", async () => {
    const { source, target } = await converted();
    const work = temporaryDirectory();
    const argv = [
      "mount",
      "--platform",
      "linux/amd64",
      "--mount-path",
      work.join("mnt"),
      "--work-dir",
      work.join("tmp"),
      "--nydusd",
      work.join("no-daemon"),
    ];
    expect((await tool(...argv, "--target", source)).stderr).toContain("is not a nydus image");
    const { code, stderr } = await tool(...argv, "--target", target);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/does not serve the image: .*ENOENT/)]);
    expect(existsSync(work.join("tmp"))).toBe(false);
  });
});

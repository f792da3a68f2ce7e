import { existsSync, readFileSync, readdirSync } from "node:fs";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { findInlinedBootstrap, openBootstrap, tocTailBytes } from "@nydus-ts/rafs-format";
import { describe, expect, test } from "vitest";
import {
  base,
  fetchBlob,
  fetchJson,
  onlyDirectories,
  pull,
  sha256,
  startRegistry,
  temporaryDirectory,
  unpack,
  upper,
  writeLayout,
} from "./convert-support.ts";
import { run } from "./support.ts";

describe("converting an image", () => {
  test("while blobs are written to a slow registry, the next layers are built", async () => {
    const registry = await startRegistry();
    const layers = [base, upper, onlyDirectories].map((layer) => gzipSync(layer));
    registry.putImage("app", "v1", layers);
    const lastRead = Promise.withResolvers<void>();
    registry.faults.add({ method: "GET", path: new RegExp(sha256(layers[2])) }, { hold: async () => lastRead.resolve() });
    // Two layers are built at a time: with both waiting here, the third is read only if its turn comes before their end.
    registry.faults.add({ method: "POST", path: /nydus\/app\/blobs\/uploads/ }, { hold: () => lastRead.promise });
    const { code, stderr } = await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus/app:v1`]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("3 blobs written, 0 were there")]);
  });

  test("layers become nydus blobs and a bootstrap layer, as the run time wants them", async () => {
    const registry = await startRegistry();
    const source = {
      architecture: "amd64",
      os: "linux",
      custom: { kept: true },
      config: { Image: "sha256:old", Cmd: ["sh"] },
      rootfs: { type: "layers", diff_ids: [base, upper].map(sha256) },
      history: [{ created_by: "a" }, { created_by: "b" }],
    };
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper), gzipSync(onlyDirectories)], { config: source });
    const { code, stdout, stderr } = await run([
      "convert",
      "--source",
      `${registry.host}/app:v1`,
      "--target",
      `${registry.host}/nydus/app:v1`,
    ]);
    expect([code, stderr]).toEqual([0, expect.stringContaining("3 blobs written, 0 were there")]);

    const { manifest, config, bootstrapTar } = await pull(registry, "nydus/app", "v1");
    expect(stdout.trim()).toBe(sha256(await fetchJson(registry, "nydus/app", "v1")));
    expect(manifest.layers.map(({ mediaType, annotations }) => ({ mediaType, annotations }))).toEqual([
      ...Array(3).fill({
        mediaType: "application/vnd.oci.image.layer.nydus.blob.v1",
        annotations: { "containerd.io/snapshot/nydus-blob": "true" },
      }),
      {
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
        annotations: { "containerd.io/snapshot/nydus-bootstrap": "true", "containerd.io/snapshot/nydus-fs-version": "6" },
      },
    ]);
    expect(manifest.annotations).toMatchObject({
      "containerd.io/snapshot/nydus-source-reference": `${registry.host}/app:v1`,
      "containerd.io/snapshot/nydus-fs-version": "6",
    });
    expect(config.rootfs.diff_ids).toEqual([...manifest.layers.slice(0, 3).map(({ digest }) => digest), sha256(bootstrapTar)]);
    expect(config).toMatchObject({ custom: { kept: true }, config: { Cmd: ["sh"] } });
    expect(config["config"]).not.toHaveProperty("Image");
    expect(config.history).toEqual([...source.history, { created_by: "Nydus Converter", comment: "Nydus Bootstrap Layer" }]);

    const { names, directory } = unpack(bootstrapTar);
    const [first, second] = manifest.layers.map(({ digest }) => digest.slice(7));
    expect(names).toEqual(["image", "image/image.boot", `image/${first}.blob.meta`, `image/${second}.blob.meta`]);
    const bootstrap = openBootstrap(readFileSync(directory.join("image/image.boot")));
    expect(Array.from(bootstrap.walk(), ({ path }) => Buffer.from(path).toString())).toEqual([
      "/",
      "/etc",
      "/etc/conf",
      "/new",
      "/new/file",
      "/usr",
      "/usr/big",
      "/var",
      "/var/run",
    ]);
    for (const blob of bootstrap.blobs) {
      const bytes = await fetchBlob(registry, "nydus/app", `sha256:${blob.id}`);
      expect(bytes.length).toBe(blob.compressedSize);
      expect(findInlinedBootstrap(bytes.subarray(-tocTailBytes(bytes.length)), bytes.length)).toBeDefined();
      const meta = readFileSync(directory.join(`image/${blob.id}.blob.meta`));
      expect(meta.subarray(-4096).equals(bytes.subarray(blob.ciOffset + blob.ciCompressedSize).subarray(0, 4096))).toBe(true);
    }
  });

  test("run again, it uploads no blob bytes and gives the same digest", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)]);
    const argv = ["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`];
    const first = await run(argv);
    registry.resetCounters();
    const second = await run(argv);
    expect([second.code, second.stdout]).toEqual([0, first.stdout]);
    expect(registry.requests.filter(({ method, path }) => method !== "GET" && method !== "HEAD" && path.includes("/blobs/"))).toEqual([]);
  });

  test("layers compressed with zstd or not at all give the same blobs as gzip", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "gzip", [gzipSync(base), gzipSync(upper)]);
    registry.putImage("app", "other", [zstdCompressSync(base), upper], { layerMediaType: "application/vnd.oci.image.layer.v1.tar" });
    const layers = [];
    for (const tag of ["gzip", "other"]) {
      expect((await run(["convert", "--source", `${registry.host}/app:${tag}`, "--target", `${registry.host}/nydus:${tag}`])).code).toBe(0);
      layers.push((await pull(registry, "nydus", tag)).manifest.layers);
    }
    expect(layers[1]).toEqual(layers[0]);
  });

  test("a layer that occurs twice is converted once and listed twice", async () => {
    const registry = await startRegistry();
    const layer = gzipSync(base);
    registry.putImage("app", "v1", [layer, gzipSync(upper), layer]);
    const { stderr } = await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`]);
    expect(stderr).toContain("2 blobs written");
    const { manifest, bootstrapTar } = await pull(registry, "nydus", "v1");
    expect(manifest.layers[2]).toEqual(manifest.layers[0]);
    const bootstrap = openBootstrap(readFileSync(unpack(bootstrapTar).directory.join("image/image.boot")));
    expect(bootstrap.resolve("/gone")).toBeDefined();
    expect(bootstrap.inode(bootstrap.resolve("/etc/conf")!).size).toBe(3);
  });

  test("from a layout folder to a layout folder, without a registry", async () => {
    const work = temporaryDirectory();
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base)]);
    const there = await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`]);
    writeLayout(work.join("in"), [gzipSync(base)]);
    const { code } = await run([
      "convert",
      "--source",
      `oci:${work.join("in")}:v1`,
      "--target",
      `oci:${work.join("out")}:nydus`,
      "--work-dir",
      work.join("spool"),
    ]);
    expect([code, there.code]).toEqual([0, 0]);
    const index = JSON.parse(readFileSync(work.join("out/index.json"), "utf8"));
    expect(index.manifests[0].annotations).toEqual({ "org.opencontainers.image.ref.name": "nydus" });
    const manifest = JSON.parse(readFileSync(work.join("out/blobs/sha256", index.manifests[0].digest.slice(7)), "utf8"));
    const { manifest: pushed } = await pull(registry, "nydus", "v1");
    expect(manifest.layers).toEqual(pushed.layers);
    expect(manifest.annotations).not.toHaveProperty("containerd.io/snapshot/nydus-source-reference");
    expect(existsSync(work.join("spool"))).toBe(false);
  });

  test("a prefetch list becomes the prefetch table of the image", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base)]);
    await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`, "--prefetch-patterns"], {
      stdin: "/usr/big\n/etc\n",
    });
    const bootstrap = openBootstrap(
      readFileSync(unpack((await pull(registry, "nydus", "v1")).bootstrapTar).directory.join("image/image.boot")),
    );
    expect(bootstrap.prefetchNids).toEqual(["/usr/big", "/etc"].map((path) => bootstrap.resolve(path)));
  });
});

describe("images for several platforms", () => {
  test("--all-platforms keeps the index with its order and platforms, without attestations", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    writeLayout(work.join("in"), [gzipSync(base)], ["arm64", "amd64"]);
    const { code } = await run([
      "convert",
      "--source",
      `oci:${work.join("in")}:v1`,
      "--target",
      `${registry.host}/nydus:v1`,
      "--all-platforms",
    ]);
    expect(code).toBe(0);
    const index = JSON.parse((await fetchJson(registry, "nydus", "v1")).toString());
    expect(index.manifests.map(({ platform }: { platform: { architecture: string } }) => platform.architecture)).toEqual([
      "arm64",
      "amd64",
    ]);
    for (const { digest } of index.manifests) expect((await pull(registry, "nydus", digest)).manifest.layers).toHaveLength(2);
  });

  test("one platform asked for: its manifest alone, no index; a platform that is not there is told with those that are", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    writeLayout(work.join("in"), [gzipSync(base)], ["arm64", "amd64"]);
    const argv = ["convert", "--source", `oci:${work.join("in")}:v1`, "--target", `${registry.host}/nydus:v1`, "--platform"];
    expect((await run([...argv, "linux/arm64"])).code).toBe(0);
    expect((await pull(registry, "nydus", "v1")).config["architecture"]).toBe("arm64");
    const { code, stderr } = await run([...argv, "linux/s390x"]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("has no image for linux/s390x: it has linux/arm64, linux/amd64")]);
  });
});

describe("a conversion that fails", () => {
  test.each([
    [
      "a layer that is no tar",
      Buffer.from("not a tar at all, but long enough".repeat(40)),
      /layer sha256:.* can not be converted[\s\S]*checksum mismatch/,
    ],
    [
      "a layer that is cut",
      gzipSync(base).subarray(0, 90_000),
      /layer sha256:.* can not be converted[\s\S]*(unexpected end|truncated|damaged)/,
    ],
  ])("%s: the layer is named, no tag is written, nothing stays in the work directory", async (_, layer, words) => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    registry.putImage("app", "v1", [gzipSync(upper), layer]);
    const { code, stdout, stderr } = await run([
      "convert",
      "--source",
      `${registry.host}/app:v1`,
      "--target",
      `${registry.host}/nydus:v1`,
      "--work-dir",
      work.path,
    ]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(words);
    expect(readdirSync(work.path)).toEqual([]);
    expect((await fetch(`http://${registry.host}/v2/nydus/manifests/v1`)).status).toBe(404);
  });

  test("bytes that do not match their digest are refused", async () => {
    const registry = await startRegistry();
    const { manifest } = registry.putImage("app", "v1", [gzipSync(base)]);
    registry.faults.add({ method: "GET", path: new RegExp(manifest.layers[0].digest) }, { corrupt: true });
    const { code, stderr } = await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`]);
    expect(code).toBe(1);
    expect(stderr).toContain(manifest.layers[0].digest);
  });

  test("an image that is not there, and a registry that says no, are one clear line each", async () => {
    const registry = await startRegistry();
    const missing = await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`]);
    expect([missing.code, missing.stderr]).toEqual([1, expect.stringMatching(/Error: .*app:v1/)]);
    registry.putImage("app", "v1", [gzipSync(base)]);
    registry.faults.add({ method: "POST", path: /uploads/ }, { status: 403 });
    const denied = await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`]);
    expect([denied.code, denied.stderr]).toEqual([1, expect.stringContaining("403")]);
  });

  test("a nydus image is not converted again", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base)]);
    await run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/app:nydus`]);
    const { code, stderr } = await run(["convert", "--source", `${registry.host}/app:nydus`, "--target", `${registry.host}/app:again`]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("is a nydus image already")]);
  });

  test("stopped by the person, it ends at once and cleans up", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    const { manifest } = registry.putImage("app", "v1", [gzipSync(base)]);
    registry.faults.add({ method: "GET", path: new RegExp(manifest.layers[0].digest) }, { stallAfterBytes: 1000 });
    const abort = new AbortController();
    const done = run(["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/nydus:v1`, "--work-dir", work.path], {
      signal: abort.signal,
    });
    while (!existsSync(work.path) || readdirSync(work.path).length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    abort.abort(new Error("stopped by SIGINT"));
    const { code, stderr } = await done;
    expect([code, stderr]).toEqual([1, expect.stringContaining("stopped by SIGINT")]);
    expect(readdirSync(work.path)).toEqual([]);
  });
});

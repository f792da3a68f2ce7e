import { readdirSync, readFileSync, rmSync } from "node:fs";
import { gunzipSync, gzipSync, zstdCompressSync } from "node:zlib";
import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import { hasFeature, openBootstrap } from "@nydus-ts/rafs-format";
import { registryBackend } from "@nydus-ts/registry-client";
import type { TestRegistry } from "@nydus-ts/registry-client/testing";
import { describe, expect, test } from "vitest";
import { readBootstrapFile } from "../src/bootstrap-file.ts";
import { ImageChunks } from "../src/image-chunks.ts";
import {
  base,
  fetchBlob,
  fetchJson,
  onlyDirectories,
  type Pulled,
  pull,
  sha256,
  startRegistry,
  temporaryDirectory,
  unpack,
  upper,
  writeLayout,
} from "./convert-support.ts";
import { layerTar, run } from "./support.ts";

const convert = (source: string, target: string, ...more: string[]) => run(["convert", "--source", source, "--target", target, ...more]);

/** Contents of all files of a nydus image, by path, fetched and verified. */
async function contents(bootstrapTar: Buffer, opening: BlobBackend | Promise<BlobBackend>): Promise<Record<string, string>> {
  await using backend = await opening;
  const file = await readBootstrapFile(unpack(bootstrapTar).directory.join("image/image.boot"));
  const chunks = new ImageChunks(file, backend, new AbortController().signal);
  const found: Record<string, string> = {};
  for (const { path, nid, inode } of file.bootstrap.walk()) {
    if (inode.type !== "file") continue;
    const parts: Uint8Array[] = [];
    for (const chunk of file.bootstrap.chunksOf(nid)) parts.push(Buffer.from(await chunks.read(chunk)));
    found[Buffer.from(path).toString()] = sha256(Buffer.concat(parts));
  }
  return found;
}

const fromRegistry = (registry: TestRegistry, repository: string) => registryBackend({ host: registry.host, repository });
const big = base.subarray(base.indexOf("usr/big") + 512).subarray(0, 300_000);
const merged = { "/etc/conf": sha256(Buffer.from("version 2\n")), "/new/file": sha256(Buffer.from("n")), "/usr/big": sha256(big) };

describe("--oci-ref", () => {
  test("the layers stay as they are, and every file is read out of them", async () => {
    const registry = await startRegistry();
    const layers = [gzipSync(base), gzipSync(upper), gzipSync(onlyDirectories)];
    registry.putImage("app", "v1", layers);
    const { code, stderr } = await convert(`${registry.host}/app:v1`, `${registry.host}/other:v1`, "--oci-ref");
    expect([code, stderr]).toEqual([0, expect.stringContaining("3 blobs written")]);
    const { manifest, bootstrapTar } = await pull(registry, "other", "v1");
    expect(manifest.layers.slice(0, 3).map(({ annotations }) => annotations["containerd.io/snapshot/nydus-ref"])).toEqual(
      layers.map(sha256),
    );
    for (const layer of layers) expect(await fetchBlob(registry, "other", sha256(layer))).toEqual(layer);
    const { names } = unpack(bootstrapTar);
    expect(names).toContain(`image/${sha256(layers[0]).slice(7)}.blob.meta`);
    for (const layer of manifest.layers.slice(0, 3)) expect(layer.size).toBeLessThan(60_000);
    expect(await contents(bootstrapTar, fromRegistry(registry, "other"))).toEqual(merged);
  });

  test("the bootstrap names blob, size and table of contents of every description, so that the run time can verify it", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base)]);
    await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, "--oci-ref");
    const { manifest, bootstrapTar } = await pull(registry, "app", "nydus");
    const [blob] = openBootstrap(readFileSync(unpack(bootstrapTar).directory.join("image/image.boot"))).blobs;
    expect(blob.id).toBe(sha256(gzipSync(base)).slice(7));
    expect(`sha256:${Buffer.from(blob.metaDigest!).toString("hex")}`).toBe(manifest.layers[0].digest);
    expect(blob.metaSize).toBe(manifest.layers[0].size);
    expect(blob.tocDigest).toBeDefined();
  });

  test("a layer compressed with zstd can not be referred to, and is named", async () => {
    const registry = await startRegistry();
    const { manifest } = registry.putImage("app", "v1", [zstdCompressSync(base)]);
    const { code, stderr } = await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, "--oci-ref");
    expect([code, stderr]).toEqual([1, expect.stringContaining(manifest.layers[0].digest)]);
    expect(stderr).toContain("can not be referred to");
  });
});

describe("RAFS version 5", () => {
  test.each([[[]], [["--fs-align-chunk"]], [["--compressor", "lz4_block"]]])("every file can be read, options %j", async (more) => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)]);
    const { code, stderr } = await convert(`${registry.host}/app:v1`, `${registry.host}/app:v5`, "--fs-version", "5", ...more);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    const { manifest, bootstrapTar } = await pull(registry, "app", "v5");
    expect(manifest.layers.at(-1)!.annotations["containerd.io/snapshot/nydus-fs-version"]).toBe("5");
    expect(unpack(bootstrapTar).names).toEqual(["image", "image/image.boot"]);
    expect(await contents(bootstrapTar, fromRegistry(registry, "app"))).toEqual(merged);
  });
});

describe("--batch-size", () => {
  test("small files are stored together, and every file can be read", async () => {
    const registry = await startRegistry();
    const small = layerTar(Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`f${i}`, `content ${i} `.repeat(50)])));
    registry.putImage("app", "v1", [gzipSync(small)]);
    const { code, stderr } = await convert(`${registry.host}/app:v1`, `${registry.host}/app:batched`, "--batch-size", "0x10000");
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    const { bootstrapTar } = await pull(registry, "app", "batched");
    const [blob] = openBootstrap(readFileSync(unpack(bootstrapTar).directory.join("image/image.boot"))).blobs;
    expect(hasFeature(blob, "batch")).toBe(true);
    const found = await contents(bootstrapTar, fromRegistry(registry, "app"));
    expect(found["/f7"]).toBe(sha256(Buffer.from("content 7 ".repeat(50))));
    expect(Object.keys(found)).toHaveLength(20);
  });
});

describe("--backend-type localfs", () => {
  test("blobs go to the folder, the manifest lists the bootstrap alone, and the files are there", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)]);
    const config = ["--backend-type", "localfs", "--backend-config", JSON.stringify({ dir: work.join("blobs") })];
    const first = await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, ...config);
    expect([first.code, first.stderr]).toEqual([0, expect.stringContaining("2 blobs written")]);
    expect((await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, ...config)).stderr).toContain("2 were there");
    const { manifest, config: image, bootstrapTar } = await pull(registry, "app", "nydus");
    expect(manifest.layers).toHaveLength(1);
    expect(image.rootfs.diff_ids).toEqual([sha256(bootstrapTar)]);
    expect(image.history).toEqual([{ created_by: "Nydus Converter", comment: "Nydus Bootstrap Layer" }]);
    for (const name of readdirSync(work.join("blobs"))) expect(sha256(readFileSync(work.join("blobs", name)))).toBe(`sha256:${name}`);
    expect(await contents(bootstrapTar, localfsBackend({ dir: work.join("blobs") }))).toEqual(merged);
  });

  test.each([
    [["--backend-type", "floppy"], 'floppy" is not known'],
    [["--backend-type", "localfs"], "needs a configuration"],
    [["--backend-type", "localfs", "--backend-config", "{"], "not JSON"],
    [["--backend-type", "localfs", "--backend-config", "{}"], 'no "dir"'],
    [["--backend-type", "oss", "--backend-config", "{}"], 'no "bucket_name"'],
    [["--backend-type", "s3", "--backend-config", '{"bucket_name":"blobs","region":"r","access_key_id":"i"}'], "no access_key_secret"],
    [["--oci-ref", "--fs-version", "5"], "--fs-version 6"],
    [["--batch-size", "0x1001"], "invalid batch size"],
    [["--batch-size", "0x10000", "--oci-ref"], "batch"],
    [["--push-retry-delay", "soon"], "--push-retry-delay"],
    [["--prefetch-dir", "/a", "--prefetch-patterns"], "cannot be used"],
    [["--oci-ref=maybe"], "true or false"],
  ])("%j is refused before anything is read", async (more, words) => {
    const { code, stderr } = await convert("127.0.0.1:1/a:b", "127.0.0.1:1/a:c", ...more);
    expect([code, stderr]).toEqual([expect.not.stringMatching("0"), expect.stringContaining(words)]);
    expect(code).not.toBe(0);
  });
});

describe("--merge-platform", () => {
  test("OCI images first, with an empty layer in front, then nydus images that only clients of nydus take", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    writeLayout(work.join("in"), [gzipSync(base)], ["arm64", "amd64"]);
    const { code, stderr } = await convert(`oci:${work.join("in")}:v1`, `${registry.host}/both:v1`, "--merge-platform", "--all-platforms");
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    const index = JSON.parse((await fetchJson(registry, "both", "v1")).toString());
    expect(
      index.manifests.map((entry: { platform: { architecture: string }; artifactType?: string }) => [
        entry.platform.architecture,
        entry.artifactType,
      ]),
    ).toEqual([
      ["arm64", undefined],
      ["amd64", undefined],
      ["arm64", "application/vnd.nydus.image.manifest.v1+json"],
      ["amd64", "application/vnd.nydus.image.manifest.v1+json"],
    ]);
    const oci = await pull(registry, "both", index.manifests[1].digest);
    expect(oci.manifest.layers).toHaveLength(2);
    expect(oci.manifest.layers[0].annotations).toEqual({ "containerd.io/snapshot/nydus-empty-layer": "true" });
    expect(gunzipSync(await fetchBlob(registry, "both", oci.manifest.layers[0].digest))).toEqual(Buffer.alloc(1024));
    expect(oci.config.rootfs.diff_ids[0]).toBe("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
    expect(index.manifests[1].annotations["containerd.io/snapshot/nydus-source-digest"]).toMatch(/^sha256:/);
    expect(await fetchBlob(registry, "both", oci.manifest.layers[1].digest)).toEqual(gzipSync(base));
    const nydus = await pull(registry, "both", index.manifests[3].digest);
    expect(nydus.manifest.config.mediaType).toBe("application/vnd.nydus.image.config.v1+json");
    expect(nydus.config["architecture"]).toBe("amd64");
  });

  test("a single manifest gets the platform of its config, and a second run uploads nothing", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)]);
    const argv = [`${registry.host}/app:v1`, `${registry.host}/app:both`, "--merge-platform"] as const;
    const first = await convert(...argv);
    const index = JSON.parse((await fetchJson(registry, "app", "both")).toString());
    expect(index.manifests.map(({ platform }: { platform: unknown }) => platform)).toEqual(
      Array(2).fill({ os: "linux", architecture: "amd64" }),
    );
    registry.resetCounters();
    expect((await convert(...argv)).stdout).toBe(first.stdout);
    expect(registry.requests.filter(({ method, path }) => ["PUT", "PATCH", "POST"].includes(method) && path.includes("/blobs/"))).toEqual(
      [],
    );
  });

  test("the OCI half is converted again, not the nydus half", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base)]);
    await convert(`${registry.host}/app:v1`, `${registry.host}/app:both`, "--merge-platform");
    const { code } = await convert(`${registry.host}/app:both`, `${registry.host}/app:again`);
    expect(code).toBe(0);
    expect((await pull(registry, "app", "again")).manifest.layers).toHaveLength(3); // the empty layer, the layer, the bootstrap
  });
});

describe("--with-referrer", () => {
  test("the manifest names its source, and the list of referrers has it, also where the registry does not keep one", async () => {
    const registry = await startRegistry();
    const source = registry.putImage("app", "v1", [gzipSync(base)]);
    for (let n = 0; n < 2; n++)
      expect((await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, "--with-referrer")).code).toBe(0);
    const bytes = await fetchJson(registry, "app", "nydus");
    const artifactType = "application/vnd.nydus.image.manifest.v1+json";
    expect(JSON.parse(bytes.toString())).toMatchObject({
      artifactType,
      subject: { mediaType: source.mediaType, digest: source.digest, size: source.size },
    });
    const referrers = JSON.parse((await fetchJson(registry, "app", source.digest.replace(":", "-"))).toString());
    expect(referrers.manifests).toEqual([expect.objectContaining({ digest: sha256(bytes), artifactType })]);
  });
});

describe("running a conversion again", () => {
  test("moves no byte of a blob when source and options are the same, and converts when they are not", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)]);
    const argv = [`${registry.host}/app:v1`, `${registry.host}/app:nydus`] as const;
    const first = await convert(...argv);
    registry.resetCounters();
    const second = await convert(...argv);
    expect([second.stdout, second.stderr]).toEqual([first.stdout, expect.stringContaining("0 blobs written, 2 were there")]);
    const config = registry.requests.filter(({ method, path }) => method === "GET" && path.includes("/blobs/"));
    expect(config).toHaveLength(1); // the source's config, nothing else
    expect((await convert(...argv, "--compressor", "none")).stderr).toContain("2 blobs written");
  });

  test("a blob that the registry has lost is made again", async () => {
    const work = temporaryDirectory();
    writeLayout(work.join("in"), [gzipSync(base)]);
    const argv = [`oci:${work.join("in")}:v1`, `oci:${work.join("out")}:v1`] as const;
    const first = await convert(...argv);
    const manifest = JSON.parse(readFileSync(work.join("out/blobs/sha256", first.stdout.trim().slice(7)), "utf8"));
    const lost = work.join("out/blobs/sha256", manifest.layers[0].digest.slice(7));
    const bytes = readFileSync(lost);
    rmSync(lost);
    expect((await convert(...argv)).stdout).toBe(first.stdout);
    expect(readFileSync(lost)).toEqual(bytes);
  });
});

describe("--reverse", () => {
  test.each(["5", "6"])(
    "version %s: layers with the same files, whiteouts included; without history and annotations of the conversion",
    async (version) => {
      const registry = await startRegistry();
      const config = {
        architecture: "amd64",
        os: "linux",
        rootfs: { type: "layers", diff_ids: [base, upper].map(sha256) },
        history: [{ created_by: "a" }],
      };
      registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)], { config });
      await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, "--fs-version", version);
      const { code, stderr } = await convert(`${registry.host}/app:nydus`, `${registry.host}/app:back`, "--reverse");
      expect([code, stderr]).toEqual([0, expect.stringContaining("2 blobs written")]);
      const back = await pull(registry, "app", "back");
      expect(back.manifest.layers.map(({ mediaType }) => mediaType)).toEqual(Array(2).fill("application/vnd.oci.image.layer.v1.tar+gzip"));
      expect(back.manifest.annotations).toBeUndefined();
      expect(back.config.history).toEqual([{ created_by: "a" }]);
      const tars: Buffer[] = [];
      for (const { digest } of back.manifest.layers) tars.push(gunzipSync(await fetchBlob(registry, "app", digest)));
      expect(back.config.rootfs.diff_ids).toEqual(tars.map(sha256));
      expect(tars[1].includes(".wh.gone")).toBe(true);
      // What matters: converted again, the files are those of the first conversion.
      expect((await convert(`${registry.host}/app:back`, `${registry.host}/app:again`)).code).toBe(0);
      expect(await contents((await pull(registry, "app", "again")).bootstrapTar, fromRegistry(registry, "app"))).toEqual(merged);
    },
  );

  test("an image that refers to layers gets them back, byte for byte", async () => {
    const registry = await startRegistry();
    const layers = [gzipSync(base), upper];
    registry.putImage("app", "v1", layers);
    await convert(`${registry.host}/app:v1`, `${registry.host}/app:nydus`, "--oci-ref");
    const { code, stderr } = await convert(`${registry.host}/app:nydus`, `${registry.host}/back:v1`, "--reverse");
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    const manifest = JSON.parse((await fetchJson(registry, "back", "v1")).toString()) as Pulled["manifest"];
    const config = JSON.parse((await fetchBlob(registry, "back", manifest.config.digest)).toString());
    expect(manifest.layers.map(({ mediaType, digest }) => [mediaType, digest])).toEqual([
      ["application/vnd.oci.image.layer.v1.tar+gzip", sha256(layers[0])],
      ["application/vnd.oci.image.layer.v1.tar", sha256(upper)],
    ]);
    expect(config.rootfs.diff_ids).toEqual([base, upper].map(sha256));
  });

  test("an image that is no nydus image is refused", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(layerTar({ a: "b" }))]);
    const { code, stderr } = await convert(`${registry.host}/app:v1`, `${registry.host}/app:back`, "--reverse");
    expect([code, stderr]).toEqual([1, expect.stringContaining("is not a nydus image")]);
  });
});

describe("a registry that fails in the middle", () => {
  const blobWrites = (registry: TestRegistry) =>
    registry.requests.filter(({ method, path }) => ["PUT", "PATCH"].includes(method) && path.includes("/blobs/uploads/"));

  test.each([
    ["answers 503 to the first reads of a layer", { method: "GET" }, { status: 503, times: 2 }],
    ["cuts the connection in a layer", { method: "GET" }, { resetAfterBytes: 100_000, times: 1 }],
    ["answers 500 when an upload begins", { method: "POST" }, { status: 500, times: 1 }],
    ["answers 502 to the end of an upload", { method: "PUT" }, { status: 502, times: 1 }],
    ["cuts the connection of an upload", { method: "PUT" }, { resetAfterBytes: 0, times: 1 }],
  ] as const)("%s: the conversion goes on, and the result is the same", async (_, match, fault) => {
    const registry = await startRegistry();
    const { manifest } = registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)]);
    const expected = await convert(`${registry.host}/app:v1`, `${registry.host}/calm:v1`);
    const path = match.method === "GET" ? new RegExp(`app/blobs/${manifest.layers[0].digest}`) : /stormy\/blobs\/uploads/;
    const fell = registry.faults.add({ ...match, path }, fault);
    const { code, stdout, stderr } = await convert(`${registry.host}/app:v1`, `${registry.host}/stormy:v1`);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(fell.hits()).toBe(fault.times);
    expect(stdout).toBe(expected.stdout);
  });

  test("a push that dies for good leaves no tag; the next run sends only what is missing, and the one after it nothing", async () => {
    const registry = await startRegistry();
    registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper), gzipSync(onlyDirectories)]);
    const argv = [`${registry.host}/app:v1`, `${registry.host}/target:v1`] as const;
    const manifestFails = registry.faults.add({ method: "PUT", path: /target\/manifests/ }, { status: 403 });
    const first = await convert(...argv);
    expect([first.code, first.stderr]).toEqual([1, expect.stringMatching(/Error: .*403/)]);
    expect((await fetch(`http://${registry.host}/v2/target/manifests/v1`)).status).toBe(404);
    manifestFails.remove();
    registry.resetCounters();
    const second = await convert(...argv);
    expect([second.code, second.stderr]).toEqual([0, expect.stringContaining("0 blobs written, 3 were there")]);
    expect(blobWrites(registry)).toEqual([]);
    registry.resetCounters();
    expect((await convert(...argv)).stdout).toBe(second.stdout);
    expect(blobWrites(registry)).toEqual([]);
    expect(registry.requests.filter(({ method, path }) => method === "GET" && path.includes("/blobs/"))).toHaveLength(1); // the config
  });
});

test("--target-archive and --source-archive: a conversion into an archive, and out of one, without a registry", async () => {
  const work = temporaryDirectory();
  writeLayout(work.join("in"), [gzipSync(base)]);
  const archive = work.join("nydus.tar");
  const first = await convert(`oci:${work.join("in")}:v1`, "app:nydus", "--target-archive", archive, "--work-dir", work.join("tmp"));
  expect([first.code, first.stderr]).toEqual([0, expect.any(String)]);
  const back = await convert(
    "app:nydus",
    `oci:${work.join("back")}:v1`,
    "--source-archive",
    archive,
    "--reverse",
    "--work-dir",
    work.join("tmp"),
  );
  expect([back.code, back.stderr]).toEqual([0, expect.any(String)]);
  expect(readdirSync(work.path).sort()).toEqual(["back", "in", "nydus.tar"]);
  const missing = await convert("a", "b", "--source-archive", work.join("none.tar"), "--work-dir", work.join("tmp"));
  expect([missing.code, missing.stderr]).toEqual([1, expect.stringContaining("is not there")]);
});

import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { openBootstrap } from "@nydus-ts/rafs-format";
import type { TestRegistry } from "@nydus-ts/registry-client/testing";
import { describe, expect, test } from "vitest";
import { fetchJson, pull, startRegistry, temporaryDirectory, unpack } from "./convert-support.ts";
import { putOciImage, succeed, tool } from "./nydusify-support.ts";
import { layerTar, run } from "./support.ts";

const shared = Object.fromEntries(["a", "b", "c", "d"].map((name) => [`usr/${name}`, randomBytes(150_000)]));
const version = (number: number) => layerTar({ "usr/": "", ...shared, "usr/version": randomBytes(9_000 + number) });

/** Six versions, of five of which there is a dictionary in another repository. */
async function withDictionary(...options: string[]): Promise<{ registry: TestRegistry; dictionary: string; source: string }> {
  const registry = await startRegistry();
  const images: string[] = [];
  for (const number of [1, 2, 3, 4, 5]) {
    const source = putOciImage(registry, "app", [version(number)], `v1.${number}`);
    images.push(`${source}-nydus`);
    await succeed("convert", "--source", source, "--target", `${source}-nydus`, ...options);
  }
  const dictionary = `${registry.host}/dictionaries/app:1`;
  const work = temporaryDirectory();
  await succeed(
    ...["chunkdict", "generate", "--sources", images.slice(0, 3).join(","), "--sources", images.slice(3).join(",")],
    ...["--target", dictionary, "--work-dir", work.join("out"), "--platform", "linux/amd64"],
  );
  expect(existsSync(work.join("out"))).toBe(false);
  return { registry, dictionary, source: putOciImage(registry, "app", [version(6), layerTar({ "etc/": "" })], "v1.6") };
}

describe("a dictionary of versions of an image", () => {
  test.each([[[]], [["--fs-version", "5"]], [["--compressor", "none", "--digester", "sha256"]]])(
    "saves the next version the data that they share (%j)",
    async (options) => {
      const { registry, dictionary, source } = await withDictionary(...options);
      const listed = JSON.parse((await fetchJson(registry, "dictionaries/app", "1")).toString()).layers;
      expect(listed.length).toBeGreaterThan(1);
      const target = `${registry.host}/next/app:v1.6`;
      const argv = ["convert", "--source", source, "--target", target, "--chunk-dict", `bootstrap:registry:${dictionary}`, ...options];
      await succeed(...argv);
      const { manifest, config, bootstrapTar } = await pull(registry, "next/app", "v1.6");
      const [own, , ...others] = manifest.layers.slice(0, -1);
      expect(own.size).toBeLessThan(40_000);
      expect(others.length).toBeGreaterThan(0);
      expect(listed.map(({ digest }: { digest: string }) => digest)).toEqual(expect.arrayContaining(others.map(({ digest }) => digest)));
      expect(config.rootfs.diff_ids.slice(0, -1)).toEqual(manifest.layers.slice(0, -1).map(({ digest }) => digest));
      const { names, directory } = unpack(bootstrapTar);
      const { blobs } = openBootstrap(readFileSync(directory.join("image/image.boot")));
      expect(new Set(blobs.map(({ id }) => `sha256:${id}`))).toEqual(new Set([own, ...others].map(({ digest }) => digest)));
      if (!options.includes("5")) for (const { id } of blobs) expect(names).toContain(`image/${id}.blob.meta`);
      expect((await succeed("check", "--source", source, "--target", target)).stderr).toContain("verified image");
      expect((await succeed(...argv)).stderr).toContain("0 blobs written");
    },
  );

  test("is not used with --oci-ref, which stores no data; the image is that without", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [version(1)]);
    const [dictionary, one, two] = ["dict", "one", "two"].map((tag) => `${registry.host}/app:${tag}`) as [string, string, string];
    await succeed("convert", "--source", source, "--target", dictionary);
    await succeed("convert", "--source", source, "--target", one, "--oci-ref");
    const dict = ["--chunk-dict", `bootstrap:registry:${dictionary}`];
    expect((await succeed("convert", "--source", source, "--target", two, "--oci-ref", ...dict)).stderr).toContain(
      "--chunk-dict is not used",
    );
    expect(await fetchJson(registry, "app", "two")).toEqual(await fetchJson(registry, "app", "one"));
  });

  test("is made of images that keep their data in a folder, and has its own in the registry", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    const backend = ["--backend-type", "localfs", "--backend-config", JSON.stringify({ dir: work.join("blobs") })];
    const images: string[] = [];
    for (const number of [1, 2, 3]) {
      const source = putOciImage(registry, "app", [version(number)], `v1.${number}`);
      images.push(`${source}-nydus`);
      await succeed("convert", "--source", source, "--target", `${source}-nydus`, ...backend);
    }
    const dictionary = `${registry.host}/dictionaries/app:1`;
    const argv = ["chunkdict", "generate", "--sources", images.join(","), "--target", dictionary, "--platform", "linux/amd64"];
    expect((await tool(...argv, "--work-dir", work.join("out"))).stderr).toContain("say where with --backend-type");
    await succeed(...argv, "--work-dir", work.join("out"), ...backend);
    const source = putOciImage(registry, "app", [version(6)], "v1.6");
    const target = `${registry.host}/next/app:v1.6`;
    await succeed("convert", "--source", source, "--target", target, "--chunk-dict", `bootstrap:registry:${dictionary}`);
    expect((await pull(registry, "next/app", "v1.6")).manifest.layers[0]!.size).toBeLessThan(40_000);
    expect((await succeed("check", "--source", source, "--target", target)).stderr).toContain("verified image");
  });

  test("is left out when the image is turned back, and lies beside the data where they are in a folder", async () => {
    const { registry, dictionary, source } = await withDictionary();
    const work = temporaryDirectory();
    const config = JSON.stringify({ dir: work.join("blobs") });
    const dict = ["--chunk-dict", `bootstrap:registry:${dictionary}`];
    const [beside, apart, back] = ["beside", "apart", "back"].map((tag) => `${registry.host}/next/app:${tag}`) as [string, string, string];
    await succeed("convert", "--source", source, "--target", beside, ...dict);
    await succeed("convert", "--reverse", "--source", beside, "--target", back);
    expect(JSON.parse((await fetchJson(registry, "next/app", "back")).toString()).layers).toHaveLength(2);
    expect((await succeed("check", "--source", back, "--target", beside)).stderr).toContain("verified image");
    const backend = ["--backend-type", "localfs", "--backend-config", config];
    await succeed("convert", "--source", source, "--target", apart, ...dict, ...backend);
    expect((await pull(registry, "next/app", "apart")).manifest.layers).toHaveLength(1);
    expect(readdirSync(work.join("blobs")).length).toBeGreaterThan(2);
    const where = ["--target-backend-type", "localfs", "--target-backend-config", config];
    expect((await succeed("check", "--source", source, "--target", apart, ...where)).stderr).toContain("verified image");
  });

  test("may be a file, if the target has its blobs", async () => {
    const { registry, dictionary, source } = await withDictionary();
    const local = `bootstrap:local:${unpack((await pull(registry, "dictionaries/app", "1")).bootstrapTar).directory.join("image/image.boot")}`;
    const [there, absent] = [`${registry.host}/dictionaries/app:v1.6`, `${registry.host}/next/app:v1.6`];
    await succeed("convert", "--source", source, "--target", there, "--chunk-dict", local);
    expect((await succeed("check", "--source", source, "--target", there)).stderr).toContain("verified image");
    const { code, stderr } = await tool("convert", "--source", source, "--target", absent, "--chunk-dict", local);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/level=fatal msg="blob [0-9a-f]{64} of the chunk dictionary .* is not in /)]);
    expect((await fetch(`http://${registry.host}/v2/next/app/manifests/v1.6`)).status).toBe(404);
    expect(dictionary).toContain("dictionaries");
  });
});

describe("what can not be done is told in one line", () => {
  test.each([
    ["bootstrap:registry", [], "expected bootstrap:registry:IMAGE"],
    ["blob:local:/x", [], "expected bootstrap:registry:IMAGE"],
    ["bootstrap:local:/nowhere", [], "failed to open /nowhere"],
    ["bootstrap:registry:HOST/app:v1", [], "is not a nydus image"],
    ["bootstrap:registry:HOST/app:nydus", ["--chunk-size", "0x10000"], "chunk_size"],
    ["bootstrap:registry:HOST/app:nydus", ["--fs-version", "5"], "RAFS version"],
  ])("--chunk-dict %s %j", async (argument, options, words) => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [version(1)]);
    await succeed("convert", "--source", source, "--target", `${registry.host}/app:nydus`);
    const dict = argument.replace("HOST", registry.host);
    const { code, stderr } = await tool(
      "convert",
      "--source",
      source,
      "--target",
      `${registry.host}/app:new`,
      "--chunk-dict",
      dict,
      ...options,
    );
    expect([code, stderr.match(/level=fatal/g)?.length, stderr]).toEqual([1, 1, expect.stringContaining(words)]);
    expect((await fetch(`http://${registry.host}/v2/app/manifests/new`)).status).toBe(404);
  });

  test("chunkdict generate: sources that are no nydus images, and images that share nothing", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [version(1)]);
    await succeed("convert", "--source", source, "--target", `${registry.host}/app:nydus`);
    const work = temporaryDirectory();
    const argv = [
      "chunkdict",
      "generate",
      "--target",
      `${registry.host}/app:dict`,
      "--work-dir",
      work.join("out"),
      "--platform",
      "linux/amd64",
    ];
    expect((await tool(...argv, "--sources", source)).stderr).toMatch(/level=fatal msg=".*is not a nydus image/);
    expect((await tool(...argv, "--sources", `${registry.host}/app:nydus`)).stderr).toMatch(/level=fatal msg="the images share no chunks/);
    expect((await fetch(`http://${registry.host}/v2/app/manifests/dict`)).status).toBe(404);
  });

  test("a dictionary whose blobs are called as no digest is", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [version(1)]);
    const work = temporaryDirectory();
    mkdirSync(work.join("tree"));
    writeFileSync(work.join("tree/a"), shared["usr/a"] as Buffer);
    const create = ["create", "-B", work.join("boot"), "-b", work.join("blob"), "--blob-id", "odd", work.join("tree")];
    expect((await run(create)).code).toBe(0);
    const dict = ["--chunk-dict", `bootstrap:local:${work.join("boot")}`];
    const { code, stderr } = await tool("convert", "--source", source, "--target", `${registry.host}/app:new`, ...dict);
    expect([code, stderr]).toEqual([1, expect.stringContaining("which is no digest")]);
  });
});

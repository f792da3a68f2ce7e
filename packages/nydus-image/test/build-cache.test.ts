import { randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { fetchJson, sha256, startRegistry, temporaryDirectory } from "./convert-support.ts";
import { putOciImage, succeed, tool } from "./nydusify-support.ts";
import { layerTar } from "./support.ts";

const lower = layerTar({ "usr/": "", "usr/big": randomBytes(400_000), "usr/text": "text ".repeat(5000) });
const middle = layerTar({ "var/": "", "var/empty/": "" });
const upper = (text: string) => layerTar({ "etc/": "", "etc/conf": text });

describe.each([[[]], [["--fs-version", "5"]], [["--oci-ref"]], [["--batch-size", "0x10000"]], [["--compressor", "lz4_block"]]])(
  "a build cache (%j)",
  (options) => {
    test("spares the layers of the next version; the result is that of a conversion without", async () => {
      const registry = await startRegistry();
      const cache = ["--build-cache", `${registry.host}/cache/app:1`];
      const [first, second] = ["one", "two"].map((text) => putOciImage(registry, "app", [lower, middle, upper(text)], text)) as [
        string,
        string,
      ];
      const target = (name: string) => `${registry.host}/${name}:nydus`;
      expect((await succeed("convert", "--source", first, "--target", target("built/one"), ...cache, ...options)).stderr).toContain(
        "knows 3 layers now, 3 of them new",
      );
      const before = registry.requests.length;
      const { stderr } = await succeed("convert", "--source", second, "--target", target("built/two"), ...cache, ...options);
      expect(stderr).toContain("2 layers from the build cache");
      expect(stderr).toContain("knows 4 layers now, 1 of them new");
      if (!options.includes("--oci-ref")) {
        const read = registry.requests.slice(before).filter(({ method, path }) => method === "GET" && path.startsWith("/v2/app/blobs/"));
        expect(read).toHaveLength(2); // the config, and the layer that is new
      }
      await succeed("convert", "--source", second, "--target", target("alone/two"), ...options);
      expect(await fetchJson(registry, "built/two", "nydus")).toEqual(await fetchJson(registry, "alone/two", "nydus"));
      expect((await succeed("check", "--source", second, "--target", target("built/two"))).stderr).toContain("verified image");
    });
  },
);

describe("a build cache", () => {
  test("beside a folder for blobs has blobs of its own, and fills the folder of the next version", async () => {
    const registry = await startRegistry();
    const work = temporaryDirectory();
    const backend = (name: string) => ["--backend-type", "localfs", "--backend-config", JSON.stringify({ dir: work.join(name) })];
    const [first, second] = ["one", "two"].map((text) => putOciImage(registry, "app", [lower, upper(text)], text)) as [string, string];
    const cache = ["--build-cache", `${registry.host}/cache/app:1`];
    await succeed("convert", "--source", first, "--target", `${registry.host}/built:one`, ...cache, ...backend("a"));
    const { stderr } = await succeed("convert", "--source", second, "--target", `${registry.host}/built:two`, ...cache, ...backend("b"));
    expect(stderr).toContain("1 layers from the build cache");
    expect(readdirSync(work.join("b"))).toHaveLength(2);
    const where = ["--target-backend-type", "localfs", "--target-backend-config", JSON.stringify({ dir: work.join("b") })];
    const check = await succeed("check", "--source", second, "--target", `${registry.host}/built:two`, ...where);
    expect(check.stderr).toContain("verified image");
  });

  test("of other options or another version is left alone, and kept beside", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [lower, upper("a")]);
    const convert = (name: string, ...options: string[]) =>
      succeed("convert", "--source", source, "--target", `${registry.host}/app:${name}`, "--build-cache-tag", "cache", ...options);
    await convert("a");
    expect((await convert("b", "--compressor", "none")).stderr).toContain("0 layers from the build cache");
    expect((await convert("c", "--build-cache-version", "v2")).stderr).toContain("knows 0 layers");
    expect(JSON.parse((await fetchJson(registry, "app", "cache")).toString()).manifests).toHaveLength(3);
    expect((await convert("d", "--with-referrer")).stderr).toContain("2 layers from the build cache");
  });

  test("keeps the oldest layers when it is full", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [lower, middle, upper("a")]);
    const argv = ["convert", "--source", source, "--build-cache", `${registry.host}/cache:1`, "--build-cache-max-records", "2"];
    expect((await succeed(...argv, "--target", `${registry.host}/app:a`)).stderr).toContain("knows 2 layers now, 2 of them new");
  });

  test("that names blobs which are gone, or no nydus blobs, costs a warning and the conversion of the layer", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [lower, upper("a")]);
    const cache = ["--build-cache", `${registry.host}/cache:1`];
    await succeed("convert", "--source", source, "--target", `${registry.host}/one:a`, ...cache);
    const index = JSON.parse((await fetchJson(registry, "cache", "1")).toString());
    const manifest = JSON.parse((await fetchJson(registry, "cache", index.manifests[0].digest)).toString());
    // The record of one layer names a blob that is none, that of the other a blob that is not there.
    const config = { ...manifest.layers[0], digest: manifest.config.digest, size: manifest.config.size };
    const gone = { ...manifest.layers[1], digest: `sha256:${"0".repeat(64)}` };
    const put = (path: string, body: string, type: string) =>
      fetch(`http://${registry.host}/v2/cache/manifests/${path}`, { method: "PUT", body, headers: { "content-type": type } });
    const bytes = JSON.stringify({ ...manifest, layers: [config, gone] });
    const digest = sha256(Buffer.from(bytes));
    expect((await put(digest, bytes, manifest.mediaType)).status).toBe(201);
    const entry = { ...index.manifests[0], digest, size: bytes.length };
    expect((await put("1", JSON.stringify({ ...index, manifests: [entry] }), index.mediaType)).status).toBe(201);
    const { stderr } = await succeed("convert", "--source", source, "--target", `${registry.host}/two:a`, ...cache);
    expect(stderr).toMatch(/level=warning msg="build cache .*is converted anew/);
    expect(stderr).toContain("0 layers from the build cache");
    await succeed("check", "--source", source, "--target", `${registry.host}/two:a`);
  });

  test("that is an image, or that can not be reached, costs a warning", async () => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [lower]);
    for (const [tag, cache] of [
      ["x", source],
      ["y", "127.0.0.1:1/cache:1"],
    ] as const) {
      const { stderr } = await succeed("convert", "--source", source, "--target", `${registry.host}/app:${tag}`, "--build-cache", cache);
      expect(stderr.match(/level=warning msg="build cache [^\n]* can not be (read|written)/g)).toHaveLength(2);
    }
  }, 60_000);

  test.each([
    [["--build-cache", "a/b:c", "--build-cache-tag", "d"], "cannot be used with option"],
    [["--build-cache-max-records", "0"], "expected 1 to 200"],
    [["--build-cache-max-records", "201"], "expected 1 to 200"],
    [["--build-cache", "a/b:c", "--reverse"], "it goes without"],
    [["--build-cache-tag", "c", "--reverse"], "it goes without"],
    [["--build-cache", "oci:/tmp/x"], "is not an image in a registry"],
  ])("is refused with %j", async (options, words) => {
    const registry = await startRegistry();
    const source = putOciImage(registry, "app", [middle]);
    const work = temporaryDirectory();
    const { code, stderr } = await tool(
      "convert",
      "--source",
      source,
      "--target",
      `${registry.host}/app:x`,
      ...options,
      "--work-dir",
      work.join("w"),
    );
    expect([code, stderr]).toEqual([1, expect.stringContaining(words)]);
    expect(existsSync(work.join("w"))).toBe(false);
  });
});

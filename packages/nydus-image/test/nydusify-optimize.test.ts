import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { expect, test } from "vitest";
import { fetchJson, pull, temporaryDirectory, unpack } from "./convert-support.ts";
import { converted, succeed, tool } from "./nydusify-support.ts";
import type { TemporaryDirectory } from "./support.ts";

const prefix = "containerd.io/snapshot/";

function listFile(work: TemporaryDirectory, ...paths: string[]): string {
  writeFileSync(work.join("list.json"), JSON.stringify({ version: "v1", files: paths.map((path) => ({ path })) }));
  return work.join("list.json");
}

test.each([
  ["in the same repository", "app:hot", []],
  ["in another repository", "elsewhere/app:hot", []],
  ["of version 5", "app:hot", ["--fs-version", "5"]],
  ["that refers to layers, in another repository", "elsewhere/app:hot", ["--oci-ref"]],
  ["in batches", "app:hot", ["--batch-size", "0x10000"]],
])("an image %s has the listed files in one more blob, and the same content", async (_, name, options) => {
  const { registry, source, nydus } = await converted(...options);
  const work = temporaryDirectory();
  const target = `${registry.host}/${name}`;
  const list = listFile(work, "/etc/conf", "/usr/big", "/gone");
  const { stdout, stderr } = await succeed(
    ...["optimize", "--source", nydus, "--target", target, "--prefetch-files", list, "--work-dir", work.join("tmp")],
  );
  expect(stderr).toContain("prefetch file /gone is bad, skip it");
  expect(existsSync(work.join("tmp"))).toBe(false);
  const [repository = "", tag = ""] = name.split(":");
  const { manifest, config, bootstrapTar } = await pull(registry, repository, tag);
  expect(stdout).toMatch(/^sha256:[0-9a-f]{64}\n$/);
  const before = (await pull(registry, "app", "nydus")).manifest.layers;
  expect(manifest.layers.slice(0, -2)).toEqual(before.slice(0, -1));
  const [hot, last] = manifest.layers.slice(-2);
  expect(last.annotations[`${prefix}nydus-separated-blob-with-prefetch-files`]).toBe(hot.digest.slice(7));
  expect(config.rootfs.diff_ids.slice(0, -1)).toEqual(manifest.layers.slice(0, -1).map(({ digest }) => digest));
  const { names, directory } = unpack(bootstrapTar);
  expect(names).toContain("image/prefetch.files");
  const bootstrap = openBootstrap(readFileSync(directory.join("image/image.boot")));
  const hotIndex = bootstrap.blobs.findIndex(({ id }) => id === hot.digest.slice(7));
  for (const path of ["/etc/conf", "/usr/big"]) {
    const indexes = Array.from(bootstrap.chunksOf(bootstrap.resolve(path)!), ({ blobIndex }) => blobIndex);
    expect(new Set(indexes)).toEqual(new Set([hotIndex]));
  }
  if (bootstrap.version === 6) expect(names).toContain(`image/${hot.digest.slice(7)}.blob.meta`);
  expect((await succeed("check", "--source", source, "--target", target)).stderr).toContain("verified image");
});

test("it is turned back into an OCI image without the blob that is no layer", async () => {
  const { registry, source, nydus } = await converted();
  const work = temporaryDirectory();
  const hot = `${registry.host}/app:hot`;
  await succeed(
    "optimize",
    "--source",
    nydus,
    "--target",
    hot,
    "--prefetch-files",
    listFile(work, "/usr/big"),
    "--work-dir",
    work.join("t"),
  );
  await succeed("convert", "--reverse", "--source", hot, "--target", `${registry.host}/app:back`);
  expect(JSON.parse((await fetchJson(registry, "app", "back")).toString()).layers).toHaveLength(3);
  await succeed("check", "--source", source, "--target", nydus);
  expect((await tool("check", "--source", `${registry.host}/app:back`, "--target", hot)).stderr).toContain("verified image");
});

test("where the data are kept in a folder, the new blob goes there too", async () => {
  const work = temporaryDirectory();
  const config = JSON.stringify({ dir: work.join("blobs") });
  const { registry, source, nydus } = await converted("--backend-type", "localfs", "--backend-config", config);
  const before = readdirSync(work.join("blobs"));
  const list = listFile(work, "/etc/conf");
  const argv = [
    "optimize",
    "--source",
    nydus,
    "--target",
    `${registry.host}/app:hot`,
    "--prefetch-files",
    list,
    "--work-dir",
    work.join("t"),
  ];
  expect((await tool(...argv)).stderr).toContain("--source-backend-type");
  await succeed(...argv, "--source-backend-type", "localfs", "--source-backend-config", config);
  expect(readdirSync(work.join("blobs"))).toHaveLength(before.length + 1);
  expect((await pull(registry, "app", "hot")).manifest.layers).toHaveLength(1);
  const backend = ["--target-backend-type", "localfs", "--target-backend-config", config];
  await succeed("check", "--source", source, "--target", `${registry.host}/app:hot`, ...backend);
});

test("what can not be optimized is told in one line, and no tag appears", async () => {
  const { registry, source, nydus } = await converted();
  const work = temporaryDirectory();
  for (const [image, path, words] of [
    [source, "/etc/conf", "is not a nydus image"],
    [nydus, undefined, "failed to open"],
    [nydus, "/new", "nothing is written"],
    [`${registry.host}/app:none`, "/etc/conf", "404"],
  ] as const) {
    const list = path === undefined ? work.join("no list") : listFile(work, path);
    const argv = ["--source", image, "--target", `${registry.host}/app:hot`, "--prefetch-files", list, "--work-dir", work.join("tmp")];
    const { code, stderr } = await tool("optimize", ...argv);
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^(time=\S+ level=(info|warning) [^\n]*\n)*time=\S+ level=fatal msg="[^\n]*"\n$/),
    ]);
    expect(stderr).toContain(words);
  }
  expect((await fetch(`http://${registry.host}/v2/app/manifests/hot`)).status).toBe(404);
  expect(existsSync(work.join("tmp"))).toBe(false);
});

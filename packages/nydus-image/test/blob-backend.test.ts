/** `unpack`, `compact` and `optimize` read blobs where the image is, by `--backend-type`. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { base, fetchBlob, pull, sha256, startRegistry, temporaryDirectory, unpack, upper } from "./convert-support.ts";
import { run, type TemporaryDirectory } from "./support.ts";

interface Pushed {
  work: TemporaryDirectory;
  bootstrap: string;
  /** folder with the image's blobs, for comparison */
  blobs: string;
  config: string;
}

async function pushed(): Promise<Pushed> {
  const registry = await startRegistry();
  registry.putImage("app", "v1", [gzipSync(base), gzipSync(upper)], {
    config: { architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [base, upper].map(sha256) } },
  });
  const argv = ["convert", "--source", `${registry.host}/app:v1`, "--target", `${registry.host}/app:nydus`];
  expect((await run(argv)).code).toBe(0);
  const { manifest, bootstrapTar } = await pull(registry, "app", "nydus");
  const work = temporaryDirectory();
  mkdirSync(work.join("blobs"));
  for (const { digest } of manifest.layers.slice(0, -1))
    writeFileSync(work.join("blobs", digest.slice(7)), await fetchBlob(registry, "app", digest));
  return {
    work,
    bootstrap: join(unpack(bootstrapTar).directory.path, "image/image.boot"),
    blobs: work.join("blobs"),
    config: JSON.stringify({ scheme: "http", host: registry.host, repo: "app" }),
  };
}

describe("a registry as back end", () => {
  test("unpack writes the tar that blobs in a folder give", async () => {
    const { work, bootstrap, blobs, config } = await pushed();
    const far = await run([
      "unpack",
      "--backend-type",
      "registry",
      "--backend-config",
      config,
      "--output",
      work.join("far.tar"),
      bootstrap,
    ]);
    expect([far.code, far.stderr]).toEqual([0, ""]);
    expect((await run(["unpack", "-D", blobs, "--output", work.join("near.tar"), bootstrap])).code).toBe(0);
    expect(readFileSync(work.join("far.tar")).equals(readFileSync(work.join("near.tar")))).toBe(true);
  });

  test("optimize and compact write what they write from a folder", async () => {
    const { work, bootstrap, blobs, config } = await pushed();
    writeFileSync(work.join("config"), config);
    writeFileSync(work.join("list"), JSON.stringify({ version: "v1", files: [{ path: "/usr/big" }, { path: "/etc/conf" }] }));
    const remote = ["--backend-type", "registry", "--backend-config-file", work.join("config")];
    for (const verb of ["optimize", "compact"]) {
      const results = [];
      for (const side of ["far", "near"]) {
        const out = work.join(`${verb}-${side}`);
        mkdirSync(out);
        if (verb === "compact" && side === "near")
          for (const id of readdirSync(blobs)) writeFileSync(join(out, id), readFileSync(join(blobs, id)));
        const more =
          verb === "compact" ? ["-D", out] : [...(side === "near" ? ["-D", blobs] : []), "--output-blob-dir", out, "-p", work.join("list")];
        const argv = [verb, "-B", bootstrap, ...(side === "far" ? remote : []), ...more, "-O", work.join(`${verb}-${side}.boot`)];
        const { code, stderr } = await run(argv);
        expect([code, stderr]).toEqual([0, expect.any(String)]);
        results.push([readFileSync(work.join(`${verb}-${side}.boot`)), readdirSync(out).filter((id) => !existsSync(join(blobs, id)))]);
      }
      expect(results[0][1]).toHaveLength(1);
      expect(results[0]).toEqual(results[1]);
    }
  });

  test("a blob that is not in the repository is told, and no tar is left", async () => {
    const { work, bootstrap, config } = await pushed();
    const elsewhere = JSON.stringify({ ...JSON.parse(config), repo: "other" });
    const argv = ["unpack", "--backend-type", "registry", "--backend-config", elsewhere, "--output", work.join("t"), bootstrap];
    const { code, stderr } = await run(argv);
    expect([code, stderr.match(/^Error: /gm)?.length, existsSync(work.join("t"))]).toEqual([1, 1, false]);
    expect(stderr).toMatch(/404|not found/i);
  });
});

describe("what can not be used is refused in one line", () => {
  test.each([
    [["--backend-type", "registry"], "must be specified"],
    [["--backend-type", "registry", "--backend-config", "{"], "is not JSON"],
    [["--backend-type", "registry", "--backend-config", "[]"], "is not a JSON object"],
    [["--backend-type", "registry", "--backend-config", '{"host":"h"}'], 'names no "repo"'],
    [["--backend-type", "registry", "--backend-config", '{"host":"h","repo":7}'], '"repo" that is no text'],
    [["--backend-type", "registry", "--backend-config", '{"host":"h","repo":"r","scheme":"ftp"}'], "it is http or https"],
    [["--backend-type", "localfs", "--backend-config", "{}"], 'names no "dir"'],
    [["--backend-type", "oss", "--backend-config", "{}"], 'names no "bucket_name"'],
    [["--backend-type", "s3", "--backend-config", '{"bucket_name":"b"}'], 'names no "region"'],
    [["--backend-type", "http-proxy", "--backend-config", "{}"], 'names no "addr"'],
    [["--backend-type", "floppy", "--backend-config", "{}"], "one of registry, oss, s3, http-proxy, localfs"],
    [["--backend-type", "registry", "--backend-config-file", "/nowhere"], "ENOENT"],
  ])("%j", async (options, words) => {
    const work = temporaryDirectory();
    mkdirSync(work.join("tree"));
    writeFileSync(work.join("tree/file"), "content");
    await run(["create", "-D", work.path, "-B", work.join("boot"), work.join("tree")]);
    const { code, stderr } = await run(["unpack", ...options, "--output", work.join("t"), work.join("boot")]);
    expect([code, stderr.trim().split("\n")]).toEqual([1, [expect.stringContaining(words)]]);
  });

  test("a password in a configuration that is no JSON is not repeated", async () => {
    const work = temporaryDirectory();
    mkdirSync(work.join("tree"));
    writeFileSync(work.join("tree/file"), "content");
    await run(["create", "-D", work.path, "-B", work.join("boot"), work.join("tree")]);
    const argv = ["unpack", "--output", work.join("t"), work.join("boot"), "--backend-type", "registry", "--backend-config"];
    const { stderr } = await run([...argv, '{"auth":c2VjcmV0'], {});
    expect([stderr.includes("is not JSON"), stderr.includes("c2VjcmV0")]).toEqual([true, false]);
  });
});

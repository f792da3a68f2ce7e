/** Images whose data are in object storage: `--backend-type oss`, `s3` of every command that takes it, against a store that checks signatures. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { TestObjectStore } from "@nydus-ts/testkit";
import { describe, expect, onTestFinished, test } from "vitest";
import { pull, sha256, temporaryDirectory, unpack } from "./convert-support.ts";
import { converted, succeed, tool } from "./nydusify-support.ts";
import { run } from "./support.ts";

const key = { access_key_id: "id-of-a-key", access_key_secret: "hunter2" };

async function bucket(kind: "s3" | "oss") {
  const store = await TestObjectStore.start({
    ...{ kind, bucket: "blobs", accessKeyId: key.access_key_id, accessKeySecret: key.access_key_secret },
  });
  onTestFinished(() => store[Symbol.asyncDispose]());
  const config = { endpoint: store.host, scheme: "http", bucket_name: "blobs", region: "us-east-1", ...key };
  const flags = (side = "", more: object = { object_prefix: "images/" }): string[] => [
    ...[`--${side}backend-type`, kind, `--${side}backend-config`, JSON.stringify({ ...config, ...more })],
  ];
  const names = (prefix = "images/"): string[] =>
    [...store.objects.keys()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  return { store, flags, names };
}

describe.each(["s3", "oss"] as const)("data in a bucket of %s", (kind) => {
  test("convert stores each blob once, check and copy read them, and the copy has them itself", async () => {
    const { store, flags, names } = await bucket(kind);
    const { registry, source, nydus } = await converted(...flags());
    const { manifest } = await pull(registry, "app", "nydus");
    expect(manifest.layers).toHaveLength(1);
    expect(names()).toHaveLength(3);
    for (const [name, bytes] of store.objects) expect(sha256(bytes)).toBe(`sha256:${name.slice("images/".length)}`);
    const sent = store.requests.filter(({ method }) => method === "PUT").length;
    expect((await succeed("convert", "--source", source, "--target", nydus, ...flags())).stderr).toContain("3 were there");
    expect(store.requests.filter(({ method }) => method === "PUT")).toHaveLength(sent);
    await succeed("convert", "--source", source, "--target", nydus, ...flags(), "--backend-force-push");
    expect(store.requests.filter(({ method }) => method === "PUT")).toHaveLength(2 * sent);
    expect((await succeed("check", "--source", source, "--target", nydus, ...flags("target-"))).stderr).toContain("verified image");
    const copy = `${registry.host}/copy:nydus`;
    await succeed("copy", "--source", nydus, "--target", copy, ...flags("source-"));
    expect((await pull(registry, "copy", "nydus")).manifest.layers).toHaveLength(3);
    expect((await succeed("check", "--source", source, "--target", copy)).stderr).toContain("verified image");
  });

  test("a store that refuses or lacks a blob is told once, without the key; no tag appears and nothing half stored stays", async () => {
    const { store, flags } = await bucket(kind);
    const { registry, source, nydus } = await converted(...flags());
    store.objects.clear();
    store.fault = ({ method }) => (method === "PUT" ? { status: 403, body: "<Error><Code>AccessDenied</Code></Error>" } : undefined);
    const calls = [
      await tool("convert", "--source", source, "--target", `${registry.host}/other:nydus`, ...flags()),
      await tool("copy", "--source", nydus, "--target", `${registry.host}/other:nydus`, ...flags("source-")),
      await tool("check", "--source", source, "--target", nydus, ...flags("target-")),
    ];
    for (const { code, stderr } of calls) {
      expect([code, stderr]).toEqual([1, expect.stringMatching(/AccessDenied|404|is not there/)]);
      expect(stderr).not.toContain(key.access_key_secret);
    }
    expect(registry.store.manifest("other", "nydus")).toBeUndefined();
    expect([store.objects.size, store.uploads.size]).toEqual([0, 0]);
  });

  test("unpack, compact and optimize read there what they read in a folder", async () => {
    const { store, flags } = await bucket(kind);
    const { registry, nydus } = await converted(...flags());
    const work = temporaryDirectory();
    for (const name of ["folder", "far", "near", "blobs"]) mkdirSync(work.join(name));
    for (const [name, bytes] of store.objects) writeFileSync(work.join("folder", name.slice("images/".length)), bytes);
    const { bootstrapTar } = await pull(registry, "app", "nydus");
    const boot = `${unpack(bootstrapTar).directory.path}/image/image.boot`;
    expect((await run(["unpack", ...flags(), "--output", work.join("far.tar"), boot])).code).toBe(0);
    expect((await run(["unpack", "-D", work.join("folder"), "--output", work.join("near.tar"), boot])).code).toBe(0);
    expect(readFileSync(work.join("far.tar")).equals(readFileSync(work.join("near.tar")))).toBe(true);
    writeFileSync(work.join("list"), JSON.stringify({ version: "v1", files: [{ path: "/usr/big" }] }));
    for (const [side, where] of [
      ["far", flags()],
      ["near", ["-D", work.join("folder")]],
    ] as const) {
      const output = ["--output-blob-dir", work.join(side), "-p", work.join("list"), "-O", work.join(`${side}.boot`)];
      expect((await run(["optimize", "-B", boot, ...where, ...output])).code).toBe(0);
    }
    expect(readdirSync(work.join("far"))).toEqual(readdirSync(work.join("near")));
    const compact = ["compact", "-B", boot, ...flags(), "-D", work.join("blobs"), "-O", work.join("compact.boot")];
    expect(await run(compact)).toMatchObject({ code: 0 });
    expect(readdirSync(work.join("blobs"))).toHaveLength(1);
    // What nydusify optimizes goes where the image has its data.
    const optimized = ["--source", nydus, "--target", `${registry.host}/app:fast`, "--prefetch-files", work.join("list")];
    await succeed("optimize", ...optimized, "--work-dir", work.join("w"), ...flags("source-"));
    expect(store.objects.size).toBe(4);
    const checked = await succeed("check", "--target", `${registry.host}/app:fast`, ...flags("target-"));
    expect(checked.stderr).toContain("verified image");
  });

  test("build stores blobs and bootstrap under their prefixes, then a child whose parent's data are only there, compacted or not", async () => {
    const { store, flags, names } = await bucket(kind);
    const work = temporaryDirectory();
    mkdirSync(work.join("one"));
    writeFileSync(work.join("one/file"), "content".repeat(5000));
    mkdirSync(work.join("two"));
    writeFileSync(work.join("two/other"), "another".repeat(5000));
    const where = [...flags("", { blob_prefix: "data/", meta_prefix: "boot/" }), "--backend-push", "--output-dir", work.join("out")];
    const built = await succeed("build", "--source-dir", work.join("one"), "--name", "first", ...where);
    expect(names("boot/")).toEqual(["first"]);
    const [id] = names("data/");
    expect(store.objects.get("boot/first")).toEqual(readFileSync(work.join("out/first.meta")));
    const shown = kind === "oss" ? "oss://blobs" : `http://${store.host}/blobs`;
    expect(built.stderr).toContain(`(bootstrap:'${shown}/boot/first', blob:'${shown}/data/${id}')`);
    rmSync(work.join("out", id!));
    const parent = ["--parent-bootstrap", work.join("out/first.meta")];
    await succeed("build", "--source-dir", work.join("two"), "--name", "second", ...where, ...parent);
    expect(names("data/")).toHaveLength(2);
    for (const name of names("data/")) rmSync(work.join("out", name), { force: true });
    writeFileSync(work.join("limits"), JSON.stringify({ layers_to_compact: 1, min_used_ratio: 90 }));
    const compact = ["--compact", "--compact-config-file", work.join("limits"), "--parent-bootstrap", work.join("out/second.meta")];
    await succeed("build", "--source-dir", work.join("two"), "--name", "third", ...where, ...compact);
    expect(names("boot/").sort()).toEqual(["first", "second", "third"]);
    const far = flags("", { object_prefix: "data/" });
    expect(await run(["unpack", ...far, "--output", work.join("tar"), work.join("out/third.meta")])).toMatchObject({ code: 0, stderr: "" });
    expect(readFileSync(work.join("tar")).includes("contentcontent")).toBe(true);
  });
});

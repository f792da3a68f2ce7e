import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { compareListings, goldenAbsent, goldenDir, listTree, readListing, TestObjectStore, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { copyCase, localConfig, type Nydusd, startNydusd } from "./support.ts";

const key = { access_key_id: "the-id-of-a-key", access_key_secret: "hunter2" };

describe.skipIf(goldenDir() === undefined)(`images from object storage${goldenDir() === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let image: Awaited<ReturnType<typeof copyCase>>;
  let nydusd: Nydusd;
  beforeEach(async () => {
    workspace = new Workspace("nydusd-object-store");
    image = await copyCase(workspace, "small-v6-zstd-blake3");
  });
  afterEach(() => workspace[Symbol.asyncDispose]());

  async function serve(kind: "s3" | "oss"): Promise<TestObjectStore> {
    const store = await TestObjectStore.start({
      ...{ kind, bucket: "blobs", accessKeyId: key.access_key_id, accessKeySecret: key.access_key_secret },
    });
    workspace.defer(() => store[Symbol.asyncDispose]());
    for (const name of readdirSync(image.blobs)) store.objects.set(`images/${name}`, readFileSync(join(image.blobs, name)));
    return store;
  }
  const tableOf = (kind: string, store: TestObjectStore, changes: object = {}) => ({
    ...{ endpoint: store.host, scheme: "http", bucket_name: "blobs", object_prefix: "images/", timeout: 1, ...key },
    ...(kind === "s3" ? { region: "us-east-1" } : {}),
    ...changes,
  });
  const v1 = (kind: string, table: object): string =>
    JSON.stringify({
      device: { backend: { type: kind, config: table }, cache: { type: "blobcache", config: { work_dir: image.cache } } },
      mode: "direct",
    });
  const mount = (config: string, at = "/a") => nydusd.client.mount(at, { source: image.bootstrap, fs_type: "rafs", config });
  const everything = async (at = "a"): Promise<string[]> =>
    compareListings(await listTree(join(nydusd.mountpoint, at)), readListing(image.golden));
  const someFile = (): string => String(readListing(image.golden).find((entry) => entry.type === "file" && entry.size > 0)!.path);

  test.each(["s3", "oss"] as const)("%s: every byte is right, is fetched once, and the key shows up nowhere", async (kind) => {
    const store = await serve(kind);
    nydusd = await startNydusd(workspace, ["fuse", "--log-level", "trace"]);
    await mount(v1(kind, tableOf(kind, store)));
    expect(await everything()).toEqual([]);
    const { length } = store.requests;
    expect(await everything()).toEqual([]);
    expect(store.requests).toHaveLength(length);
    expect(store.requests.every(({ status }) => status === 206 || status === 200)).toBe(true);
    const shown = JSON.stringify(await nydusd.client.info()) + (await nydusd.client.prometheus()) + nydusd.log();
    for (const secret of Object.values(key)) expect(shown).not.toContain(secret);
  });

  test("a version 2 configuration as TOML, and http-proxy, which only that has", async () => {
    const store = await serve("s3");
    nydusd = await startNydusd(workspace, ["fuse"]);
    const { endpoint, scheme, bucket_name, object_prefix, ...rest } = tableOf("s3", store) as Record<string, unknown>;
    const lines = Object.entries({ endpoint, scheme, bucket_name, object_prefix, ...rest }).map(
      ([name, value]) => `${name} = ${JSON.stringify(value)}`,
    );
    const cache = `[rafs]\nmode = "direct"\n[cache]\ntype = "filecache"\n[cache.filecache]\nwork_dir = "${image.cache}"\n`;
    await mount(`version = 2\n${cache}[backend]\ntype = "s3"\n[backend.s3]\n${lines.join("\n")}\n`);
    expect(await everything()).toEqual([]);
    await expect(mount(v1("http-proxy", { addr: `http://${store.host}` }), "/b")).rejects.toThrow(/http-proxy needs a version 2/);
    const proxied = `version = 2\n${cache}[backend]\ntype = "http-proxy"\n[backend.http-proxy]\naddr = "http://${store.host}"\npath = "/p"\n`;
    store.fault = ({ path, headers }) => {
      const bytes = store.objects.get(`images/${path.slice("/p/".length)}`);
      const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "") ?? [];
      if (bytes === undefined || first === undefined) return { status: 404 };
      const body = bytes.toString("latin1", Number(first), Number(last) + 1);
      return { status: 206, body, encoding: "latin1", headers: { "content-range": `bytes ${first}-${last}/${bytes.length}` } };
    };
    await mount(proxied.replaceAll(image.cache, workspace.path("other-cache")), "/c");
    expect(await everything("c")).toEqual([]);
  });

  test.each([
    ["403", { status: 403, body: "<Error><Code>AccessDenied</Code><Message>no</Message></Error>" }, /answered 403 \(AccessDenied no\)/],
    ["404", { status: 404 }, /answered 404/],
    ["500", { status: 500 }, /answered 500/],
    ["other bytes", { corrupt: true }, /is damaged|digest/],
    ["nothing at all", { silent: true }, /waited too long|did not finish/],
  ])("a store that answers %s: EIO and one clear line; nothing wrong is cached, and later reads are right", async (_, fault, line) => {
    const store = await serve("s3");
    nydusd = await startNydusd(workspace, ["fuse"]);
    const local = join(image.cache, "local");
    mkdirSync(local, { recursive: true });
    await mount(localConfig(image.blobs, local), "/local");
    await mount(v1("s3", tableOf("s3", store)));
    store.fault = () => fault;
    await expect(readFile(join(nydusd.mountpoint, "a", someFile()))).rejects.toMatchObject({ code: "EIO" });
    expect(nydusd.log()).toMatch(line);
    expect(nydusd.log()).not.toContain(key.access_key_secret);
    expect(await everything("local")).toEqual([]);
    store.fault = undefined;
    expect(await everything()).toEqual([]);
  });

  test("an absent store is EIO, and a wrong configuration is refused with its key and without its secret", async () => {
    const store = await serve("s3");
    nydusd = await startNydusd(workspace, ["fuse"]);
    await mount(v1("s3", tableOf("s3", store, { endpoint: "127.0.0.1:1" })));
    await expect(readFile(join(nydusd.mountpoint, "a", someFile()))).rejects.toMatchObject({ code: "EIO" });
    for (const wrong of [{ access_key_id: "" }, { bucket_name: "../b" }, { object_prefix: "../" }]) {
      const refused = await mount(v1("s3", tableOf("s3", store, wrong)), "/b").catch((error: Error) => error.message);
      expect(refused).toMatch(/access_key|bucket_name|object_prefix/);
      expect(refused).not.toContain(key.access_key_secret);
    }
  });
});

import { createHash, randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseMirrors } from "@nydus-ts/mirror-config";
import { TestObjectStore } from "@nydus-ts/testkit";
import { afterEach, describe, expect, test } from "vitest";
import { nydusdHttpProxyOptions, nydusdObjectStoreOptions, ObjectStore, objectStoreBackend } from "../../src/index.ts";

const key = { access_key_id: "AKID-of-the-test", access_key_secret: "a/very+secret=key" };
const place = { file: "the test", key: "backend" };
const demand = { deadlineMs: 5_000, priority: "demand" } as const;
const put = { stepDeadlineMs: 5_000 };
const blob = randomBytes(100_000);
const id = createHash("sha256").update(blob).digest("hex");
const once = (...pieces: Uint8Array[]) =>
  async function* () {
    yield* pieces;
  };
const sourceOf = (bytes: Uint8Array) => ({
  size: bytes.length,
  digest: `sha256:${createHash("sha256").update(bytes).digest("hex")}`,
  open: once(bytes.subarray(0, 1000), bytes.subarray(1000)),
});

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

describe.each(["s3", "oss"] as const)("an object store of the kind %s", (kind) => {
  const prefix = "blobs of (all) images+/é/";
  async function world(options: { prefix?: string; config?: object } = {}) {
    const store = await TestObjectStore.start({
      kind,
      bucket: "nydus-blobs",
      region: "eu-central-1",
      accessKeyId: key.access_key_id,
      accessKeySecret: key.access_key_secret,
      endpoint: "store.invalid",
    });
    ends.push(store);
    const config = {
      ...{ endpoint: store.host, scheme: "http", bucket_name: "nydus-blobs", region: "eu-central-1", ...key },
      ...{ object_prefix: options.prefix ?? prefix, timeout: 2, ...options.config },
    };
    const client = new ObjectStore(nydusdObjectStoreOptions(kind, config, place));
    ends.push(client);
    const backend = objectStoreBackend({ ...nydusdObjectStoreOptions(kind, config, place), environment: {} });
    ends.push(backend);
    return { store, client, backend };
  }

  test("a blob is the object of the prefix and its id, whatever the prefix is made of; every request is signed", async () => {
    const { store, backend } = await world();
    store.objects.set(`${prefix}${id}`, blob);
    expect(await backend.size(id, demand)).toBe(blob.length);
    expect(Buffer.from(await backend.read(id, { offset: 4097, length: 70_001 }, demand))).toEqual(blob.subarray(4097, 74_098));
    expect(store.requests.map(({ status }) => status)).toEqual([200, 206]);
  });

  test.each([
    ["a wrong secret", { access_key_secret: "another" }, "REGISTRY_FORBIDDEN", "SignatureDoesNotMatch"],
    ["an unknown id", { access_key_id: "nobody" }, "REGISTRY_FORBIDDEN", "InvalidAccessKeyId"],
    ["no key where one is needed", { access_key_id: "", access_key_secret: "" }, "REGISTRY_FORBIDDEN", "AccessDenied"],
    ["a bucket that is not there", { bucket_name: "another" }, "REGISTRY_NOT_FOUND", "NoSuchBucket"],
    ["a blob that is not there", {}, "REGISTRY_NOT_FOUND", "NoSuchKey"],
  ])("%s is one line with the store's own words and no secret, and is asked once", async (_, config, code, words) => {
    const { store, backend } = await world({ config });
    const error = await backend.read(id, { offset: 0, length: 10 }, demand).catch((thrown: unknown) => thrown as Error);
    expect(error).toMatchObject({ code, retryable: false });
    const { message } = error as Error;
    expect(message).toContain(words);
    expect(message).not.toContain("\n");
    for (const secret of [key.access_key_secret, "StringToSign", "another:"]) expect(message).not.toContain(secret);
    expect(store.requests).toHaveLength(1);
  });

  test("a store that fails for a moment, or cuts the answer, is asked again", async () => {
    const { store, backend } = await world();
    store.objects.set(`${prefix}${id}`, blob);
    const faults = [{ status: 503, body: "<Error><Code>SlowDown</Code></Error>" }, { cutAfterBytes: 100 }];
    store.fault = () => faults.shift();
    expect(Buffer.from(await backend.read(id, { offset: 0, length: 50_000 }, demand))).toEqual(blob.subarray(0, 50_000));
    expect(store.requests).toHaveLength(3);
  });

  test("a store that keeps failing, or says nothing, is an error within the deadline", async () => {
    const { store, backend } = await world();
    store.fault = () => ({ status: 500 });
    await expect(backend.read(id, { offset: 0, length: 10 }, demand)).rejects.toMatchObject({ code: "REGISTRY_SERVER", retryable: true });
    store.fault = () => ({ silent: true });
    const late = backend.read(id, { offset: 0, length: 10 }, { ...demand, deadlineMs: 300 });
    await expect(late).rejects.toMatchObject({ code: "REGISTRY_DEADLINE" });
  });

  test("a bucket of another endpoint is said to be one, and nothing is sent elsewhere", async () => {
    const { store, backend } = await world();
    store.fault = () => ({ status: 301, body: "<Error><Code>PermanentRedirect</Code><Message>Use the other endpoint</Message></Error>" });
    await expect(backend.read(id, { offset: 0, length: 10 }, demand)).rejects.toThrow(/PermanentRedirect.*endpoint/s);
  });

  test("a mirror gets requests as they were signed for the store, and stands in for it", async () => {
    const { store: mirror } = await world();
    mirror.objects.set(`${prefix}${id}`, blob);
    const config = {
      ...{ endpoint: "store.invalid", scheme: "https", bucket_name: "nydus-blobs", region: "eu-central-1", object_prefix: prefix, ...key },
      mirrors: [{ host: `http://${mirror.host}` }],
    };
    const options = nydusdObjectStoreOptions(kind, config, place);
    expect(options.mirrors).toEqual(parseMirrors(config.mirrors, { file: "the test", key: "backend.mirrors" }));
    await using backend = objectStoreBackend({ ...options, environment: {} });
    expect(await backend.size(id, demand)).toBe(blob.length);
    expect(mirror.requests[0]?.headers.host).toBe(kind === "s3" ? "store.invalid" : "nydus-blobs.store.invalid");
  });

  test("a small object is one PUT with its digest; what is there in this size is not sent again, unless it must", async () => {
    const { store, client } = await world();
    expect(await client.put(id, sourceOf(blob), put)).toBe(true);
    expect(store.objects.get(`${prefix}${id}`)).toEqual(blob);
    expect(await client.put(id, sourceOf(blob), put)).toBe(false);
    expect(store.requests.map(({ method }) => method)).toEqual(["HEAD", "PUT", "HEAD"]);
    store.objects.set(`${prefix}${id}`, Buffer.from("of another size"));
    expect(await client.put(id, sourceOf(blob), put)).toBe(true);
    expect(await client.put(id, sourceOf(blob), { ...put, force: true })).toBe(true);
    expect(store.objects.get(`${prefix}${id}`)).toEqual(blob);
  });

  test("an object of no bytes is one", async () => {
    const { store, client } = await world();
    expect(await client.put("empty", sourceOf(Buffer.alloc(0)), put)).toBe(true);
    expect(store.objects.get(`${prefix}empty`)).toEqual(Buffer.alloc(0));
  });

  test.each([100_000, 33_333, 50_000, 99_999])(
    "a large object goes in parts of %i bytes, one of which is refused once",
    async (partBytes) => {
      const { store, client } = await world();
      let refused = 0;
      store.fault = ({ path }) => (path.includes("partNumber=2") && refused++ === 0 ? { status: 503 } : undefined);
      const steps: number[] = [];
      const onProgress = (bytes: number): void => void steps.push(bytes);
      expect(await client.put(id, sourceOf(blob), { ...put, partBytes, onProgress })).toBe(true);
      expect(store.objects.get(`${prefix}${id}`)).toEqual(blob);
      expect(store.uploads.size).toBe(0);
      expect(steps.at(-1)).toBe(blob.length);
      expect(store.requests.filter(({ path }) => path.includes("partNumber=")).length > 0).toBe(partBytes < blob.length);
    },
  );

  test("an upload whose last answer is lost has come, and is not called failed", async () => {
    const { store, client } = await world();
    let cut = 0;
    store.fault = ({ method, path }) => (method === "POST" && path.includes("uploadId=") && cut++ === 0 ? { cutAfter: true } : undefined);
    expect(await client.put(id, sourceOf(blob), { ...put, partBytes: 40_000 })).toBe(true);
    expect(store.objects.get(`${prefix}${id}`)).toEqual(blob);
  });

  test.each([
    ["whose source breaks off", { size: blob.length, open: once(blob.subarray(0, 90_000)) }, "REGISTRY_DIGEST"],
    ["whose source goes on", { size: blob.length, open: once(blob, blob) }, "REGISTRY_DIGEST"],
    ["whose source has other bytes", { ...sourceOf(blob), open: once(randomBytes(blob.length)) }, "REGISTRY_DIGEST"],
  ])("an upload %s leaves nothing, whole or in parts", async (_, source, code) => {
    const { store, client } = await world();
    await expect(client.put(id, source, put)).rejects.toMatchObject({ code });
    await expect(client.put(id, source, { ...put, partBytes: 30_000 })).rejects.toMatchObject({ code });
    expect([store.objects.size, store.uploads.size]).toEqual([0, 0]);
  });

  test("an upload that is aborted, or whose part is refused for good, leaves nothing", async () => {
    const { store, client } = await world();
    const controller = new AbortController();
    store.fault = ({ path }) => {
      if (!path.includes("partNumber=3")) return undefined;
      controller.abort(new Error("enough"));
      return { silent: true };
    };
    const aborted = client.put(id, sourceOf(blob), { ...put, partBytes: 20_000, signal: controller.signal });
    await expect(aborted).rejects.toMatchObject({ code: "REGISTRY_ABORTED" });
    expect([store.objects.size, store.uploads.size]).toEqual([0, 0]);
    store.fault = ({ path }) => (path.includes("partNumber=2") ? { status: 403 } : undefined);
    await expect(client.put(id, sourceOf(blob), { ...put, partBytes: 20_000 })).rejects.toMatchObject({ code: "REGISTRY_FORBIDDEN" });
    expect([store.objects.size, store.uploads.size]).toEqual([0, 0]);
  });

  test("a failure to join the parts that comes with status 200 is a failure", async () => {
    const { store, client } = await world();
    const body = "<Error><Code>InternalError</Code></Error>";
    store.fault = ({ method, path }) => (method === "POST" && path.includes("uploadId=") ? { status: 200, body } : undefined);
    await expect(client.put(id, sourceOf(blob), { ...put, partBytes: 40_000 })).rejects.toThrow("InternalError");
    expect([store.objects.size, store.uploads.size]).toEqual([0, 0]);
  });
});

describe("the configuration of an object store", () => {
  const good = { endpoint: "s3.example", bucket_name: "b-1", region: "r", ...key };
  test.each([
    ["an endpoint with a path", { endpoint: "h/x" }],
    ["an endpoint with a login", { endpoint: "user:pass@h" }],
    ["a bucket that leads elsewhere", { bucket_name: "../b" }],
    ["half a key", { access_key_id: "" }],
    ["a prefix that leads upwards", { object_prefix: "a/../b" }],
    ["a scheme of another protocol", { scheme: "ftp" }],
    ["a proxy beside mirrors", { proxy: { url: "http://p" }, mirrors: [{ host: "http://m" }] }],
  ])("%s is refused before anything is asked, and no secret is said", (_, wrong) => {
    const open = (): unknown => new ObjectStore(nydusdObjectStoreOptions("s3", { ...good, ...wrong }, place));
    expect(open).toThrow(expect.objectContaining({ code: "REGISTRY_CONFIG", message: expect.not.stringMatching(/very|pass@/) }));
  });

  test("an empty endpoint of s3 is Amazon's; one that is written as a URL says the scheme; OSS puts the bucket into the host", () => {
    const hostOf = (kind: "oss" | "s3", config: object): string | undefined =>
      new ObjectStore(nydusdObjectStoreOptions(kind, { ...good, ...config }, place)).hosts[0]?.url;
    expect(hostOf("s3", { endpoint: "" })).toBe("https://s3.amazonaws.com/b-1");
    expect(hostOf("s3", { endpoint: "http://minio:9000" })).toBe("http://minio:9000/b-1");
    expect(hostOf("oss", { endpoint: "oss-cn-hangzhou.aliyuncs.com" })).toBe("https://b-1.oss-cn-hangzhou.aliyuncs.com");
    expect(hostOf("oss", { endpoint: "10.0.0.1:80", scheme: "http" })).toBe("http://10.0.0.1/b-1");
  });
});

describe("a plain HTTP server as a back end", () => {
  async function serve(listen: string | number) {
    const asked: string[] = [];
    const server = createServer((request, response) => {
      asked.push(request.url ?? "");
      const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
      if (first === undefined) return void response.writeHead(200, { "content-length": blob.length }).end();
      const headers = { "content-range": `bytes ${first}-${last}/${blob.length}` };
      response.writeHead(206, headers).end(blob.subarray(Number(first), Number(last) + 1));
    });
    await new Promise<void>((done) => server.listen(listen, () => done()));
    ends.push({ [Symbol.asyncDispose]: () => new Promise<void>((done) => void server.close(() => done())) });
    return { server, asked };
  }

  test.each([
    ["", `/${id}`],
    ["/p", `/p/${id}`],
    ["p/q/", `/p/q/${id}`],
  ])("with the path %j a blob is asked for at %s", async (path, url) => {
    const { server, asked } = await serve(0);
    const { port } = server.address() as { port: number };
    const config = { addr: `http://127.0.0.1:${port}`, path };
    await using backend = objectStoreBackend({ ...nydusdHttpProxyOptions(config, place), environment: {} });
    expect(await backend.size(id, demand)).toBe(blob.length);
    expect(Buffer.from(await backend.read(id, { offset: 7, length: 100 }, demand))).toEqual(blob.subarray(7, 107));
    expect(asked).toEqual([url, url]);
  });

  test("a unix socket serves its one blob", async () => {
    const directory = await mkdtemp(join(tmpdir(), "http-proxy-"));
    ends.push({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) });
    const { asked } = await serve(join(directory, "socket"));
    const config = { addr: join(directory, "socket") };
    await using backend = objectStoreBackend({ ...nydusdHttpProxyOptions(config, place), environment: {} });
    expect(await backend.size(id, demand)).toBe(blob.length);
    expect(Buffer.from(await backend.read(id, { offset: 7, length: 100 }, demand))).toEqual(blob.subarray(7, 107));
    expect(asked).toEqual(["/", "/"]);
  });
});

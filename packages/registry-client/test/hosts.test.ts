import { mkdir, rename, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { type HostConfig, originHost, parseMirrors } from "@nydus-ts/mirror-config";
import { describe, expect, onTestFinished, test } from "vitest";
import { type RegistryBackendOptions, registryBackend } from "../src/index.ts";
import type { TestRegistry } from "../src/testing/index.ts";
import { BEARER, bytes, CALL, client, code, credentials, deadPort, folder, registry } from "./helpers.ts";

const mirrorOf = (host: string, more: Partial<HostConfig> = {}): HostConfig =>
  originHost(host, "http", { kind: "mirror", sharesCredentials: false, ...more });
const READ = { deadlineMs: 5000, priority: "demand" } as const;

async function backend(options: RegistryBackendOptions) {
  const opened = await registryBackend({ environment: {}, ...options });
  onTestFinished(() => opened[Symbol.asyncDispose]());
  return opened;
}

/** A listener that takes connections and never says a word: what a dead host behind a dropping firewall looks like to a kept connection. */
async function silentServer(): Promise<string> {
  const server = createServer(() => undefined);
  const sockets = new Set<{ destroy(): void }>();
  server.on("connection", (socket) => sockets.add(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `127.0.0.1:${(server.address() as { port: number }).port}`;
}

describe("hosts in turn", () => {
  test("a mirror that has the blob serves it, and the registry is not asked", async () => {
    const [mirror, origin] = [await registry(), await registry()];
    const { digest } = mirror.putBlob(bytes(1000));
    const reader = client({ host: origin.host, hosts: [mirrorOf(mirror.host), originHost(origin.host, "http")] });
    await reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL);
    expect(origin.requests).toHaveLength(0);
  });

  test("a mirror that lacks the blob is no ill mirror: the registry answers and the mirror stays first", async () => {
    const [mirror, origin] = [await registry(), await registry()];
    const { digest } = origin.putBlob(bytes(1000));
    const reader = client({ host: origin.host, hosts: [mirrorOf(mirror.host), originHost(origin.host, "http")] });
    for (let index = 0; index < 10; index++) await reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL);
    expect(mirror.requests).toHaveLength(10);
    expect(reader.requester.health[0]).toMatchObject({ state: "closed", failures: 0 });
  });

  test("what neither has is the registry's own 404", async () => {
    const [mirror, origin] = [await registry(), await registry()];
    mirror.faults.add({}, { status: 500 });
    const reader = client({ host: origin.host, hosts: [mirrorOf(mirror.host), originHost(origin.host, "http")] });
    await expect(reader.readRange("a/b", `sha256:${"0".repeat(64)}`, { offset: 0, length: 1 }, CALL)).rejects.toThrow(
      code("REGISTRY_NOT_FOUND"),
    );
  });

  test("a mirror that refuses connections is tried failure_limit times and then bypassed", async () => {
    const origin = await registry();
    const { digest } = origin.putBlob(bytes(1000));
    const reader = client({
      host: origin.host,
      hosts: [mirrorOf(`127.0.0.1:${await deadPort()}`, { failureLimit: 3 }), originHost(origin.host, "http")],
    });
    for (let index = 0; index < 20; index++) await reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL);
    expect(reader.requester.health[0]).toMatchObject({ state: "open", failures: 3, bypasses: 17 });
  });

  test("a mirror that went silent is raced by the next host and then bypassed, long before any time-out", async () => {
    const origin = await registry();
    const { digest } = origin.putBlob(bytes(1000));
    const reader = client({
      host: origin.host,
      timeoutMs: 60_000,
      hosts: [mirrorOf(await silentServer(), { failureLimit: 2 }), originHost(origin.host, "http")],
    });
    // Ten at once, ten after: all of them end although the mirror never does.
    await Promise.all(Array.from({ length: 10 }, () => reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL)));
    for (let index = 0; index < 10; index++) await reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL);
    expect(reader.requester.health[0]).toMatchObject({ state: "open" });
    expect(origin.requests).toHaveLength(20);
  });

  test("a mirror that answers wrong ranges, errors or cut bodies costs no read its result", async () => {
    const [mirror, origin] = [await registry(), await registry()];
    const blob = bytes(100_000);
    const { digest } = mirror.putBlob(blob);
    origin.putBlob(blob);
    mirror.faults.add({ path: /blobs/ }, { shiftRange: 7, times: 1 });
    mirror.faults.add({ path: /blobs/ }, { status: 502, times: 1 });
    mirror.faults.add({ path: /blobs/ }, { resetAfterBytes: 100, times: 1 });
    const reader = client({ host: origin.host, hosts: [mirrorOf(mirror.host), originHost(origin.host, "http")] });
    for (let index = 0; index < 5; index++)
      expect(await reader.readRange("a/b", digest, { offset: 0, length: 50_000 }, CALL)).toEqual(blob.subarray(0, 50_000));
    expect(origin.requests).toHaveLength(3);
    expect(reader.requester.health[0]).toMatchObject({ state: "closed", failures: 3, successes: 2 });
  });

  test("after the interval a probe beside the traffic brings a mirror back", async () => {
    const [mirror, origin] = [await registry(), await registry()];
    const { digest } = mirror.putBlob(bytes(1000));
    origin.store.own("*", digest);
    origin.putBlob(Buffer.from(mirror.store.read(digest, 0, 999) as Buffer));
    let now = 0;
    const ill = mirror.faults.add({}, { status: 503 });
    const config = mirrorOf(mirror.host, { failureLimit: 1, pingUrl: `http://${mirror.host}/v2/` });
    const reader = client({ host: origin.host, now: () => now, hosts: [config, originHost(origin.host, "http")] });
    const read = () => reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL);
    await read();
    await read();
    expect(mirror.requests).toHaveLength(1);
    ill.remove();
    now += 5001;
    await read();
    await expect.poll(() => reader.requester.health[0]?.state).toBe("closed");
    await read();
    expect(mirror.requests.map(({ path }) => path.includes("/blobs/"))).toEqual([true, false, true]);
  });

  test("a mirror's headers and base path go to the mirror only, and it is told which registry is meant", async () => {
    const [mirror, origin] = [await registry(), await registry()];
    const { digest } = origin.putBlob(bytes(10));
    const config = mirrorOf(mirror.host, {
      headers: { "x-dragonfly-registry": ["https://origin"] },
      namespace: "docker.io",
      basePath: "/prefix/v2",
    });
    await client({ host: origin.host, hosts: [config, originHost(origin.host, "http")] }).blobSize("a/b", digest, CALL);
    expect(mirror.requests[0]).toMatchObject({
      path: `/prefix/v2/a/b/blobs/${digest}?ns=docker.io`,
      headers: { "x-dragonfly-registry": "https://origin" },
    });
    expect(origin.requests[0]?.headers["x-dragonfly-registry"]).toBeUndefined();
    expect(origin.requests[0]?.path).toBe(`/v2/a/b/blobs/${digest}`);
  });
});

describe("who gets the password", () => {
  const setup = async (
    more: Partial<HostConfig>,
    realm?: string,
  ): Promise<{ mirror: TestRegistry; origin: TestRegistry; read: () => Promise<unknown> }> => {
    const origin = await registry({ auth: BEARER });
    const mirror = await registry({ auth: { ...BEARER, ...(realm === undefined ? {} : { realm }) } });
    const blob = bytes(10);
    const { digest } = mirror.putBlob(blob);
    origin.putBlob(blob);
    const reader = client({ host: origin.host, credentials, hosts: [mirrorOf(mirror.host, more), originHost(origin.host, "http")] });
    return { mirror, origin, read: () => reader.readRange("a/b", digest, { offset: 0, length: 10 }, CALL) };
  };

  test("a mirror that names a realm of its own is given an anonymous request, and the read goes on elsewhere", async () => {
    const { mirror, read } = await setup({});
    await read();
    expect(mirror.tokens.log.every(({ account }) => account === "")).toBe(true);
    expect(JSON.stringify(mirror.requests)).not.toContain("s3cret");
  });

  test("a mirror that passes on the registry's realm is given a token of the registry, never the password", async () => {
    const origin = await registry({ auth: BEARER });
    const mirror = await registry({ auth: { ...BEARER, realm: `http://${origin.host}/token` } });
    const { digest } = mirror.putBlob(bytes(10));
    const reader = client({ host: origin.host, credentials, hosts: [mirrorOf(mirror.host), originHost(origin.host, "http")] });
    await reader.blobSize("a/b", digest, CALL).catch(() => undefined);
    expect(origin.tokens.log.some(({ account }) => account === "alice")).toBe(true);
    expect(mirror.requests.some(({ headers }) => headers.authorization?.startsWith("Bearer "))).toBe(true);
  });

  test("with auth_through token requests go through the mirror, with its headers", async () => {
    const { mirror, origin, read } = await setup(
      { authThrough: true, sharesCredentials: true, headers: { "x-mirror": ["yes"] } },
      "https://auth.invalid/token",
    );
    await read();
    expect(mirror.tokens.log.map(({ account }) => account)).toEqual(["alice"]);
    expect(mirror.requests.find(({ path }) => path.startsWith("/token"))?.headers["x-mirror"]).toBe("yes");
    expect(origin.requests).toHaveLength(0);
  });

  test("nydusd's JSON mirrors are trusted as nydusd does", async () => {
    const origin = await registry({ auth: BEARER });
    const mirror = await registry({ auth: BEARER });
    const { digest } = mirror.putBlob(bytes(10));
    const mirrors = parseMirrors([{ host: `http://${mirror.host}` }], { file: "nydusd.json", key: "mirrors" });
    const opened = await backend({ host: origin.host, repository: "a/b", credentials, mirrors });
    expect(await opened.read(digest.slice(7), { offset: 0, length: 10 }, READ)).toHaveLength(10);
    expect(origin.requests).toHaveLength(0);
  });
});

describe("hosts directories of a back end", () => {
  const hostsToml = (host: string): string => `[host."http://${host}"]\n  capabilities = ["pull", "resolve"]\n`;

  test("an entry replaces the JSON's mirrors, a changed one is followed without a restart, a broken one leaves the last good in force and says so", async () => {
    const [first, second, json, origin] = [await registry(), await registry(), await registry(), await registry()];
    const blob = bytes(10);
    for (const server of [first, second, json, origin]) server.putBlob(blob);
    const id = first.putBlob(blob).digest.slice(7);
    const directory = await folder();
    const entry = join(directory, origin.host.replace(":", "_") + "_");
    await mkdir(entry);
    const write = async (text: string): Promise<void> => {
      await writeFile(join(entry, "hosts.tmp"), text);
      await rename(join(entry, "hosts.tmp"), join(entry, "hosts.toml"));
    };
    await write(hostsToml(first.host));
    const warnings: string[] = [];
    const opened = await backend({
      host: origin.host,
      repository: "a/b",
      hostsDirs: [directory],
      mirrors: parseMirrors([{ host: `http://${json.host}` }], { file: "nydusd.json", key: "mirrors" }),
      onWarning: (line) => warnings.push(line),
    });
    const read = () => opened.read(id, { offset: 0, length: 10 }, READ);
    await read();
    expect([first, second, json, origin].map(({ requests }) => requests.length)).toEqual([1, 0, 0, 0]);

    await write(hostsToml(second.host));
    await expect.poll(() => opened.metrics().hosts[0]?.url).toBe(`http://${second.host}/v2`);
    await read();
    expect(second.requests).toHaveLength(1);

    await write('[host."http://x"]\n  capabilities = ["fly"]\n');
    await expect.poll(() => warnings.join("\n")).toMatch(/hosts\.toml:2: host\."http:\/\/x"\.capabilities.*\n.*stays in force/);
    await read();
    expect(second.requests).toHaveLength(2);
    expect(opened.metrics().hostsSource).toBe(join(entry, "hosts.toml"));

    const { rm } = await import("node:fs/promises");
    await rm(entry, { recursive: true });
    await expect.poll(() => opened.metrics().hosts[0]?.url).toBe(`http://${json.host}/v2`);
    await read();
    expect(json.requests).toHaveLength(1);
  });
});

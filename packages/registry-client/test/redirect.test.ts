import { describe, expect, test } from "vitest";
import { registryBackend } from "../src/index.ts";
import { expiryOf, RedirectCache } from "../src/redirects.ts";
import { BEARER, bytes, CALL, client, collect, credentials, registry } from "./helpers.ts";

describe("redirected blobs", () => {
  test.each([301, 302, 303, 307, 308] as const)(
    "%d is followed with the range and without Authorization, and its target is remembered",
    async (status) => {
      const [server, store] = [await registry({ auth: BEARER }), await registry()];
      const blob = bytes(10_000);
      const { digest } = server.putBlob(blob);
      store.putBlob(blob);
      server.faults.add({ path: /blobs/, ranged: true }, { redirect: { to: `http://${store.host}{path}?X-Amz-Signature=abcdef`, status } });
      const reader = client({ host: server.host, credentials });
      // Authorise first: the fault answers before the challenge would.
      await reader.blobSize("a/b", digest, CALL);
      for (let index = 0; index < 3; index++)
        expect(await reader.readRange("a/b", digest, { offset: 100, length: 50 }, CALL)).toEqual(blob.subarray(100, 150));
      expect(store.requests.map(({ authorized, range }) => [authorized, range])).toEqual(Array(3).fill([false, "bytes=100-149"]));
      expect(server.requests.filter(({ range }) => range !== undefined)).toHaveLength(1);
    },
  );

  test.each([401, 403, 404, 500])("a remembered target that answers %d is forgotten and the registry asked again", async (status) => {
    const [server, store] = [await registry(), await registry()];
    const blob = bytes(10_000);
    const { digest } = server.putBlob(blob);
    store.putBlob(blob);
    server.faults.add({ path: /blobs/ }, { redirect: { to: `http://${store.host}{path}` } });
    const reader = client({ host: server.host });
    const read = () => reader.readRange("a/b", digest, { offset: 0, length: 50 }, CALL);
    await read();
    store.faults.add({}, { status, times: 1 });
    expect(await read()).toEqual(blob.subarray(0, 50));
    expect(server.requests).toHaveLength(2);
    expect(store.requests.map((request) => request.status)).toEqual([206, status, 206]);
  });

  test("a target that is gone altogether costs one more request, not the read", async () => {
    const [server, store] = [await registry(), await registry()];
    const { digest } = server.putBlob(bytes(100));
    store.putBlob(server.store.read(digest, 0, 99) as Buffer);
    const rule = server.faults.add({ path: /blobs/ }, { redirect: { to: `http://${store.host}{path}` } });
    const reader = client({ host: server.host });
    await reader.readRange("a/b", digest, { offset: 0, length: 50 }, CALL);
    await store[Symbol.asyncDispose]();
    rule.remove();
    expect(await reader.readRange("a/b", digest, { offset: 0, length: 50 }, CALL)).toHaveLength(50);
  });

  test("chains and relative targets are followed, circles are not", async () => {
    const server = await registry();
    const { digest } = server.putBlob(bytes(100));
    server.faults.add({ path: /blobs/ }, { redirect: { to: "/v2/other/repo/blobs/" + digest }, times: 1 });
    server.faults.add({ path: /blobs/ }, { redirect: { to: `http://${server.host}/v2/c/d/blobs/${digest}` }, times: 1 });
    const reader = client({ host: server.host, retryLimit: 1 });
    expect(await reader.readRange("a/b", digest, { offset: 0, length: 50 }, CALL)).toHaveLength(50);
    server.faults.add({ path: /blobs/ }, { redirect: { to: "{path}" } });
    await expect(reader.readRange("a/b", digest, { offset: 0, length: 50 }, CALL)).rejects.toMatchObject({ code: "REGISTRY_PROTOCOL" });
  });

  test("streams follow redirects too", async () => {
    const [server, store] = [await registry(), await registry()];
    const blob = bytes(300_000);
    const { digest } = server.putBlob(blob);
    store.putBlob(blob);
    server.faults.add({ path: /blobs/ }, { redirect: { to: `http://${store.host}{path}` } });
    store.faults.add({}, { resetAfterBytes: 100_000, times: 2 });
    expect(await collect(client({ host: server.host }).blobStream("a/b", digest, { openDeadlineMs: 5000 }))).toEqual(blob);
  });

  test("blob_url_scheme and blob_redirected_host rewrite the target", async () => {
    const [server, store] = [await registry(), await registry()];
    const { digest } = store.putBlob(bytes(100));
    server.putBlob(store.store.read(digest, 0, 99) as Buffer);
    server.faults.add({ path: /blobs/ }, { redirect: { to: "https://unreachable.invalid{path}" } });
    await using backend = await registryBackend({
      host: server.host,
      repository: "a/b",
      blobUrlScheme: "http",
      blobRedirectedHost: store.host,
    });
    expect(await backend.read(digest.slice(7), { offset: 0, length: 100 }, { deadlineMs: 5000, priority: "demand" })).toHaveLength(100);
    await expect(registryBackend({ host: server.host, repository: "a/b", blobUrlScheme: "ftp" })).rejects.toMatchObject({
      code: "REGISTRY_CONFIG",
    });
  });
});

describe("how long a target is remembered", () => {
  test.each([
    ["https://b/x?X-Amz-Date=20260101T000000Z&X-Amz-Expires=60", Date.UTC(2026, 0, 1, 0, 1)],
    ["https://b/x?x-goog-date=20260101T000000Z&x-goog-expires=60", Date.UTC(2026, 0, 1, 0, 1)],
    ["https://b/x?Expires=1767225660", Date.UTC(2026, 0, 1, 0, 1)],
    ["https://b/x?se=2026-01-01T00%3A01%3A00Z", Date.UTC(2026, 0, 1, 0, 1)],
    ["https://b/x?sig=1", undefined],
  ])("%s expires at its own time", (url, expiry) => {
    expect(expiryOf(new URL(url))).toBe(expiry);
  });

  test("a target is dropped before it expires, and one that has expired is never taken", () => {
    let now = Date.UTC(2026, 0, 1);
    const cache = new RedirectCache(() => now);
    cache.set("a", new URL("https://b/x?X-Amz-Date=20260101T000000Z&X-Amz-Expires=60"));
    cache.set("b", new URL("https://b/x?Expires=1"));
    expect(cache.get("a")).toBeDefined();
    expect(cache.get("b")).toBeUndefined();
    now += 51_000;
    expect(cache.get("a")).toBeUndefined();
  });
});

import { describe, expect, test } from "vitest";
import { staticCredentials } from "../../src/index.ts";
import { BEARER, bytes, CALL, client, code, credentials, registry, USER } from "../helpers.ts";

describe("bearer tokens", () => {
  test("a token that expires in the middle of a read is renewed once, for all waiting readers", async () => {
    const server = await registry({ auth: { ...BEARER, expiresInS: 3600 } });
    const blob = bytes(100_000);
    const { digest } = server.putBlob(blob);
    const reader = client({ host: server.host, credentials });
    await reader.readRange("a/b", digest, { offset: 0, length: 10 }, CALL);
    expect(server.tokens.log).toHaveLength(1);
    server.tokens.expireTokens();
    server.tokens.delayMs = 50;
    const ranges = Array.from({ length: 30 }, (_, index) => ({ offset: index * 1000, length: 1000 }));
    const read = await Promise.all(ranges.map((range) => reader.readRange("a/b", digest, range, CALL)));
    for (const [index, range] of ranges.entries()) expect(read[index]).toEqual(blob.subarray(range.offset, range.offset + range.length));
    expect(server.tokens.log).toHaveLength(2);
  });

  test("30 first readers share one token request", async () => {
    const server = await registry({ auth: { ...BEARER, expiresInS: 3600 } });
    server.tokens.delayMs = 50;
    const { digest } = server.putBlob(bytes(1000));
    const reader = client({ host: server.host, credentials });
    await Promise.all(Array.from({ length: 30 }, () => reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL)));
    expect(server.tokens.log).toHaveLength(1);
  });

  test("a token in use is renewed beside the traffic before it ends, and no request meets a 401", async () => {
    const server = await registry({ auth: { ...BEARER, expiresInS: 1, lifeMs: 1100 } });
    const { digest } = server.putBlob(bytes(1000));
    const reader = client({ host: server.host, credentials });
    const end = performance.now() + 2500;
    while (performance.now() < end) {
      await reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(server.requests.filter(({ status }) => status === 401)).toHaveLength(1);
    expect(server.tokens.log.length).toBeGreaterThanOrEqual(2);
    expect(server.tokens.log.length).toBeLessThanOrEqual(6);
  });

  test("scopes have tokens of their own, and a second repository does not use up the first one's", async () => {
    const server = await registry({ auth: { ...BEARER, expiresInS: 3600 } });
    const { digest } = server.putBlob(bytes(10));
    const reader = client({ host: server.host, credentials });
    for (const repository of ["a/a", "b/b", "a/a", "b/b"]) await reader.readRange(repository, digest, { offset: 0, length: 10 }, CALL);
    expect(server.tokens.log.map(({ scopes }) => scopes)).toEqual([["repository:a/a:pull"], ["repository:b/b:pull"]]);
  });

  test("a token server that knows only GET is asked by POST once", async () => {
    const server = await registry({ auth: { ...BEARER, expiresInS: 3600, getOnly: true } });
    const { digest } = server.putBlob(bytes(10));
    const reader = client({ host: server.host, credentials });
    for (const repository of ["a/a", "b/b"]) await reader.readRange(repository, digest, { offset: 0, length: 10 }, CALL);
    expect(server.tokens.log.map(({ method }) => method)).toEqual(["POST", "GET", "GET"]);
  });

  test("an identity token is exchanged for a bearer token", async () => {
    const server = await registry({ auth: { ...BEARER, identityToken: "refresh-me" } });
    const { digest } = server.putBlob(bytes(10));
    const reader = client({ host: server.host, credentials: staticCredentials({ kind: "identity", identityToken: "refresh-me" }) });
    expect(await reader.blobSize("a/b", digest, CALL)).toBe(10);
  });

  test("anonymous readers get an anonymous token by GET", async () => {
    const server = await registry({ auth: { kind: "bearer" } });
    const { digest } = server.putBlob(bytes(10));
    expect(await client({ host: server.host }).blobSize("a/b", digest, CALL)).toBe(10);
    expect(server.tokens.log.map(({ method }) => method)).toEqual(["GET"]);
  });

  test("a refused password is asked about once, not at every read: the token server is spared", async () => {
    const server = await registry({ auth: BEARER });
    const { digest } = server.putBlob(bytes(10));
    const reader = client({ host: server.host, credentials: staticCredentials({ ...USER, password: "wrong-passw0rd" } as typeof USER) });
    for (let index = 0; index < 5; index++)
      await expect(reader.blobSize("a/b", digest, CALL)).rejects.toThrow(code("REGISTRY_UNAUTHORIZED"));
    expect(server.tokens.log.length).toBeLessThanOrEqual(2);
    reader.requester.setCredentials(credentials);
    expect(await reader.blobSize("a/b", digest, CALL)).toBe(10);
  });

  test("without credentials the error says where they were looked for", async () => {
    const server = await registry({ auth: BEARER });
    const { digest } = server.putBlob(bytes(10));
    const failure = await client({ host: server.host, credentials: staticCredentials(undefined, { source: "~/.docker/config.json" }) })
      .blobSize("a/b", digest, CALL)
      .catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "REGISTRY_UNAUTHORIZED", retryable: false });
    expect(String(failure)).toContain("~/.docker/config.json");
  });

  test("a token server that fails for a moment is asked again within the deadline", async () => {
    const server = await registry({ auth: BEARER });
    const { digest } = server.putBlob(bytes(10));
    server.tokens.failWith = { status: 503, times: 1 };
    expect(await client({ host: server.host, credentials, retryLimit: 8 }).blobSize("a/b", digest, CALL)).toBe(10);
  });

  test("a stalled token server costs a caller its own deadline only", async () => {
    const server = await registry({ auth: BEARER });
    const { digest } = server.putBlob(bytes(10));
    server.faults.add({ path: /^\/token/ }, { stallMs: Number.POSITIVE_INFINITY });
    await expect(client({ host: server.host, credentials }).blobSize("a/b", digest, { deadlineMs: 200 })).rejects.toThrow(
      code("REGISTRY_DEADLINE"),
    );
  });

  test("Basic challenges are answered, and afterwards anticipated", async () => {
    const server = await registry({ auth: { kind: "basic", username: "alice", password: "s3cret:with:colons" } });
    const { digest } = server.putBlob(bytes(10));
    const reader = client({ host: server.host, credentials });
    for (let index = 0; index < 3; index++) await reader.blobSize("a/b", digest, CALL);
    expect(server.requests.map(({ status }) => status)).toEqual([401, 200, 200, 200]);
  });

  test("a ready bearer token is sent at once, and a refused one falls back to the challenge", async () => {
    const server = await registry({ auth: { kind: "bearer" } });
    const { digest } = server.putBlob(bytes(10));
    const reader = client({ host: server.host, credentials: staticCredentials({ kind: "bearer", token: "stale-token" }) });
    expect(await reader.blobSize("a/b", digest, CALL)).toBe(10);
    expect(server.requests[0]?.headers.authorization).toBe("Bearer stale-token");
  });
});

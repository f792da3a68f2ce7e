import { describe, expect, test } from "vitest";
import { sha256 } from "../../src/digest.ts";
import { UPLOAD_PIECE_BYTES } from "../../src/limits.ts";
import { BEARER, bytes, CALL, client, code, credentials, pieces, registry } from "../helpers.ts";

const STEP = { stepDeadlineMs: 5000 };

describe("uploads", () => {
  test("a blob of known digest and size goes out in one PUT, and a second time not at all", async () => {
    const server = await registry({ auth: BEARER });
    const blob = bytes(300_000);
    const pusher = client({ host: server.host, credentials });
    const push = () => pusher.pushBlob("a/b", { open: () => pieces(blob, 7_000) }, { digest: sha256(blob), size: blob.length, ...STEP });
    expect(await push()).toMatchObject({ uploaded: true });
    const sent = server.requests.length;
    expect(await push()).toMatchObject({ uploaded: false, size: blob.length });
    expect(server.requests.slice(sent).map(({ method }) => method)).toEqual(["HEAD"]);
    expect(await pusher.readRange("a/b", sha256(blob), { offset: 0, length: blob.length }, CALL)).toEqual(blob);
  });

  test("a blob whose digest is known at the end only is streamed and named then", async () => {
    const server = await registry();
    const blob = bytes(300_000);
    expect(await client({ host: server.host }).pushBlob("a/b", { open: () => pieces(blob, 10_000) }, STEP)).toEqual({
      digest: sha256(blob),
      size: blob.length,
      uploaded: true,
    });
    expect(server.store.has(sha256(blob), "a/b")).toBe(true);
    expect(server.requests.map(({ method }) => method)).toEqual(["POST", "PATCH", "PUT"]);
  });

  test("an upload that breaks is begun again from the source, at every step", async () => {
    const server = await registry();
    const blob = bytes(300_000);
    server.faults.add({ method: "POST" }, { status: 503, times: 1 });
    server.faults.add({ method: "PATCH" }, { resetAfterBytes: 0, times: 1 });
    server.faults.add({ method: "PUT" }, { status: 500, times: 1 });
    expect(await client({ host: server.host }).pushBlob("a/b", { open: () => pieces(blob, 10_000) }, STEP)).toMatchObject({
      digest: sha256(blob),
    });
  });

  test("an upload whose confirmation was lost is found by HEAD instead of being sent again", async () => {
    const server = await registry();
    const blob = bytes(300_000);
    server.putBlob(blob);
    server.faults.add({ method: "HEAD" }, { status: 404, times: 1 });
    server.faults.add({ method: "PUT" }, { resetAfterBytes: 0 });
    const pushed = await client({ host: server.host }).pushBlob(
      "a/b",
      { open: () => pieces(blob, 10_000) },
      { digest: sha256(blob), size: blob.length, ...STEP },
    );
    expect(pushed.uploaded).toBe(false);
  });

  test("a source that can be had only once survives cut connections, piece by piece", async () => {
    const server = await registry();
    const blob = bytes(UPLOAD_PIECE_BYTES * 2 + 12_345);
    server.faults.add({ method: "PATCH" }, { resetAfterBytes: 0, times: 1 });
    server.faults.add({ method: "PATCH" }, { status: 500, times: 1 });
    const pushed = await client({ host: server.host }).pushBlob("a/b", { once: pieces(blob, 1_000_000) }, STEP);
    expect(pushed).toMatchObject({ digest: sha256(blob), size: blob.length });
    expect(server.store.has(sha256(blob), "a/b")).toBe(true);
  });

  test("a source that is not what its digest or size says is REGISTRY_DIGEST, and nothing is stored", async () => {
    const server = await registry();
    const blob = bytes(10_000);
    const pusher = client({ host: server.host });
    for (const expected of [
      { digest: sha256("other"), size: blob.length },
      { digest: sha256(blob), size: 9_999 },
      { digest: sha256(blob), size: 10_001 },
    ]) {
      for (const source of [{ open: () => pieces(blob, 1000) }, { once: pieces(blob, 1000) }]) {
        await expect(pusher.pushBlob("a/b", source, { ...expected, ...STEP, retryLimit: 1 })).rejects.toThrow(code("REGISTRY_DIGEST"));
      }
    }
    expect(server.store.has(sha256(blob), "a/b")).toBe(false);
    expect(server.store.uploads.size).toBe(0);
  });

  test("an error of the source itself comes out as it is, and the upload is cancelled", async () => {
    const server = await registry();
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield bytes(1000);
      throw new Error("the builder stopped");
    }
    await expect(client({ host: server.host }).pushBlob("a/b", { open: broken }, STEP)).rejects.toThrow("the builder stopped");
    await expect(client({ host: server.host }).pushBlob("a/b", { once: broken() }, STEP)).rejects.toThrow("the builder stopped");
    expect(server.store.uploads.size).toBe(0);
  });

  test("a blob of another repository is mounted without its bytes; where that is not possible the answer is false and no upload is left", async () => {
    const server = await registry({ auth: BEARER });
    const { digest } = server.putBlob(bytes(1000), "from/here");
    const pusher = client({ host: server.host, credentials });
    expect(await pusher.mountBlob("to/there", digest, "from/here", CALL)).toBe(true);
    expect(server.store.has(digest, "to/there")).toBe(true);
    expect(await pusher.mountBlob("to/there", sha256("absent"), "from/here", CALL)).toBe(false);
    expect(server.store.uploads.size).toBe(0);
  });

  test("a token that expires between two steps of an upload is renewed", async () => {
    const server = await registry({ auth: { ...BEARER, expiresInS: 3600 } });
    const blob = bytes(UPLOAD_PIECE_BYTES + 1000);
    async function* slow(): AsyncGenerator<Uint8Array> {
      yield blob.subarray(0, UPLOAD_PIECE_BYTES);
      server.tokens.expireTokens();
      yield blob.subarray(UPLOAD_PIECE_BYTES);
    }
    expect(await client({ host: server.host, credentials }).pushBlob("a/b", { once: slow() }, STEP)).toMatchObject({
      digest: sha256(blob),
    });
  });

  test("403 on an upload is REGISTRY_FORBIDDEN at once", async () => {
    const server = await registry();
    server.faults.add({ method: "POST" }, { status: 403, body: '{"errors":[{"code":"DENIED","message":"read only"}]}' });
    await expect(client({ host: server.host }).pushBlob("a/b", { open: () => pieces(bytes(10), 10) }, STEP)).rejects.toThrow(
      code("REGISTRY_FORBIDDEN"),
    );
    expect(server.requests).toHaveLength(1);
  });

  test("an empty blob can be uploaded in every way", async () => {
    const server = await registry();
    const nothing = new Uint8Array(0);
    const pusher = client({ host: server.host });
    expect(await pusher.pushBlob("a/a", { open: () => pieces(nothing, 1) }, STEP)).toMatchObject({ size: 0 });
    expect(await pusher.pushBlob("b/b", { once: pieces(nothing, 1) }, STEP)).toMatchObject({ size: 0 });
    expect(await pusher.pushBlob("c/c", { open: () => pieces(nothing, 1) }, { digest: sha256(nothing), size: 0, ...STEP })).toMatchObject({
      size: 0,
    });
  });
});

import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { Transport } from "../src/http/transport.ts";
import { SKIP_BYTES_MAX } from "../src/limits.ts";
import { bytes, CALL, client, code, collect, registry } from "./helpers.ts";

const setup = async (size = 200_000) => {
  const server = await registry();
  const blob = bytes(size);
  const { digest } = server.putBlob(blob);
  return { server, blob, digest, reader: client({ host: server.host }) };
};

describe("range reads", () => {
  test("exactly the asked bytes come back, also the last ones", async () => {
    const { blob, digest, reader } = await setup();
    expect(await reader.readRange("a/b", digest, { offset: 1234, length: 5678 }, CALL)).toEqual(blob.subarray(1234, 1234 + 5678));
    expect(await reader.readRange("a/b", digest, { offset: 199_990, length: 10 }, CALL)).toEqual(blob.subarray(199_990));
    expect(await reader.readRange("a/b", digest, { offset: 5, length: 0 }, CALL)).toHaveLength(0);
  });

  test("a range past the end is REGISTRY_RANGE, never a short answer, and is not repeated", async () => {
    const { server, digest, reader } = await setup();
    await expect(reader.readRange("a/b", digest, { offset: 199_990, length: 11 }, CALL)).rejects.toThrow(code("REGISTRY_RANGE"));
    await expect(reader.readRange("a/b", digest, { offset: 200_000, length: 1 }, CALL)).rejects.toThrow(code("REGISTRY_RANGE"));
    expect(server.requests).toHaveLength(2);
  });

  test("a server that ignores Range is read up to the end of the range", async () => {
    const { server, blob, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { ignoreRange: true });
    expect(await reader.readRange("a/b", digest, { offset: 100_000, length: 1000 }, CALL)).toEqual(blob.subarray(100_000, 101_000));
    await expect(reader.readRange("a/b", digest, { offset: 199_999, length: 2 }, CALL)).rejects.toThrow(code("REGISTRY_RANGE"));
    await expect(reader.readRange("a/b", digest, { offset: SKIP_BYTES_MAX + 1, length: 2 }, CALL)).rejects.toThrow(code("REGISTRY_RANGE"));
  });

  test("another range than asked for is refused and asked for again", async () => {
    const { server, blob, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { shiftRange: 1, times: 2 });
    expect(await reader.readRange("a/b", digest, { offset: 10, length: 100 }, CALL)).toEqual(blob.subarray(10, 110));
    expect(server.requests).toHaveLength(3);
  });

  test("a connection that is cut in the header or in the body is opened again", async () => {
    const { server, blob, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 0, times: 1 });
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 5000, times: 1 });
    expect(await reader.readRange("a/b", digest, { offset: 0, length: 100_000 }, CALL)).toEqual(blob.subarray(0, 100_000));
  });

  test("a body that was cut before anybody listened is told to who comes then", async () => {
    const { server, digest } = await setup(4_000_000);
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 50_000, times: 1 });
    const answer = await new Transport({}).request({
      method: "GET",
      url: new URL(`http://${server.host}/v2/a/b/blobs/${digest}`),
      headers: {},
      tls: { caFiles: [], clientCertificates: [], skipVerify: false },
      priority: "demand",
      signal: AbortSignal.timeout(5000),
      attempt: 1,
    });
    await sleep(200); // the cut has come
    await expect(answer.each(() => true)).rejects.toThrow(code("REGISTRY_UNREACHABLE"));
  });

  test("bytes are shown as they come, and those of a connection that was cut stay as they were", async () => {
    const { server, blob, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 50_000, times: 1 });
    const into = new Uint8Array(100_000);
    const shown: Uint8Array[] = [];
    const range = { offset: 1000, length: into.length };
    const answer = await reader.readRange("a/b", digest, range, { ...CALL, into, onPart: (part) => void shown.push(part) });
    const [first, last] = [shown[0] as Uint8Array, shown.at(-1) as Uint8Array];
    // The second attempt has memory of its own.
    expect(first.buffer).toBe(into.buffer);
    expect(answer.buffer).not.toBe(into.buffer);
    expect(last).toHaveLength(range.length);
    for (const part of shown) expect(Buffer.compare(part, blob.subarray(1000, 1000 + part.length))).toBe(0);
  });

  test("an answer lands in the memory that was offered", async () => {
    const { server, blob, digest, reader } = await setup();
    for (const fault of [{}, { ignoreRange: true }]) {
      const rule = server.faults.add({ path: /blobs/ }, fault);
      const into = new Uint8Array(4321);
      expect(await reader.readRange("a/b", digest, { offset: 77, length: into.length }, { ...CALL, into })).toBe(into);
      expect(Buffer.compare(into, blob.subarray(77, 77 + into.length))).toBe(0);
      rule.remove();
    }
  });

  test("a server that stalls, in the header or in the body, ends at the deadline with REGISTRY_DEADLINE", async () => {
    const { server, digest, reader } = await setup();
    for (const fault of [{ stallMs: Number.POSITIVE_INFINITY }, { stallAfterBytes: 10 }]) {
      const rule = server.faults.add({ path: /blobs/ }, fault);
      await expect(reader.readRange("a/b", digest, { offset: 0, length: 1000 }, { deadlineMs: 150 })).rejects.toThrow(
        code("REGISTRY_DEADLINE"),
      );
      rule.remove();
    }
    expect(await reader.readRange("a/b", digest, { offset: 0, length: 1000 }, CALL)).toHaveLength(1000);
  });

  test("the caller's signal ends a read with REGISTRY_ABORTED and leaves others alone", async () => {
    const { server, blob, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { stallMs: 150 });
    const controller = new AbortController();
    const range = { offset: 0, length: 1000 };
    const [ended, other] = [
      reader.readRange("a/b", digest, range, { ...CALL, signal: controller.signal }),
      reader.readRange("a/b", digest, range, CALL),
    ];
    setTimeout(() => controller.abort(), 30);
    await expect(ended).rejects.toThrow(code("REGISTRY_ABORTED"));
    expect(await other).toEqual(blob.subarray(0, 1000));
    await expect(reader.readRange("a/b", digest, range, { ...CALL, signal: AbortSignal.abort() })).rejects.toThrow(
      code("REGISTRY_ABORTED"),
    );
  });
});

describe("answers that are not success", () => {
  test.each([
    [400, "REGISTRY_REFUSED"],
    [403, "REGISTRY_FORBIDDEN"],
    [404, "REGISTRY_NOT_FOUND"],
    [416, "REGISTRY_RANGE"],
  ])("%d is %s at once: nothing is repeated", async (status, expected) => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { status });
    await expect(reader.readRange("a/b", digest, { offset: 0, length: 1 }, CALL)).rejects.toThrow(code(expected));
    expect(server.requests).toHaveLength(1);
  });

  test.each([500, 502, 503, 504, 408])("%d is repeated and then forgotten", async (status) => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { status, times: 2 });
    expect(await reader.readRange("a/b", digest, { offset: 0, length: 1 }, CALL)).toHaveLength(1);
  });

  test("a server error that stays is REGISTRY_SERVER after the retries, with the registry's own words", async () => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { status: 500, body: '{"errors":[{"code":"UNKNOWN","message":"disk on fire"}]}' });
    const failure = await reader.readRange("a/b", digest, { offset: 0, length: 1 }, CALL).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "REGISTRY_SERVER", retryable: true, request: { status: 500, attempt: 4 } });
    expect(String(failure)).toContain("disk on fire");
    expect(server.requests).toHaveLength(4);
  });

  test("prefetch is repeated once only", async () => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { status: 500 });
    await expect(reader.readRange("a/b", digest, { offset: 0, length: 1 }, { ...CALL, priority: "prefetch" })).rejects.toThrow(
      code("REGISTRY_SERVER"),
    );
    expect(server.requests).toHaveLength(2);
  });

  test("429 waits as long as Retry-After says, and slows prefetch down", async () => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { status: 429, headers: { "retry-after": "1" }, times: 1 });
    const start = performance.now();
    expect(await reader.readRange("a/b", digest, { offset: 0, length: 1 }, CALL)).toHaveLength(1);
    expect(performance.now() - start).toBeGreaterThanOrEqual(990);
    const gate = reader.requester.transport.traffic.gate(new URL(`http://${server.host}`));
    expect(gate.prefetchShare).toBe(6);
  });

  test("a Retry-After beyond the deadline is REGISTRY_RATE_LIMITED at once, with the time in it", async () => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { status: 429, headers: { "retry-after": "3600" } });
    await expect(reader.readRange("a/b", digest, { offset: 0, length: 1 }, CALL)).rejects.toThrow(
      expect.objectContaining({ code: "REGISTRY_RATE_LIMITED", retryAfterMs: 3_600_000 }),
    );
    expect(server.requests).toHaveLength(1);
  });
});

describe("blob streams", () => {
  test("a stream that is cut again and again is taken up where it broke, and its digest holds", async () => {
    const { server, blob, digest, reader } = await setup(1_000_000);
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 150_000 });
    expect(await collect(reader.blobStream("a/b", digest, { openDeadlineMs: 5000, size: blob.length }))).toEqual(blob);
    expect(server.requests.length).toBeGreaterThanOrEqual(7);
    // What was received is not asked for again; what was still on the way may be.
    expect(server.requests.slice(1).every(({ range }) => /^bytes=\d+-$/.test(range ?? ""))).toBe(true);
  });

  test("resuming over a server that ignores Range skips what is there already", async () => {
    const { server, blob, digest, reader } = await setup(1_000_000);
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 400_000, times: 1 });
    server.faults.add({ path: /blobs/ }, { ignoreRange: true });
    expect(await collect(reader.blobStream("a/b", digest, { openDeadlineMs: 5000 }))).toEqual(blob);
  });

  test("other bytes than the digest promises are REGISTRY_DIGEST", async () => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { corrupt: true });
    await expect(collect(reader.blobStream("a/b", digest, { openDeadlineMs: 5000 }))).rejects.toThrow(code("REGISTRY_DIGEST"));
  });

  test("more bytes than the descriptor names are refused before they are handed on", async () => {
    const { digest, reader } = await setup();
    await expect(collect(reader.blobStream("a/b", digest, { openDeadlineMs: 5000, size: 1000 }))).rejects.toThrow(code("REGISTRY_DIGEST"));
  });

  test("a stream from an offset gives the rest", async () => {
    const { blob, digest, reader } = await setup();
    expect(await collect(reader.blobStream("a/b", digest, { openDeadlineMs: 5000, offset: 150_000 }))).toEqual(blob.subarray(150_000));
  });

  test("a server without progress ends the stream instead of turning for ever", async () => {
    const { server, digest, reader } = await setup();
    server.faults.add({ path: /blobs/ }, { resetAfterBytes: 0 });
    await expect(collect(reader.blobStream("a/b", digest, { openDeadlineMs: 700 }))).rejects.toMatchObject({ name: "RegistryError" });
  });

  test("leaving a stream early closes its connection, and the client stays usable", async () => {
    const { digest, reader } = await setup(5_000_000);
    for await (const piece of reader.blobStream("a/b", digest, { openDeadlineMs: 5000 })) {
      expect(piece.length).toBeGreaterThan(0);
      break;
    }
    expect(await reader.blobSize("a/b", digest, CALL)).toBe(5_000_000);
  });
});

describe("manifests", () => {
  test("a tag is resolved by HEAD alone, and its bytes are verified", async () => {
    const server = await registry();
    const image = server.putImage("a/b", "v1", [bytes(10)]);
    const reader = client({ host: server.host });
    const descriptor = await reader.resolve("a/b", "v1", CALL);
    expect(descriptor).toEqual({ mediaType: image.mediaType, digest: image.digest, size: image.size });
    expect(server.requests.map(({ method }) => method)).toEqual(["HEAD"]);
    expect(JSON.parse(Buffer.from(await reader.manifest("a/b", descriptor, CALL)).toString())).toEqual(image.manifest);
  });

  test("where HEAD is refused the manifest itself is read and hashed", async () => {
    const server = await registry();
    const image = server.putImage("a/b", "v1", [bytes(10)]);
    server.faults.add({ method: "HEAD" }, { status: 405 });
    expect((await client({ host: server.host }).resolve("a/b", "v1", CALL)).digest).toBe(image.digest);
  });

  test("a manifest whose bytes were changed is REGISTRY_DIGEST", async () => {
    const server = await registry();
    const image = server.putImage("a/b", "v1", [bytes(10)]);
    server.faults.add({ method: "GET", path: /manifests/ }, { corrupt: true });
    await expect(client({ host: server.host }).manifest("a/b", image, { deadlineMs: 3000 })).rejects.toThrow(code("REGISTRY_DIGEST"));
  });

  test("an absent tag is REGISTRY_NOT_FOUND", async () => {
    const server = await registry();
    await expect(client({ host: server.host }).resolve("a/b", "nope", CALL)).rejects.toThrow(code("REGISTRY_NOT_FOUND"));
  });
});

test("a registry that is not there is REGISTRY_UNREACHABLE and names the host", async () => {
  const server = await registry();
  const { host } = server;
  await server[Symbol.asyncDispose]();
  const failure = await client({ host })
    .resolve("a/b", "v1", CALL)
    .catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "REGISTRY_UNREACHABLE", retryable: true });
  expect(String(failure)).toContain(host);
});

test("a closed client refuses work, ends what runs, and closes twice", async () => {
  const server = await registry();
  const { digest } = server.putBlob(bytes(10));
  server.faults.add({ path: /blobs/ }, { stallMs: Number.POSITIVE_INFINITY });
  const reader = client({ host: server.host });
  const running = reader.blobSize("a/b", digest, CALL);
  setTimeout(() => void reader[Symbol.asyncDispose](), 30);
  await expect(running).rejects.toThrow(code("REGISTRY_CLOSED"));
  await reader[Symbol.asyncDispose]();
  await expect(reader.blobSize("a/b", digest, CALL)).rejects.toThrow(code("REGISTRY_CLOSED"));
});

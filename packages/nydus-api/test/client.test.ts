import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type RequestListener, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { NydusApiError, NydusdClient } from "../src/index.ts";

let directory: string;
let server: Server | undefined;
let socketPath: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "nydus-api-"));
  socketPath = join(directory, "api.sock");
});

afterEach(async () => {
  server?.closeAllConnections();
  server?.close();
  server = undefined;
  await rm(directory, { recursive: true, force: true });
});

async function serve(listener: RequestListener): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  server = createServer(listener).listen(socketPath, resolve);
  await promise;
}

async function failure(call: Promise<unknown>): Promise<NydusApiError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(NydusApiError);
  return error as NydusApiError;
}

test("a mount sends the whole command as JSON and percent-encodes the mountpoint", async () => {
  let seen = "";
  await serve(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    seen = `${request.method} ${request.url} ${Buffer.concat(parts)}`;
    response.writeHead(204).end();
  });
  await new NydusdClient(socketPath).mount("/a b&c", { source: "/image.boot", fs_type: "rafs", config: "{}" });
  expect(seen).toBe('POST /api/v1/mount?mountpoint=%2Fa%20b%26c {"source":"/image.boot","fs_type":"rafs","config":"{}"}');
});

test("a refusal carries the daemon's own code, words and status", async () => {
  await serve((_request, response) => {
    response.writeHead(500, { "Content-Type": "application/json" }).end('{"code":"MOUNT_EXISTS","message":"/a is taken"}');
  });
  const error = await failure(new NydusdClient(socketPath).mount("/a", { source: "x", fs_type: "rafs", config: "" }));
  expect(error).toMatchObject({ code: "API_REFUSED", status: 500, daemonCode: "MOUNT_EXISTS", daemonMessage: "/a is taken" });
});

test("a missing socket is API_UNREACHABLE and the message names it", async () => {
  const error = await failure(new NydusdClient(socketPath).info());
  expect(error.code).toBe("API_UNREACHABLE");
  expect(error.message).toContain(socketPath);
});

test("a daemon that hangs is API_TIMEOUT", async () => {
  await serve(() => undefined);
  expect((await failure(new NydusdClient(socketPath, { timeoutMs: 50 }).info())).code).toBe("API_TIMEOUT");
});

test("a connection cut before the answer is API_UNREACHABLE", async () => {
  await serve((request) => request.socket.destroy());
  expect((await failure(new NydusdClient(socketPath).info())).code).toBe("API_UNREACHABLE");
});

test("an aborted call is API_ABORTED, whether it was sent or not", async () => {
  await serve(() => undefined);
  const client = new NydusdClient(socketPath);
  expect((await failure(client.info({ signal: AbortSignal.abort() }))).code).toBe("API_ABORTED");
  expect((await failure(client.info({ signal: AbortSignal.timeout(20) }))).code).toBe("API_ABORTED");
});

test("an answer that is no JSON, or another document, is API_PROTOCOL and names the key", async () => {
  let body = "<html>";
  await serve((_request, response) => response.end(body));
  const client = new NydusdClient(socketPath);
  expect((await failure(client.info())).code).toBe("API_PROTOCOL");
  body = '{"version":{}}';
  const error = await failure(client.info());
  expect(error.code).toBe("API_PROTOCOL");
  expect(error.message).toContain("version.package_ver");
});

test("no request in flight (204) reads as an empty list", async () => {
  await serve((_request, response) => response.writeHead(204).end());
  expect(await new NydusdClient(socketPath).inflight()).toEqual([]);
});

test("the info of the original daemon is read, unknown keys and all", async () => {
  await serve((_request, response) =>
    response.end('{"version":{"package_ver":"v2.4.4","later":1},"id":null,"supervisor":null,"state":"RUNNING","backend_collection":{}}'),
  );
  expect(await new NydusdClient(socketPath).info()).toMatchObject({ state: "RUNNING", backend_collection: {} });
});

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { sha256 } from "../digest.ts";
import { type TestAuth, TestTokens } from "./auth.ts";
import { type Fault, Faults } from "./faults.ts";
import { Store } from "./store.ts";

export interface TestRegistryOptions {
  /** 0 (default): any free port. */
  readonly port?: number;
  readonly hostname?: string;
  /** An OCI layout folder instead of memory. */
  readonly directory?: string;
  readonly auth?: TestAuth;
  /** Serve TLS. */
  readonly tls?: { readonly key: string; readonly cert: string; readonly ca?: string; readonly requestCert?: boolean };
  /** Requests kept in `requests`; counters go on beyond it. */
  readonly requestLogMax?: number;
  /** `GET /counters` and `DELETE /counters` over HTTP, for a registry in another process. */
  readonly serveCounters?: boolean;
}

/** One request as it was answered. `bytes` counts the body that left this process. */
export interface LoggedRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  readonly authorized: boolean;
  readonly headers: IncomingMessage["headers"];
  status: number;
  bytes: number;
}

/**
 * A whole registry in the process: pull, push, ranges, tokens, redirects, and faults to order. For tests and benchmarks only: uploads are
 * kept in memory and nothing is limited.
 */
export class TestRegistry {
  readonly store: Store;
  readonly faults = new Faults();
  readonly tokens: TestTokens;
  readonly requests: LoggedRequest[] = [];
  /** Body bytes sent and requests answered since the start or the last `resetCounters`. */
  counters = { bytes: 0, requests: 0, blobBytes: 0, blobRequests: 0 };
  readonly #server: Server;
  readonly #logMax: number;
  readonly #serveCounters: boolean;

  private constructor(options: TestRegistryOptions) {
    this.store = new Store(options.directory);
    this.tokens = new TestTokens(options.auth ?? { kind: "none" });
    this.#logMax = options.requestLogMax ?? 100_000;
    this.#serveCounters = options.serveCounters === true;
    const handler = (request: IncomingMessage, response: ServerResponse): void => {
      this.#answer(request, response).catch(() => response.destroy());
    };
    this.#server =
      options.tls === undefined
        ? createServer(handler)
        : createTlsServer({ ...options.tls, rejectUnauthorized: options.tls.requestCert === true }, handler);
    this.#server.keepAliveTimeout = 60_000;
  }

  static async start(options: TestRegistryOptions = {}): Promise<TestRegistry> {
    const registry = new TestRegistry(options);
    await new Promise<void>((resolve, reject) => {
      registry.#server.once("error", reject);
      registry.#server.listen(options.port ?? 0, options.hostname ?? "127.0.0.1", resolve);
    });
    return registry;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** `127.0.0.1:PORT` */
  get host(): string {
    const { address } = this.#server.address() as AddressInfo;
    return `${address === "0.0.0.0" || address === "::" ? "127.0.0.1" : address}:${this.port}`;
  }

  putBlob(bytes: Uint8Array, repository?: string): { digest: string; size: number } {
    return { digest: this.store.putBlob(bytes, repository), size: bytes.length };
  }

  /** A manifest of these layers under a tag; bytes of config and layers are stored too. */
  putImage(repository: string, tag: string, layers: readonly Uint8Array[], options: { layerMediaType?: string; config?: unknown } = {}) {
    const config = Buffer.from(
      JSON.stringify(options.config ?? { architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [] } }),
    );
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...this.putBlob(config, repository) },
      layers: layers.map((bytes) => ({
        mediaType: options.layerMediaType ?? "application/vnd.oci.image.layer.v1.tar+gzip",
        ...this.putBlob(bytes, repository),
      })),
    };
    const bytes = Buffer.from(JSON.stringify(manifest));
    const digest = this.store.putManifest(repository, tag, bytes, manifest.mediaType);
    return { digest, size: bytes.length, mediaType: manifest.mediaType, manifest };
  }

  resetCounters(): void {
    this.counters = { bytes: 0, requests: 0, blobBytes: 0, blobRequests: 0 };
    this.requests.length = 0;
  }

  /** Cuts all connections, as a dying registry does, and stops listening. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? "/";
    const url = new URL(path, "http://registry");
    const logged: LoggedRequest = {
      method: request.method ?? "",
      path,
      range: request.headers.range,
      authorized: request.headers.authorization !== undefined,
      headers: request.headers,
      status: 0,
      bytes: 0,
    };
    if (this.#serveCounters && path === "/counters") {
      if (request.method === "DELETE") this.resetCounters();
      return void response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(this.counters));
    }
    if (this.requests.length < this.#logMax) this.requests.push(logged);
    this.counters.requests++;
    const blob = url.pathname.includes("/blobs/");
    if (blob) this.counters.blobRequests++;
    const write = response.write.bind(response);
    const end = response.end.bind(response);
    const count = (piece: unknown): void => {
      const bytes = typeof piece === "string" ? Buffer.byteLength(piece) : piece instanceof Uint8Array ? piece.length : 0;
      logged.bytes += bytes;
      this.counters.bytes += bytes;
      if (blob) this.counters.blobBytes += bytes;
    };
    response.write = ((piece: never, ...rest: never[]) => {
      count(piece);
      return write(piece, ...rest);
    }) as typeof response.write;
    response.end = ((piece: never, ...rest: never[]) => {
      count(piece);
      return end(piece, ...rest);
    }) as typeof response.end;
    response.once("close", () => {
      logged.status = response.statusCode;
    });

    const fault = this.faults.take(request.method ?? "", path, request.headers.range !== undefined);
    if (fault?.stallMs !== undefined) {
      if (!Number.isFinite(fault.stallMs)) return void request.resume();
      await new Promise((resolve) => setTimeout(resolve, fault.stallMs));
    }
    await fault?.hold?.({ path, range: request.headers.range });
    if (fault?.resetAfterBytes === 0) return void request.socket.destroy();
    if (fault?.status !== undefined) {
      request.resume();
      response.writeHead(fault.status, { ...fault.headers });
      return void response.end(fault.body ?? "");
    }
    if (fault?.redirect !== undefined) {
      request.resume();
      response.writeHead(fault.redirect.status ?? 307, { location: fault.redirect.to.replace("{path}", path) });
      return void response.end();
    }
    if (url.pathname === "/token") {
      const body = await readBody(request);
      return this.tokens.serve(request, response, url, body.toString());
    }
    await this.#route(request, response, url, fault);
  }

  async #route(request: IncomingMessage, response: ServerResponse, url: URL, fault: Fault | undefined): Promise<void> {
    const refuse = (status: number, code: string): void => {
      request.resume();
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify({ errors: [{ code, message: code.toLowerCase().replaceAll("_", " ") }] }));
    };
    const match = /^\/v2\/(?:(.+?)\/(manifests|blobs|tags|referrers)\/(.+))?$/.exec(url.pathname);
    if (match === null) return refuse(404, "NOT_FOUND");
    const [, repository = "", kind = "", rest = ""] = match;
    const writes = request.method !== "GET" && request.method !== "HEAD";
    const from = url.searchParams.get("from");
    const scope = repository === "" ? "" : `repository:${repository}:pull${writes ? ",push" : ""}`;
    const challenge = this.tokens.challenge(
      request,
      from === null ? scope : `${scope} repository:${from}:pull`,
      request.headers.host ?? this.host,
    );
    if (challenge !== undefined) {
      response.setHeader("www-authenticate", challenge);
      return refuse(401, "UNAUTHORIZED");
    }
    if (kind === "") return void response.writeHead(200, { "content-type": "application/json" }).end("{}");
    if (kind === "tags")
      return void response
        .writeHead(200, { "content-type": "application/json" })
        .end(JSON.stringify({ name: repository, tags: this.store.tags(repository) }));
    if (kind === "referrers") return refuse(404, "NOT_FOUND");
    if (kind === "blobs" && rest.startsWith("uploads/"))
      return this.#upload(request, response, url, repository, rest.slice("uploads/".length), refuse);
    if (kind === "manifests" && request.method === "PUT") {
      const bytes = await readBody(request);
      const digest = this.store.putManifest(repository, rest, bytes, request.headers["content-type"] ?? "");
      if (rest.includes(":") && rest !== digest) return refuse(400, "DIGEST_INVALID");
      return void response.writeHead(201, { "docker-content-digest": digest, location: `/v2/${repository}/manifests/${digest}` }).end();
    }
    if (request.method !== "GET" && request.method !== "HEAD") return refuse(405, "UNSUPPORTED");
    if (kind === "manifests") {
      const found = this.store.manifest(repository, rest);
      if (found === undefined) return refuse(404, "MANIFEST_UNKNOWN");
      return this.#send(
        request,
        response,
        found.digest,
        found.size,
        { "content-type": found.mediaType, "docker-content-digest": found.digest },
        fault,
      );
    }
    const size = this.store.has(rest, repository) ? this.store.size(rest) : undefined;
    if (size === undefined) return refuse(404, "BLOB_UNKNOWN");
    return this.#send(
      request,
      response,
      rest,
      size,
      { "content-type": "application/octet-stream", "accept-ranges": "bytes", "docker-content-digest": rest },
      fault,
    );
  }

  async #send(
    request: IncomingMessage,
    response: ServerResponse,
    digest: string,
    size: number,
    headers: Record<string, string>,
    fault: Fault | undefined,
  ): Promise<void> {
    const asked = /^bytes=(\d+)-(\d*)$/.exec(fault?.ignoreRange === true ? "" : (request.headers.range ?? ""));
    let [start, end] = [0, size - 1];
    if (asked !== null) {
      start = Number(asked[1]);
      end = asked[2] === "" ? size - 1 : Math.min(Number(asked[2]), size - 1);
      if (start >= size || end < start) return void response.writeHead(416, { "content-range": `bytes */${size}` }).end();
      if (fault?.shiftRange !== undefined) [start, end] = [start + fault.shiftRange, Math.min(end + fault.shiftRange, size - 1)];
      headers["content-range"] = `bytes ${start}-${end}/${size}`;
    }
    const length = end - start + 1;
    response.writeHead(asked === null ? 200 : 206, { ...headers, "content-length": String(length) });
    if (request.method === "HEAD") return void response.end();
    const limit = fault?.resetAfterBytes ?? fault?.stallAfterBytes;
    const content = this.store.read(digest, start, limit === undefined ? end : Math.min(end, start + limit - 1));
    if (limit === undefined && !fault?.corrupt) {
      if (content instanceof Readable) return pipeline(content, response);
      return void response.end(content);
    }
    const bytes = content instanceof Readable ? Buffer.concat(await content.toArray()) : Buffer.from(content);
    if (fault?.corrupt && bytes.length > 0) bytes[0] = (bytes[0] as number) ^ 0xff;
    if (limit === undefined) return void response.end(bytes);
    await new Promise<void>((resolve) => response.write(bytes, () => resolve()));
    if (fault?.resetAfterBytes !== undefined) setTimeout(() => request.socket.destroy(), 5);
  }

  async #upload(
    request: IncomingMessage,
    response: ServerResponse,
    url: URL,
    repository: string,
    id: string,
    refuse: (status: number, code: string) => void,
  ): Promise<void> {
    const accepted = (status: number, upload: string, size: number): void => {
      response.writeHead(status, {
        location: `/v2/${repository}/blobs/uploads/${upload}?state=secret-${size}`,
        range: `0-${Math.max(0, size - 1)}`,
        "content-length": "0",
      });
      response.end();
    };
    if (request.method === "POST") {
      request.resume();
      const [mount, from] = [url.searchParams.get("mount"), url.searchParams.get("from")];
      if (mount !== null && from !== null && this.store.has(mount, from)) {
        this.store.own(repository, mount);
        response.writeHead(201, { location: `/v2/${repository}/blobs/${mount}`, "docker-content-digest": mount });
        return void response.end();
      }
      return accepted(202, this.store.newUpload(repository), 0);
    }
    const upload = this.store.uploads.get(id);
    if (upload === undefined) return refuse(404, "BLOB_UPLOAD_UNKNOWN");
    if (request.method === "DELETE") {
      this.store.uploads.delete(id);
      return void response.writeHead(204).end();
    }
    if (request.method === "GET") return accepted(204, id, upload.size);
    const range = /^(\d+)-(\d+)$/.exec(request.headers["content-range"] ?? "");
    if (range !== null && Number(range[1]) !== upload.size) {
      response.setHeader("range", `0-${Math.max(0, upload.size - 1)}`);
      return refuse(416, "BLOB_UPLOAD_INVALID");
    }
    const bytes = await readBody(request);
    upload.parts.push(bytes);
    upload.size += bytes.length;
    if (request.method === "PATCH") return accepted(202, id, upload.size);
    this.store.uploads.delete(id);
    const content = Buffer.concat(upload.parts);
    const digest = sha256(content);
    if (digest !== url.searchParams.get("digest")) return refuse(400, "DIGEST_INVALID");
    this.store.putBlob(content, repository);
    response.writeHead(201, { location: `/v2/${repository}/blobs/${digest}`, "docker-content-digest": digest });
    response.end();
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

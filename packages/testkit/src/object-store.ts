import { createHash, createHmac, randomBytes } from "node:crypto";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import aws4 from "aws4"; // names of this CommonJS package are not seen by Node itself, only by vitest

export interface TestObjectStoreOptions {
  readonly kind: "s3" | "oss";
  readonly bucket: string;
  readonly region?: string;
  readonly accessKeyId: string;
  readonly accessKeySecret: string;
  /** OSS: what stands behind the bucket's name in `Host`; a request by another host is one by path. */
  readonly endpoint?: string;
}

export interface ObjectRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  status: number;
}

/** What goes wrong with a request instead of its answer. */
export interface ObjectFault {
  readonly status?: number;
  readonly body?: string;
  readonly encoding?: "latin1";
  readonly headers?: Readonly<Record<string, string>>;
  /** No answer, as long as the client waits. */
  readonly silent?: boolean;
  /** The request is carried out, then the connection is cut without an answer. */
  readonly cutAfter?: boolean;
  /** The first byte of an object is another. */
  readonly corrupt?: boolean;
  /** The connection ends after so many bytes of an object. */
  readonly cutAfterBytes?: number;
}

/**
 * An object store in the process that checks what real ones check: the signature of each request (with a library that no program here
 * uses, for s3), its time, the digest of each body, the tags of joined parts. Objects are kept in memory.
 */
export class TestObjectStore {
  readonly objects = new Map<string, Buffer>();
  /** Multipart uploads that were neither completed nor aborted. */
  readonly uploads = new Map<string, { readonly key: string; readonly parts: Map<number, Buffer> }>();
  readonly requests: ObjectRequest[] = [];
  /** Asked about each request, before anything is checked. */
  fault: ((request: ObjectRequest) => ObjectFault | undefined) | undefined;
  readonly #options: TestObjectStoreOptions;
  readonly #server: Server;

  private constructor(options: TestObjectStoreOptions) {
    this.#options = options;
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch(() => response.destroy());
    });
  }

  static async start(options: TestObjectStoreOptions): Promise<TestObjectStore> {
    const store = new TestObjectStore(options);
    await new Promise<void>((done) => store.#server.listen(0, "127.0.0.1", done));
    return store;
  }

  /** `127.0.0.1:PORT` */
  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((done) => this.#server.close(() => done()));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const logged: ObjectRequest = { method: request.method ?? "", path: request.url ?? "", headers: request.headers, status: 0 };
    this.requests.push(logged);
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const fault = this.fault?.(logged);
    if (fault?.silent) return;
    const answer: Answer =
      fault?.status === undefined
        ? this.#answer(logged, Buffer.concat(pieces))
        : { status: fault.status, body: Buffer.from(fault.body ?? "", fault.encoding), headers: { ...fault.headers } };
    if (fault?.cutAfter) return void response.destroy();
    logged.status = answer.status;
    const body = Buffer.from(answer.body);
    if (fault?.corrupt) body[0] = (body[0] ?? 0) ^ 0xff;
    response.writeHead(answer.status, { "content-length": String(body.length), ...answer.headers });
    if (request.method === "HEAD") return void response.end();
    if (fault?.cutAfterBytes === undefined) return void response.end(body);
    response.write(body.subarray(0, fault.cutAfterBytes), () => response.destroy());
  }

  #answer(request: ObjectRequest, body: Buffer): Answer {
    const url = new URL(request.path, "http://store");
    const { bucket, endpoint } = this.#options;
    const byHost = endpoint !== undefined && request.headers.host === `${bucket}.${endpoint}`;
    const path = byHost ? `/${bucket}${url.pathname}` : url.pathname;
    const refusal = this.#refusal(request, url, decodeURIComponent(path), body);
    if (refusal !== undefined) return refusal;
    if (!path.startsWith(`/${bucket}/`)) return failure(404, "NoSuchBucket", "The specified bucket does not exist");
    const key = decodeURIComponent(path.slice(bucket.length + 2));
    const { method, headers } = request;
    const upload = this.uploads.get(url.searchParams.get("uploadId") ?? "");
    if (method === "GET" || method === "HEAD") return this.#read(key, headers.range);
    if (method === "POST" && url.searchParams.has("uploads")) {
      const id = `${randomBytes(6).toString("hex")}/&+`;
      this.uploads.set(id, { key, parts: new Map() });
      return xml(200, `<InitiateMultipartUploadResult><UploadId>${id.replace("&", "&amp;")}</UploadId></InitiateMultipartUploadResult>`);
    }
    if (url.searchParams.has("uploadId")) {
      const id = url.searchParams.get("uploadId")!;
      if (upload?.key !== key) return failure(404, "NoSuchUpload", "The specified upload does not exist");
      if (method === "DELETE") {
        this.uploads.delete(id);
        return { status: 204, body: Buffer.alloc(0), headers: {} };
      }
      if (method === "PUT") {
        upload.parts.set(Number(url.searchParams.get("partNumber")), body);
        return { status: 200, body: Buffer.alloc(0), headers: { etag: tagOf(body) } };
      }
      return this.#complete(id, upload, body.toString());
    }
    if (method === "PUT") {
      this.objects.set(key, body);
      return { status: 200, body: Buffer.alloc(0), headers: { etag: tagOf(body) } };
    }
    return failure(405, "MethodNotAllowed", "The specified method is not allowed");
  }

  #read(key: string, range: string | undefined): Answer {
    const object = this.objects.get(key);
    if (object === undefined) return failure(404, "NoSuchKey", "The specified key does not exist.");
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? "") ?? [];
    if (first === undefined) return { status: 200, body: object, headers: {} };
    if (Number(first) >= object.length) return failure(416, "InvalidRange", "The requested range cannot be satisfied.");
    const end = Math.min(object.length, last === "" ? object.length : Number(last) + 1);
    const headers = { "content-range": `bytes ${first}-${end - 1}/${object.length}` };
    return { status: 206, body: object.subarray(Number(first), end), headers };
  }

  #complete(id: string, upload: { readonly key: string; readonly parts: Map<number, Buffer> }, text: string): Answer {
    const listed = [...text.matchAll(/<Part><PartNumber>(\d+)<\/PartNumber><ETag>([^<]*)<\/ETag><\/Part>/g)];
    const parts: Buffer[] = [];
    for (const [, number, tag] of listed) {
      const part = upload.parts.get(Number(number));
      if (part === undefined || tagOf(part) !== tag!.replaceAll("&quot;", '"'))
        return failure(400, "InvalidPart", "One or more of the specified parts could not be found.");
      parts.push(part);
    }
    if (parts.length === 0) return failure(400, "MalformedXML", "The XML you provided was not well-formed");
    this.objects.set(upload.key, Buffer.concat(parts));
    this.uploads.delete(id);
    return xml(200, "<CompleteMultipartUploadResult/>");
  }

  /** undefined: the request is who it says it is, and its body came whole. */
  #refusal(request: ObjectRequest, url: URL, resource: string, body: Buffer): Answer | undefined {
    const { kind, accessKeyId } = this.#options;
    const authorization = request.headers.authorization ?? "";
    if (authorization === "") return failure(403, "AccessDenied", "Access Denied");
    const id = (kind === "s3" ? /Credential=([^/]+)\// : /^OSS ([^:]+):/).exec(authorization)?.[1];
    if (id !== accessKeyId) return failure(403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records.");
    const expected = kind === "s3" ? this.#s3Authorization(request) : this.#ossAuthorization(request, url, resource);
    if (authorization !== expected) {
      const message = "The request signature we calculated does not match the signature you provided.";
      return failure(403, "SignatureDoesNotMatch", message, `<StringToSign>${expected}</StringToSign>`);
    }
    const date = String(request.headers["x-amz-date"] ?? request.headers["date"]);
    const at = Date.parse(date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3T$4:$5:$6Z"));
    if (!(Math.abs(at - Date.now()) < 900_000))
      return failure(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.");
    const sha256 = request.headers["x-amz-content-sha256"];
    if (kind === "s3" && sha256 !== createHash("sha256").update(body).digest("hex"))
      return failure(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.");
    const md5 = request.headers["content-md5"];
    if (md5 !== undefined && md5 !== createHash("md5").update(body).digest("base64"))
      return failure(400, "InvalidDigest", "The Content-MD5 you specified was invalid.");
    return undefined;
  }

  #s3Authorization({ method, path, headers }: ObjectRequest): string {
    const { region = "us-east-1", accessKeyId, accessKeySecret: secretAccessKey } = this.#options;
    const names = /SignedHeaders=([^,]+)/.exec(headers.authorization ?? "")?.[1]?.split(";") ?? [];
    const signed = Object.fromEntries(names.map((name) => [name, String(headers[name] ?? "")]));
    const extraHeadersToInclude = Object.fromEntries(names.map((name) => [name, true]));
    const request = { service: "s3", region, method, path, headers: signed, extraHeadersToInclude } as const;
    return aws4.sign(request, { accessKeyId, secretAccessKey }).headers["Authorization"]!;
  }

  #ossAuthorization({ method, headers }: ObjectRequest, url: URL, resource: string): string {
    const own = Object.entries(headers).filter(([name]) => name.startsWith("x-oss-"));
    const lines = own.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => `${name}:${String(value)}\n`);
    const query = [...url.searchParams]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, value]) => (value === "" ? name : `${name}=${value}`));
    const parts = [method, headers["content-md5"] ?? "", headers["content-type"] ?? "", headers.date ?? ""];
    const text = `${parts.join("\n")}\n${lines.join("")}${resource}${query.length === 0 ? "" : `?${query.join("&")}`}`;
    const signature = createHmac("sha1", this.#options.accessKeySecret).update(text).digest("base64");
    return `OSS ${this.#options.accessKeyId}:${signature}`;
  }
}

interface Answer {
  readonly status: number;
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
}

const tagOf = (bytes: Buffer): string => `"${createHash("md5").update(bytes).digest("hex")}"`;

const xml = (status: number, text: string): Answer => ({
  status,
  body: Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>\n${text}`),
  headers: { "content-type": "application/xml" },
});

const failure = (status: number, code: string, message: string, more = ""): Answer =>
  xml(status, `<Error><Code>${code}</Code><Message>${message}</Message>${more}</Error>`);

import { type HostConfig, isLoopback, originHost } from "@nydus-ts/mirror-config";
import { type Landing, type Range, rangeHeader, readRange } from "./blob-read.ts";
import { type BlobStreamOptions, streamBlob } from "./blob-stream.ts";
import type { Credentials } from "./credentials/credentials.ts";
import { type Descriptor, MANIFEST_ACCEPT } from "./descriptor.ts";
import { sha256, verifyDigest } from "./digest.ts";
import { RegistryError } from "./errors.ts";
import type { Exchange } from "./exchange.ts";
import { Deadline } from "./http/deadline.ts";
import type { Priority } from "./http/gate.ts";
import type { ProxyOptions } from "./http/proxy.ts";
import type { HostTraffic } from "./http/traffic.ts";
import type { Answer } from "./http/transport.ts";
import { ANSWER_BYTES_MAX, MANIFEST_BYTES_MAX } from "./limits.ts";
import { mountBlob, type PushBlobOptions, type PushSource, pushBlob } from "./push/push-blob.ts";
import { checkDigest, serverOf } from "./reference.ts";
import { Requester } from "./requester.ts";

export interface RegistryClientOptions {
  /** The registry's name, `docker.io` or `host[:port]`. */
  readonly host: string;
  /** Default: http for a loopback address, else https. */
  readonly scheme?: "http" | "https";
  /** Complete list in order (mirrors, then the registry), from `@nydus-ts/mirror-config`; replaces `scheme`, `caFiles`, `skipVerify`. */
  readonly hosts?: readonly HostConfig[];
  readonly credentials?: Credentials;
  readonly caFiles?: readonly string[];
  /** Any certificate is accepted, and a host that does not speak TLS is asked in plain HTTP. */
  readonly skipVerify?: boolean;
  readonly proxy?: ProxyOptions;
  readonly connectTimeoutMs?: number;
  /** Longest silence on a connection. */
  readonly timeoutMs?: number;
  readonly retryLimit?: number;
  readonly rewriteRedirect?: (target: URL) => URL;
  readonly requestsPerHostMax?: number;
  readonly traffic?: HostTraffic;
  readonly now?: () => number;
  readonly random?: () => number;
}

/** Of one call. `deadlineMs` covers everything: waiting, tokens, all hosts, all attempts. */
export interface CallOptions {
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  readonly priority?: Priority;
  /** Fires when somebody begins to wait for what `prefetch` was asked for. */
  readonly demanded?: AbortSignal;
  /** Added to the request itself (not to token requests). */
  readonly headers?: Readonly<Record<string, string>>;
  /** Added while the request goes through the proxy. */
  readonly proxyHeaders?: Readonly<Record<string, string>>;
}

/** One registry, with its mirrors. Connections and tokens are shared by all calls; dispose it to close them. */
export class RegistryClient {
  readonly requester: Requester;
  readonly host: string;

  /** @throws RegistryError REGISTRY_CONFIG for CA files that cannot be used */
  constructor(options: RegistryClientOptions) {
    this.host = options.host;
    const server = serverOf(options.host);
    const scheme = options.scheme ?? (isLoopback(server) ? "http" : "https");
    const { host: _, scheme: __, hosts, caFiles, skipVerify, timeoutMs, ...rest } = options;
    this.requester = new Requester({
      ...rest,
      registryHost: options.host,
      hosts: hosts ?? [originHost(server, scheme, { caFiles: caFiles ?? [], skipVerify: skipVerify ?? false })],
      ...(timeoutMs === undefined ? {} : { idleTimeoutMs: timeoutMs }),
    });
  }

  /**
   * What a tag or digest stands for: one HEAD, or a GET where the registry's HEAD does not name the digest.
   *
   * @throws RegistryError REGISTRY_NOT_FOUND, REGISTRY_UNAUTHORIZED, REGISTRY_DIGEST …
   */
  async resolve(repository: string, reference: string, options: CallOptions): Promise<Descriptor> {
    const byDigest = reference.includes(":") ? checkDigest(reference) : undefined;
    const what = `resolving ${this.host}/${repository}${byDigest === undefined ? ":" : "@"}${reference}`;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    const head = await this.#perform(
      what,
      "HEAD",
      `/${repository}/manifests/${reference}`,
      repository,
      "resolve",
      options,
      deadline,
      [400, 404, 405],
      async (answer) => {
        const digest = byDigest ?? answer.header("docker-content-digest");
        const size = Number(answer.header("content-length") ?? Number.NaN);
        const mediaType = answer.header("content-type")?.split(";")[0]?.trim();
        if (
          answer.status !== 200 ||
          digest === undefined ||
          !/^sha(256|512):[0-9a-f]+$/.test(digest) ||
          !Number.isSafeInteger(size) ||
          size <= 0 ||
          mediaType === undefined
        )
          return undefined;
        return { mediaType, digest, size };
      },
    );
    if (head !== undefined) return head;
    return await this.#perform(
      what,
      "GET",
      `/${repository}/manifests/${reference}`,
      repository,
      "resolve",
      options,
      deadline,
      [],
      async (answer) => {
        const bytes = await readAll(answer, MANIFEST_BYTES_MAX, what);
        const digest = byDigest ?? sha256(bytes);
        verifyDigest(bytes, digest, what);
        return { mediaType: mediaTypeOf(answer, bytes), digest, size: bytes.length };
      },
    );
  }

  /**
   * The bytes of a manifest or index, verified: what does not match `descriptor.digest` is refused and asked from the next host.
   *
   * @throws RegistryError REGISTRY_DIGEST, REGISTRY_TOO_LARGE, REGISTRY_NOT_FOUND …
   */
  async manifest(repository: string, descriptor: Pick<Descriptor, "digest">, options: CallOptions): Promise<Uint8Array> {
    const digest = checkDigest(descriptor.digest);
    const what = `reading manifest ${this.host}/${repository}@${digest}`;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    return await this.#perform(
      what,
      "GET",
      `/${repository}/manifests/${digest}`,
      repository,
      "pull",
      options,
      deadline,
      [],
      async (answer) => {
        const bytes = await readAll(answer, MANIFEST_BYTES_MAX, what);
        verifyDigest(bytes, digest, what);
        return bytes;
      },
    );
  }

  /** Tags and digests of manifests whose `subject` is `digest`, as the index the registry answers; undefined if it knows no referrers. */
  async referrers(repository: string, digest: string, options: CallOptions & { artifactType?: string }): Promise<Uint8Array | undefined> {
    const what = `listing referrers of ${this.host}/${repository}@${checkDigest(digest)}`;
    const query = options.artifactType === undefined ? "" : `?artifactType=${encodeURIComponent(options.artifactType)}`;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    return await this.#perform(
      what,
      "GET",
      `/${repository}/referrers/${digest}${query}`,
      repository,
      "resolve",
      options,
      deadline,
      [404, 400, 405],
      async (answer) => (answer.status === 200 ? readAll(answer, MANIFEST_BYTES_MAX, what) : undefined),
    );
  }

  /** Whether the registry is there and lets this account in: GET /v2/. */
  async ping(options: CallOptions): Promise<void> {
    using deadline = new Deadline(options.deadlineMs, options.signal);
    await this.requester.perform(
      {
        what: `asking ${this.host} whether it is a registry`,
        method: "GET",
        path: "/",
        scopes: [],
        priority: "demand",
        capability: "pull",
      },
      deadline,
      (answer) => answer.discard(),
    );
  }

  /** Size of a blob in bytes, or undefined if the repository does not have it. */
  async blobSize(repository: string, digest: string, options: CallOptions): Promise<number | undefined> {
    const what = `looking for blob ${this.host}/${repository}@${checkDigest(digest)}`;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    try {
      // A 404 is no answer to take from a mirror that lacks the blob: only when no host has it, it is absent.
      return await this.#perform(
        what,
        "HEAD",
        `/${repository}/blobs/${digest}`,
        repository,
        "pull",
        options,
        deadline,
        [],
        async (answer) => {
          const size = Number(answer.header("content-length") ?? Number.NaN);
          if (!Number.isSafeInteger(size) || size < 0)
            throw new RegistryError("REGISTRY_PROTOCOL", `${what}: no usable Content-Length`, { request: answer.request });
          return size;
        },
      );
    } catch (error) {
      if (error instanceof RegistryError && error.code === "REGISTRY_NOT_FOUND") return undefined;
      throw error;
    }
  }

  /**
   * Reads exactly `range` of a blob into memory. The bytes are not verified: part of a blob has no digest here.
   *
   * @param range  at most READ_BYTES_MAX
   * @throws RegistryError REGISTRY_RANGE (past the end, or a server that does not do ranges), REGISTRY_DEADLINE …
   */
  async readRange(repository: string, digest: string, range: Range, options: CallOptions & Landing): Promise<Uint8Array> {
    const exchange = {
      ...common(options),
      what: `reading ${rangeHeader(range)} of blob ${this.host}/${repository}@${checkDigest(digest)}`,
      path: `/${repository}/blobs/${digest}`,
      ...(options.headers === undefined ? {} : { headers: options.headers }),
      scopes: [`repository:${repository}:pull`],
      capability: "pull",
      redirectKey: `${repository} ${digest}`,
    } as const;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    return await readRange(this.requester, exchange, range, deadline, options);
  }

  /**
   * A whole blob, or its rest from `offset`, as a stream. A cut connection is taken up again where it broke, on any host. From offset 0 the
   * digest is checked, and a mismatch is thrown after the last byte: use nothing before the stream ended well.
   */
  blobStream(repository: string, digest: string, options: BlobStreamOptions): AsyncIterable<Uint8Array> {
    return streamBlob(this.requester, `${this.host}/${repository}@${checkDigest(digest)}`, repository, digest, options);
  }

  /** Uploads a blob that is not there yet. @see pushBlob */
  pushBlob(repository: string, source: PushSource, options: PushBlobOptions): Promise<{ digest: string; size: number; uploaded: boolean }> {
    return pushBlob(this.requester, this.host, repository, source, options);
  }

  /** Takes a blob over from another repository of this registry; false if the registry does not do it. */
  mountBlob(repository: string, digest: string, from: string, options: CallOptions): Promise<boolean> {
    return mountBlob(this.requester, this.host, repository, checkDigest(digest), from, options);
  }

  /** Stores a manifest under a tag, or under its digest alone. Returns its descriptor. */
  async pushManifest(
    repository: string,
    bytes: Uint8Array,
    mediaType: string,
    tag: string | undefined,
    options: CallOptions,
  ): Promise<Descriptor> {
    const digest = sha256(bytes);
    const what = `writing manifest ${this.host}/${repository}${tag === undefined ? `@${digest}` : `:${tag}`}`;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    await this.requester.perform(
      {
        ...common(options),
        what,
        method: "PUT",
        path: `/${repository}/manifests/${tag ?? digest}`,
        headers: { ...options.headers, "content-type": mediaType },
        body: () => bytes,
        scopes: [`repository:${repository}:pull,push`],
        capability: "push",
      },
      deadline,
      async (answer) => {
        const stored = answer.header("docker-content-digest");
        if (stored !== undefined && stored !== digest)
          throw new RegistryError("REGISTRY_DIGEST", `${what}: the registry stored it as ${stored.slice(0, 80)}`, {
            request: answer.request,
          });
      },
    );
    return { mediaType, digest, size: bytes.length };
  }

  /** Tags of a repository; at most what fits into one answer. */
  async tags(repository: string, options: CallOptions): Promise<string[]> {
    const what = `listing tags of ${this.host}/${repository}`;
    using deadline = new Deadline(options.deadlineMs, options.signal);
    return await this.#perform(what, "GET", `/${repository}/tags/list`, repository, "resolve", options, deadline, [], async (answer) => {
      const tags: unknown = (JSON.parse(Buffer.from(await readAll(answer, ANSWER_BYTES_MAX, what)).toString()) as { tags?: unknown }).tags;
      return Array.isArray(tags) ? tags.filter((tag) => typeof tag === "string") : [];
    });
  }

  /** Ends everything that runs; closing twice is harmless. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.requester[Symbol.asyncDispose]();
  }

  #perform<T>(
    what: string,
    method: "GET" | "HEAD",
    path: string,
    repository: string,
    capability: "pull" | "resolve",
    options: CallOptions,
    deadline: Deadline,
    accept: readonly number[],
    use: (answer: Answer) => Promise<T>,
  ): Promise<T> {
    const headers = {
      ...options.headers,
      accept: path.includes("/blobs/") ? "*/*" : MANIFEST_ACCEPT.join(", "),
      "accept-encoding": "identity",
    };
    return this.requester.perform(
      { ...common(options), what, method, path, headers, scopes: [`repository:${repository}:pull`], capability, accept },
      deadline,
      use,
    );
  }
}

function common(options: CallOptions): Pick<Exchange, "priority" | "demanded" | "proxyHeaders"> {
  const { priority = "demand", demanded, proxyHeaders } = options;
  return { priority, ...(demanded === undefined ? {} : { demanded }), ...(proxyHeaders === undefined ? {} : { proxyHeaders }) };
}

/** @throws RegistryError REGISTRY_TOO_LARGE */
async function readAll(answer: Answer, bytesMax: number, what: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of answer.body) {
    parts.push(piece);
    bytes += piece.length;
    if (bytes > bytesMax)
      throw new RegistryError("REGISTRY_TOO_LARGE", `${what}: more than ${bytesMax} bytes`, { request: answer.request });
  }
  return Buffer.concat(parts);
}

/** The header, or what the document says of itself: some registries answer `application/json`. */
function mediaTypeOf(answer: Answer, bytes: Uint8Array): string {
  const header = answer.header("content-type")?.split(";")[0]?.trim() ?? "";
  if (header.includes("manifest") || header.includes("index")) return header;
  try {
    const own: unknown = (JSON.parse(Buffer.from(bytes).toString()) as { mediaType?: unknown }).mediaType;
    return typeof own === "string" ? own : header;
  } catch {
    return header;
  }
}

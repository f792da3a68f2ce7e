import type { Socket } from "node:net";
import { Agent, buildConnector, type Dispatcher, ProxyAgent } from "undici";
import { RegistryError, type RequestSummary, withoutSecrets } from "../errors.ts";
import {
  AHEAD_REST_MAX_MS,
  CONNECT_TIMEOUT_DEFAULT_MS,
  IDLE_TIMEOUT_DEFAULT_MS,
  PREFETCH_BUFFERED_BYTES,
  PREFETCH_RECEIVED_BYTES,
  PREFETCH_REST_MAX_MS,
  REQUESTS_PER_HOST_MAX,
} from "../limits.ts";
import type { Priority } from "./gate.ts";
import { ProxyHealth, type ProxyOptions } from "./proxy.ts";
import { secureContext, type TlsOptions } from "./tls.ts";
import { HostTraffic } from "./traffic.ts";

export interface TransportOptions {
  /** Connection set-up, 0 = our default. */
  readonly connectTimeoutMs?: number;
  /** Silence before the header and between two pieces of a body, 0 = our default. */
  readonly idleTimeoutMs?: number;
  readonly proxy?: ProxyOptions;
  readonly requestsPerHostMax?: number;
  /** All connections go to this unix socket, whatever the URL says. */
  readonly socketPath?: string;
  /** Shared with other clients; default one of its own. */
  readonly traffic?: HostTraffic;
}

export interface WireRequest {
  readonly method: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  readonly body?: Uint8Array | string | AsyncIterable<Uint8Array>;
  readonly tls: TlsOptions;
  readonly priority: Priority;
  /** Fires when somebody begins to wait for what `ahead` or `prefetch` was asked for. */
  readonly demanded?: AbortSignal;
  readonly signal: AbortSignal;
  readonly attempt: number;
  readonly connectTimeoutMs?: number;
  readonly idleTimeoutMs?: number;
  /** Never through the proxy: token requests, last attempts. */
  readonly direct?: boolean;
  /** Only while the request goes through the proxy. */
  readonly proxyHeaders?: Readonly<Record<string, string>>;
}

/** An answer whose body is still on the wire. Consume `body` or call `discard`; either gives the connection back. */
export interface Answer {
  readonly status: number;
  readonly url: URL;
  readonly request: RequestSummary;
  header(name: string): string | undefined;
  headerValues(name: string): string[];
  readonly body: AsyncIterable<Uint8Array>;
  /**
   * Hands the body to `onPiece` as it comes, until that returns false: no promise and no turn of the event loop between two pieces.
   * @throws RegistryError REGISTRY_UNREACHABLE, REGISTRY_ABORTED; what `onPiece` throws
   */
  each(onPiece: (piece: Uint8Array) => boolean): Promise<void>;
  /** Reads at most `bytesMax`, then lets go. */
  text(bytesMax: number): Promise<string>;
  discard(): Promise<void>;
}

/** Connections, kept alive and bounded per host; proxy; the meaning of socket errors. Knows nothing of registries. */
export class Transport {
  readonly #options: TransportOptions;
  readonly #dispatchers = new Map<string, Dispatcher>();
  readonly traffic: HostTraffic;
  readonly #proxyHealth: ProxyHealth | undefined;
  #useHttp: boolean | undefined;
  #closed = false;

  constructor(options: TransportOptions = {}) {
    this.#options = options;
    this.traffic = options.traffic ?? new HostTraffic({ requestsPerHostMax: options.requestsPerHostMax });
    if (options.proxy !== undefined && options.proxy.url !== "") {
      const plain = this.#dispatcher({ caFiles: [], clientCertificates: [], skipVerify: false }, undefined, false);
      this.#proxyHealth = new ProxyHealth(options.proxy, plain, options.connectTimeoutMs || CONNECT_TIMEOUT_DEFAULT_MS);
    }
  }

  /**
   * One exchange. Any status is an answer; redirects are not followed.
   *
   * @throws RegistryError REGISTRY_UNREACHABLE, REGISTRY_TLS, REGISTRY_PROTOCOL, REGISTRY_BUSY, REGISTRY_CLOSED, REGISTRY_ABORTED
   */
  async request(request: WireRequest): Promise<Answer> {
    const proxy = this.#options.proxy;
    if (proxy === undefined || this.#proxyHealth === undefined) return this.#exchange(request, false);
    if ((request.direct === true && proxy.always !== true) || proxy.applies?.(request.url) === false) return this.#exchange(request, false);
    if (this.#proxyHealth.healthy) {
      const repeatable = request.body === undefined || typeof request.body === "string" || request.body instanceof Uint8Array;
      try {
        const answer = await this.#exchange(this.#forProxy(request, proxy), true);
        if (answer.status < 500 || !proxy.fallback || !repeatable) return answer;
        await answer.discard();
      } catch (error) {
        if (!proxy.fallback || !repeatable || request.signal.aborted || this.#closed) throw error;
      }
    } else if (!proxy.fallback) {
      throw new RegistryError("REGISTRY_UNREACHABLE", `the proxy ${withoutSecrets(proxy.url)} is not healthy and fallback is disabled`, {
        retryable: true,
        hint: "look at proxy.ping_url, or set proxy.fallback",
        request: summary(request),
      });
    }
    return this.#exchange(request, false);
  }

  /** Refuses new requests and cuts running ones; closing twice is harmless. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#proxyHealth?.[Symbol.asyncDispose]();
    const dispatchers = [...this.#dispatchers.values()];
    this.#dispatchers.clear();
    await Promise.all(
      dispatchers.map((dispatcher) => dispatcher.destroy(new RegistryError("REGISTRY_CLOSED", "the registry client was closed"))),
    );
  }

  #forProxy(request: WireRequest, proxy: ProxyOptions): WireRequest {
    this.#useHttp ??= proxy.useHttp && request.url.protocol === "https:";
    const url = new URL(request.url);
    if (this.#useHttp) url.protocol = "http:";
    return { ...request, url, headers: { ...request.headers, ...request.proxyHeaders } };
  }

  async #exchange(request: WireRequest, throughProxy: boolean): Promise<Answer> {
    if (this.#closed) throw new RegistryError("REGISTRY_CLOSED", "the registry client was closed", { request: summary(request) });
    const { priority, signal, demanded } = request;
    const watched = priority === "demand" ? this.traffic.demand.enter() : undefined;
    let place: (() => void) | undefined;
    const release = (): void => {
      watched?.();
      place?.();
    };
    try {
      place = await this.traffic.gate(request.url).acquire(priority, signal, demanded);
      // The system's roots cost 100 ms and more to load: who talks plain HTTP does not need them.
      const tls = request.url.protocol === "http:" && !throughProxy ? undefined : request.tls;
      const idleMs = request.idleTimeoutMs ?? (this.#options.idleTimeoutMs || IDLE_TIMEOUT_DEFAULT_MS);
      const answer = await this.#dispatcher(tls, request.connectTimeoutMs, throughProxy, priority === "prefetch").request({
        // undici also takes async iterables, its types do not say so.
        body: (request.body ?? null) as Buffer | null,
        origin: request.url.origin,
        path: request.url.pathname + request.url.search,
        method: request.method,
        headers: request.headers as Record<string, string | string[]>,
        signal,
        headersTimeout: idleMs,
        bodyTimeout: idleMs,
        ...(priority === "prefetch" ? { highWaterMark: PREFETCH_BUFFERED_BYTES } : {}),
      });
      return wrap(request, answer, release, this.traffic);
    } catch (error) {
      release();
      throw translate(error, request, throughProxy ? this.#options.proxy : undefined);
    }
  }

  #dispatcher(tls: TlsOptions | undefined, connectTimeoutMs: number | undefined, throughProxy: boolean, isPrefetch = false): Dispatcher {
    const timeoutMs = connectTimeoutMs ?? (this.#options.connectTimeoutMs || CONNECT_TIMEOUT_DEFAULT_MS);
    // Prefetch has connections of its own: theirs receive little ahead.
    const key = JSON.stringify([tls?.caFiles, tls?.clientCertificates, tls?.skipVerify, timeoutMs, throughProxy, isPrefetch]);
    let dispatcher = this.#dispatchers.get(key);
    if (dispatcher === undefined) {
      const security = tls === undefined ? {} : { secureContext: secureContext(tls), rejectUnauthorized: !tls.skipVerify };
      const { socketPath } = this.#options;
      const connect = { ...security, timeout: timeoutMs, allowH2: false, ...(socketPath === undefined ? {} : { socketPath }) };
      const common = {
        connections: this.#options.requestsPerHostMax ?? REQUESTS_PER_HOST_MAX,
        pipelining: 1,
        keepAliveTimeout: 30_000,
        allowH2: false,
      };
      dispatcher =
        throughProxy && this.#options.proxy !== undefined
          ? new ProxyAgent({ ...common, uri: this.#options.proxy.url, requestTls: connect, proxyTls: connect, connectTimeout: timeoutMs })
          : new Agent({ ...common, connect: isPrefetch ? this.#limited({ ...connect, highWaterMark: PREFETCH_BUFFERED_BYTES }) : connect });
      this.#dispatchers.set(key, dispatcher);
    }
    return dispatcher;
  }

  #limited(options: buildConnector.BuildOptions & { readonly highWaterMark: number }): buildConnector.connector {
    const connect = buildConnector(options);
    return (target, callback) =>
      connect(target, (...[error, socket]: [Error, null] | [null, Socket]) => {
        if (error !== null) return callback(error, null);
        this.traffic.limitReceived?.(socket, PREFETCH_RECEIVED_BYTES);
        callback(null, socket);
      });
  }
}

export function summary(request: { method: string; url: URL; attempt: number }, status?: number): RequestSummary {
  return {
    method: request.method,
    url: withoutSecrets(request.url),
    attempt: request.attempt,
    ...(status === undefined ? {} : { status }),
  };
}

function wrap(request: WireRequest, answer: Dispatcher.ResponseData, release: () => void, traffic: HostTraffic): Answer {
  const { body } = answer;
  body.once("close", release);
  body.on("error", release); // also: an error after the consumer left must not be uncaught
  const values = (name: string): string[] => {
    const value = answer.headers[name];
    return value === undefined ? [] : Array.isArray(value) ? value : [value];
  };
  const discard = async (): Promise<void> => {
    if (body.destroyed) return release();
    await body.dump({ limit: 64 * 1024 }).catch(() => undefined);
    release();
  };
  return {
    status: answer.statusCode,
    url: request.url,
    request: summary(request, answer.statusCode),
    header: (name) => values(name)[0],
    headerValues: values,
    body: pieces(body, request, release, traffic),
    each: (onPiece) => eachPiece(body, request, release, traffic, onPiece),
    async text(bytesMax) {
      const parts: Uint8Array[] = [];
      let bytes = 0;
      for await (const piece of this.body) {
        parts.push(piece);
        bytes += piece.length;
        if (bytes > bytesMax) break;
      }
      return Buffer.concat(parts).subarray(0, bytesMax).toString("utf8");
    },
    discard,
  };
}

/**
 * What nobody waits for stops reading while somebody waits for another request: the sender then has to stop too, and the link is free.
 *
 * @returns asked after each piece: undefined when the next may be read at once, else it resolves when it may
 */
function rests({ priority, signal, demanded }: WireRequest, { demand, prefetch }: HostTraffic): () => Promise<void> | undefined {
  if (priority === "demand") return () => undefined;
  let leftMs = priority === "ahead" ? AHEAD_REST_MAX_MS : PREFETCH_REST_MAX_MS;
  const body = prefetch.join();
  return () => {
    const free = priority === "ahead" ? demand.active === 0 : prefetch.free;
    if (free || leftMs <= 0 || signal.aborted || demanded?.aborted === true) return undefined;
    const rest = priority === "ahead" ? demand.quiet(leftMs, signal, demanded) : prefetch.turn(body, leftMs, signal, demanded);
    return rest.then((tookMs) => {
      leftMs -= tookMs;
    });
  };
}

/** The body as an iterable, with its rests. */
async function* pieces(
  body: AsyncIterable<Uint8Array> & { destroy(): unknown },
  request: WireRequest,
  release: () => void,
  traffic: HostTraffic,
): AsyncGenerator<Uint8Array> {
  const rest = rests(request, traffic);
  try {
    for await (const piece of body) {
      yield piece;
      await rest();
    }
  } catch (error) {
    throw translate(error, request, undefined);
  } finally {
    body.destroy();
    release();
  }
}

/** As `pieces`, for a consumer that takes each piece at once. */
function eachPiece(
  body: Dispatcher.ResponseData["body"],
  request: WireRequest,
  release: () => void,
  traffic: HostTraffic,
  onPiece: (piece: Uint8Array) => boolean,
): Promise<void> {
  const rest = rests(request, traffic);
  return new Promise((resolve, reject) => {
    let over = false;
    const end = (): void => {
      over = true;
      body.destroy();
      release();
      resolve();
    };
    const fail = (error: unknown): void => {
      over = true;
      body.destroy();
      release();
      reject(error);
    };
    body.on("data", (piece: Uint8Array) => {
      if (over) return;
      try {
        if (!onPiece(piece)) return end();
      } catch (error) {
        return fail(error);
      }
      const resting = rest();
      if (resting === undefined) return;
      body.pause();
      void resting.then(() => {
        if (!over) body.resume();
      });
    });
    body.once("end", end);
    body.once("error", (error: unknown) => fail(translate(error, request, undefined)));
    body.once("close", end); // cut by `discard`: what is missing is the consumer's to see
    // It may have ended before anybody listened, and then says nothing more.
    if (body.errored !== null) fail(translate(body.errored, request, undefined));
    else if (body.destroyed) end();
  });
}

const TLS_CODE = /^(ERR_TLS|ERR_SSL|CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|CRL_|INVALID_CA|HOSTNAME_MISMATCH|EPROTO)/;

/** What a socket error means to a caller. The text never carries header values. */
function translate(error: unknown, request: WireRequest, proxy: ProxyOptions | undefined): RegistryError {
  if (error instanceof RegistryError) return error;
  const failure = error as NodeJS.ErrnoException & { cause?: unknown; errors?: NodeJS.ErrnoException[] };
  const inner = failure.cause instanceof Error ? (failure.cause as NodeJS.ErrnoException) : failure.errors?.[0];
  const code = failure.code ?? inner?.code ?? failure.name ?? "";
  const details = { request: summary(request), cause: error };
  const host = proxy === undefined ? request.url.host : `the proxy ${withoutSecrets(proxy.url)}`;
  if (request.signal.aborted) return new RegistryError("REGISTRY_ABORTED", "the request was ended before its answer", details);
  if (code === "UND_ERR_DESTROYED" || code === "UND_ERR_CLOSED")
    return new RegistryError("REGISTRY_CLOSED", "the registry client was closed", details);
  if (TLS_CODE.test(code)) {
    const plain = /WRONG_VERSION|PACKET_LENGTH|HTTP_REQUEST|EPROTO/.test(code);
    const hint = plain
      ? `${host} does not speak TLS; if it is meant to be plain HTTP, say so (scheme http, or skip_verify)`
      : `the certificate of ${host} is not trusted; name its CA file`;
    return new RegistryError("REGISTRY_TLS", `TLS with ${host} failed (${code})`, { ...details, hint });
  }
  if (code.startsWith("HPE_") || failure.name === "HTTPParserError") {
    return new RegistryError("REGISTRY_PROTOCOL", `${host} does not answer in HTTP (${code})`, {
      ...details,
      hint: "is this the right port, and is it TLS?",
      retryable: true,
    });
  }
  if (code === "UND_ERR_HEADERS_TIMEOUT" || code === "UND_ERR_BODY_TIMEOUT") {
    return new RegistryError("REGISTRY_UNREACHABLE", `${host} went silent`, { ...details, retryable: true });
  }
  const hints: Record<string, string> = {
    ENOTFOUND: `the name ${request.url.hostname} is not known to DNS`,
    EAI_AGAIN: "DNS did not answer",
    ECONNREFUSED: "nothing listens there",
    UND_ERR_CONNECT_TIMEOUT: "no answer to the connection attempt",
    ECONNRESET: "the connection was cut",
    UND_ERR_SOCKET: "the connection was cut",
  };
  return new RegistryError("REGISTRY_UNREACHABLE", `${host} cannot be reached (${code || "unknown error"})`, {
    ...details,
    retryable: true,
    ...(hints[code] === undefined ? {} : { hint: hints[code] as string }),
  });
}

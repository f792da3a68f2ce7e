import { type HostConfig, type HostHealth, isLoopback, originHost } from "@nydus-ts/mirror-config";
import { RegistryClient } from "./client.ts";
import type { ConnectionOptions } from "./connection-options.ts";
import type { Credentials } from "./credentials/credentials.ts";
import { RegistryError } from "./errors.ts";
import type { Priority } from "./http/gate.ts";
import { ReadMetrics, type ReadMetricsSnapshot } from "./metrics.ts";
import { serverOf } from "./reference.ts";
import { type WatchedHosts, watchRegistryHosts } from "./watched-hosts.ts";

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

export interface BlobReadOptions {
  /** For the whole call, retries and all hosts included. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  readonly priority: Priority;
  /** Fires when somebody begins to wait for what `ahead` or `prefetch` was asked for. */
  readonly demanded?: AbortSignal;
  /** Memory of exactly `range.length` bytes for the answer, if it can be used. When the call rejects, somebody may still write into it. */
  readonly into?: Uint8Array;
  /** Called with the first bytes of the range, again as more of them come; they do not change any more. Must not throw. */
  readonly onPart?: (bytes: Uint8Array) => void;
}

export interface RegistryBackendOptions extends ConnectionOptions {
  /** `host[:port]` of the registry. */
  readonly host: string;
  /** Name of the image, without tag. */
  readonly repository: string;
  /** Default: http for a loopback address, else https. */
  readonly scheme?: "http" | "https";
  readonly credentials?: Credentials;
  /** From nydusd's `mirrors`, through `parseMirrors`. */
  readonly mirrors?: readonly HostConfig[];
  /** hosts.toml directories, watched; a valid entry for the host replaces `mirrors`. */
  readonly hostsDirs?: readonly string[];
  /** Forced on redirect targets. */
  readonly blobUrlScheme?: string;
  readonly blobRedirectedHost?: string;
  /** Of every `NYDUS_HEADER_<Name>` in it a header is made; `process.env` by default. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Told about changed, broken and missing hosts files, one line each. */
  readonly onWarning?: (line: string) => void;
  readonly requestsPerHostMax?: number;
  readonly now?: () => number;
}

export interface RegistryBackendMetrics extends ReadMetricsSnapshot {
  /** One entry a host, in the order they are asked. */
  readonly hosts: readonly HostHealth[];
  readonly tokenRequests: number;
  /** Where the hosts came from: a file, the `mirrors` of the configuration, or neither. */
  readonly hostsSource: string;
}

/** A `BlobBackend` of chunk-store over a registry. */
export interface RegistryBackend {
  readonly kind: "registry";
  read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array>;
  size(blobId: string, options: BlobReadOptions): Promise<number>;
  /** From the next request on. */
  setCredentials(credentials: Credentials): void;
  metrics(): RegistryBackendMetrics;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Opens a registry as a back end. Nothing is asked of the network here; the hosts directories are read at once.
 *
 * @throws RegistryError REGISTRY_CONFIG
 * Source: spec/nydusd.md, sections 13.1, 13.2 and 3.3.9
 */
export async function registryBackend(options: RegistryBackendOptions): Promise<RegistryBackend> {
  if (options.host === "" || options.repository === "")
    throw new RegistryError("REGISTRY_CONFIG", "the registry back end needs host and repo");
  if (options.proxy !== undefined && options.proxy.url !== "" && (options.mirrors?.length ?? 0) > 0) {
    throw new RegistryError("REGISTRY_CONFIG", "proxy and mirrors cannot be configured at the same time");
  }
  const server = serverOf(options.host);
  const origin = originHost(server, options.scheme ?? (isLoopback(server) ? "http" : "https"), {
    caFiles: options.caFiles ?? [],
    skipVerify: options.skipVerify ?? false,
  });
  const fallback = (): readonly HostConfig[] => [...(options.mirrors ?? []).map((mirror) => withTls(mirror, origin)), origin];
  const watched: WatchedHosts | undefined =
    options.hostsDirs === undefined || options.hostsDirs.length === 0
      ? undefined
      : await watchRegistryHosts({
          directories: options.hostsDirs,
          registryHost: options.host,
          origin,
          fallback,
          onWarning: options.onWarning ?? (() => undefined),
        });
  let client: RegistryClient;
  try {
    client = new RegistryClient({
      host: options.host,
      hosts: watched?.hosts ?? fallback(),
      rewriteRedirect: redirectRewriter(options),
      ...pick(options, ["credentials", "proxy", "timeoutMs", "connectTimeoutMs", "retryLimit", "requestsPerHostMax", "traffic", "now"]),
    });
  } catch (error) {
    await watched?.[Symbol.asyncDispose]();
    throw error;
  }
  watched?.onChange((hosts) => client.requester.setHosts(hosts));
  return new Backend(options, client, watched);
}

class Backend implements RegistryBackend {
  readonly kind = "registry";
  readonly #repository: string;
  readonly #client: RegistryClient;
  readonly #watched: WatchedHosts | undefined;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #metrics = new ReadMetrics();
  readonly #hasMirrors: boolean;

  constructor(options: RegistryBackendOptions, client: RegistryClient, watched: WatchedHosts | undefined) {
    this.#repository = options.repository;
    this.#client = client;
    this.#watched = watched;
    this.#headers = environmentHeaders(options.environment ?? process.env);
    this.#hasMirrors = (options.mirrors?.length ?? 0) > 0;
  }

  async read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array> {
    const startMs = performance.now();
    try {
      const bytes = await this.#client.readRange(this.#repository, digestOf(blobId), range, {
        ...options,
        headers: this.#headers,
        proxyHeaders: dragonfly(options.priority),
      });
      this.#metrics.add(range.length, performance.now() - startMs, true);
      return bytes;
    } catch (error) {
      this.#metrics.add(range.length, performance.now() - startMs, false);
      throw error;
    }
  }

  async size(blobId: string, options: BlobReadOptions): Promise<number> {
    const size = await this.#client.blobSize(this.#repository, digestOf(blobId), {
      ...options,
      headers: this.#headers,
      proxyHeaders: dragonfly(options.priority),
    });
    if (size === undefined) {
      throw new RegistryError(
        "REGISTRY_NOT_FOUND",
        `blob ${this.#client.host}/${this.#repository}@sha256:${blobId} is not in the registry`,
        {
          hint: "push the image again, or check `host` and `repo` of the back end",
        },
      );
    }
    return size;
  }

  setCredentials(credentials: Credentials): void {
    this.#client.requester.setCredentials(credentials);
  }

  metrics(): RegistryBackendMetrics {
    return {
      ...this.#metrics.snapshot(),
      hosts: this.#client.requester.health,
      tokenRequests: this.#client.requester.tokens.requests,
      hostsSource: this.#watched?.source ?? (this.#hasMirrors ? "mirrors of the configuration" : "the registry itself"),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watched?.[Symbol.asyncDispose]();
    await this.#client[Symbol.asyncDispose]();
  }
}

function digestOf(blobId: string): string {
  return blobId.includes(":") ? blobId : `sha256:${blobId}`;
}

/** nydusd's JSON mirrors share the back end's TLS settings. */
function withTls(mirror: HostConfig, origin: HostConfig): HostConfig {
  return { ...mirror, caFiles: [...mirror.caFiles, ...origin.caFiles], skipVerify: mirror.skipVerify || origin.skipVerify };
}

/** What nydusd tells a Dragonfly agent that works as its proxy. */
export function dragonfly(priority: Priority): Readonly<Record<string, string>> {
  return { "x-dragonfly-use-p2p": "true", "x-dragonfly-prefetch": "true", "x-dragonfly-priority": priority === "demand" ? "6" : "3" };
}

/** `NYDUS_HEADER_<Name>=<value>`; names and values that are no header are skipped. */
export function environmentHeaders(environment: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [variable, value] of Object.entries(environment)) {
    const name = variable.startsWith("NYDUS_HEADER_") ? variable.slice("NYDUS_HEADER_".length) : "";
    if (/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name) && value !== undefined && /^[\t\x20-\x7e\x80-\xff]*$/.test(value))
      headers[name.toLowerCase()] = value;
  }
  return headers;
}

function redirectRewriter(options: RegistryBackendOptions): (target: URL) => URL {
  const { blobUrlScheme = "", blobRedirectedHost = "" } = options;
  if (blobUrlScheme !== "" && blobUrlScheme !== "http" && blobUrlScheme !== "https") {
    throw new RegistryError(
      "REGISTRY_CONFIG",
      `blob_url_scheme must be http or https, found ${JSON.stringify(blobUrlScheme.slice(0, 40))}`,
    );
  }
  return (target) => {
    const url = new URL(target);
    // The port is kept where only a host is given; a port of its own wins.
    if (blobRedirectedHost !== "") url.host = blobRedirectedHost;
    if (blobUrlScheme !== "") url.protocol = `${blobUrlScheme}:`;
    return url;
  };
}

/** The named members that are there: with `exactOptionalPropertyTypes` an absent option must stay absent. */
function pick<T, K extends keyof T>(from: T, keys: readonly K[]): { [P in K]?: Exclude<T[P], undefined> } {
  const picked: { [P in K]?: Exclude<T[P], undefined> } = {};
  for (const key of keys) if (from[key] !== undefined) picked[key] = from[key] as Exclude<T[K], undefined>;
  return picked;
}

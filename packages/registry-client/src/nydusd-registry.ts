import { parseMirrors } from "@nydus-ts/mirror-config";
import type { RegistryBackendOptions } from "./backend.ts";
import type { ConnectionOptions } from "./connection-options.ts";
import { type Credentials, credentialOfAuth, staticCredentials } from "./credentials/credentials.ts";
import type { ProxyOptions } from "./http/proxy.ts";

/**
 * The registry table of nydusd's configuration, in its spelling; times in seconds. Only host and repo are needed: what is left out is as
 * nydusd has it, so whoever reads only some keys of it reaches the same hosts. Source: spec/nydusd.md 3.3.9, 3.5.2
 */
export interface NydusdRegistry extends NydusdConnection {
  readonly host: string;
  readonly repo: string;
  readonly scheme?: "http" | "https" | undefined;
  /** base64 of user:password. */
  readonly auth?: string | undefined;
  readonly registry_token?: string | null | undefined;
  readonly hosts_dirs?: readonly string[] | undefined;
  readonly blob_url_scheme?: string | undefined;
  readonly blob_redirected_host?: string | undefined;
}

/** What the tables of all back ends that are reached over HTTP have. Source: spec/nydusd.md 3.3.3 */
export interface NydusdConnection {
  readonly mirrors?: unknown;
  readonly skip_verify?: boolean | undefined;
  readonly ca_cert_files?: readonly string[] | undefined;
  readonly timeout?: number | undefined;
  readonly connect_timeout?: number | undefined;
  readonly retry_limit?: number | undefined;
  readonly proxy?: NydusdProxy | undefined;
}

export interface NydusdProxy {
  readonly url: string;
  readonly ping_url?: string | undefined;
  readonly fallback?: boolean | undefined;
  readonly use_http?: boolean | undefined;
  readonly check_interval?: number | undefined;
  readonly check_pause_elapsed?: number | undefined;
}

/** How the text that holds the table calls it, for messages. */
export interface NydusdPlace {
  /** Such as "the daemon's configuration". */
  readonly file: string;
  /** Of the table: backend.registry. */
  readonly key: string;
}

/**
 * What `registryBackend` needs to ask the hosts that a daemon with this configuration asks, in the same way.
 *
 * @throws MirrorConfigError (mirrors), RegistryError REGISTRY_CONFIG (auth)
 */
export function nydusdRegistryOptions(config: NydusdRegistry, place: NydusdPlace): RegistryBackendOptions {
  const { scheme } = config;
  return {
    host: config.host,
    repository: config.repo,
    ...(scheme === undefined ? {} : { scheme }),
    credentials: nydusdCredentials(config, place.file),
    mirrors: parseMirrors(config.mirrors, { file: place.file, key: `${place.key}.mirrors` }),
    hostsDirs: config.hosts_dirs ?? [],
    ...nydusdConnectionOptions(config),
    blobUrlScheme: config.blob_url_scheme ?? "",
    blobRedirectedHost: config.blob_redirected_host ?? "",
  };
}

/** Times become milliseconds; `mirrors` are left to whoever knows what a host of theirs serves. */
export function nydusdConnectionOptions(config: NydusdConnection): ConnectionOptions {
  const { proxy } = config;
  return {
    ...(proxy === undefined || proxy.url === "" ? {} : { proxy: proxyOf(proxy) }),
    caFiles: config.ca_cert_files ?? [],
    skipVerify: config.skip_verify ?? false,
    timeoutMs: secondsToMs(config.timeout ?? 0),
    connectTimeoutMs: secondsToMs(config.connect_timeout ?? 0),
    retryLimit: config.retry_limit ?? 0,
  };
}

/** `auth` before `registry_token`, as nydusd has it; with neither, nobody in particular. */
export function nydusdCredentials({ auth, registry_token }: Pick<NydusdRegistry, "auth" | "registry_token">, file: string): Credentials {
  if (auth !== undefined) return staticCredentials(credentialOfAuth(auth), { source: `auth of ${file}` });
  const token = registry_token == null ? undefined : ({ kind: "bearer", token: registry_token } as const);
  return staticCredentials(token, { source: `registry_token of ${file}` });
}

/** Defaults as in spec/nydusd.md 3.3.9. */
const proxyOf = (proxy: NydusdProxy): ProxyOptions => ({
  url: proxy.url,
  ...(proxy.ping_url === undefined || proxy.ping_url === "" ? {} : { pingUrl: proxy.ping_url }),
  fallback: proxy.fallback ?? true,
  checkIntervalMs: secondsToMs(proxy.check_interval ?? 5),
  checkPauseElapsedMs: secondsToMs(proxy.check_pause_elapsed ?? 300),
  useHttp: proxy.use_http ?? false,
});

const secondsToMs = (seconds: number): number => seconds * 1000;

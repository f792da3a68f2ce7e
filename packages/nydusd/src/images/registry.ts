import type { BlobBackend } from "@nydus-ts/chunk-store";
import { type HostHealth, parseMirrors } from "@nydus-ts/mirror-config";
import {
  type Credentials,
  credentialOfAuth,
  HostTraffic,
  type ProxyOptions,
  registryBackend,
  staticCredentials,
} from "@nydus-ts/registry-client";
import type { RegistryConfig } from "../config/index.ts";
import { describeError, NydusdError } from "../errors.ts";

export { HostTraffic };

/** A back end and how to give it other credentials. */
export interface Opened {
  readonly inner: BlobBackend;
  readonly setAuth: (auth: string) => void;
  readonly hosts?: () => readonly HostHealth[];
}

/** Opens the registry of a configuration; nothing is contacted. @throws NydusdError CONFIG_INVALID */
export async function openRegistry(config: RegistryConfig, traffic: HostTraffic, onWarning: (line: string) => void): Promise<Opened> {
  const { proxy } = config;
  try {
    const inner = await registryBackend({
      host: config.host,
      repository: config.repo,
      ...(config.scheme === undefined ? {} : { scheme: config.scheme }),
      credentials: credentialsOf(config.auth, config.registry_token ?? undefined),
      mirrors: parseMirrors(config.mirrors, { file: "the configuration", key: "backend.registry.mirrors" }),
      hostsDirs: config.hosts_dirs,
      ...(proxy.url === "" ? {} : { proxy: proxyOf(proxy) }),
      caFiles: config.ca_cert_files,
      skipVerify: config.skip_verify,
      timeoutMs: secondsToMs(config.timeout),
      connectTimeoutMs: secondsToMs(config.connect_timeout),
      retryLimit: config.retry_limit,
      blobUrlScheme: config.blob_url_scheme,
      blobRedirectedHost: config.blob_redirected_host,
      onWarning,
      traffic,
    });
    const setAuth = (auth: string): void => inner.setCredentials(credentialsOf(auth, undefined));
    return { inner, setAuth, hosts: () => inner.metrics().hosts };
  } catch (cause) {
    throw new NydusdError("CONFIG_INVALID", describeError(cause), { cause });
  }
}

function credentialsOf(auth: string | undefined, token: string | undefined): Credentials {
  if (auth !== undefined) return staticCredentials(credentialOfAuth(auth), { source: "auth of nydusd's configuration" });
  return staticCredentials(token === undefined ? undefined : { kind: "bearer", token }, {
    source: "registry_token of nydusd's configuration",
  });
}

function proxyOf(proxy: RegistryConfig["proxy"]): ProxyOptions {
  return {
    url: proxy.url,
    ...(proxy.ping_url === "" ? {} : { pingUrl: proxy.ping_url }),
    fallback: proxy.fallback,
    checkIntervalMs: secondsToMs(proxy.check_interval),
    checkPauseElapsedMs: secondsToMs(proxy.check_pause_elapsed),
    useHttp: proxy.use_http,
  };
}

function secondsToMs(seconds: number): number {
  return seconds * 1000;
}

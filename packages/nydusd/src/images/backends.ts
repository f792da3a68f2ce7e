import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import { type Credentials, credentialOfAuth, registryBackend, staticCredentials } from "@nydus-ts/registry-client";
import type { ConfigV2, RegistryConfig } from "../config/index.ts";
import { describeError, NydusdError } from "../errors.ts";
import { readDeadlineDefaultMs } from "../limits.ts";
import type { Log } from "../log/log.ts";
import type { ErrorEvents } from "../metrics/events.ts";
import { MeteredBackend } from "../metrics/metered-backend.ts";

/** A back end with its counters, shared by all mounts whose configuration is equal. Source: spec/nydusd.md 10.1. */
export interface ImageBackend {
  /** Mountpoint of the first mount that uses it; its name in metrics. */
  readonly name: string;
  readonly backend: MeteredBackend;
  /** Gives a registry other credentials (base64 of user:password), from the next request on; other kinds refuse. */
  setAuth(auth: string): void;
}

interface Entry extends ImageBackend {
  uses: number;
}

/** The back ends of the daemon: one for each distinct configuration, ended with its last use. */
export class BackendPool {
  readonly #entries = new Map<string, Entry>();
  readonly #log: Log;
  readonly #events: ErrorEvents;

  constructor(log: Log, events: ErrorEvents) {
    this.#log = log;
    this.#events = events;
  }

  /**
   * Opens the back end of a configuration, or shares the one that is there. Nothing is contacted.
   * @throws NydusdError UNSUPPORTED, CONFIG_INVALID
   */
  acquire(config: ConfigV2, mountpoint: string): ImageBackend {
    const key = JSON.stringify(config);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = this.#open(config, mountpoint);
      this.#entries.set(key, entry);
    }
    entry.uses += 1;
    return entry;
  }

  async release(backend: ImageBackend): Promise<void> {
    for (const [key, entry] of this.#entries) {
      if (entry !== backend) continue;
      entry.uses -= 1;
      if (entry.uses > 0) return;
      this.#entries.delete(key);
      await entry.backend[Symbol.asyncDispose]();
    }
  }

  all(): readonly ImageBackend[] {
    return [...this.#entries.values()];
  }

  #open(config: ConfigV2, name: string): Entry {
    const { inner, setAuth } = openBackend(config);
    const backend = new MeteredBackend(inner, (blobId, range, error) => {
      const text = `${name}: blob ${blobId.slice(0, 12)} [${range.offset}..${range.offset + range.length}): ${describeError(error)}`;
      this.#events.push(text);
      this.#log.error(text);
    });
    return { name, backend, setAuth, uses: 0 };
  }
}

function openBackend(config: ConfigV2): { inner: BlobBackend; setAuth: (auth: string) => void } {
  const { backend } = config;
  const fixed = (): never => {
    throw new NydusdError("UNSUPPORTED", `back end ${backend?.type}: credentials can be changed for registries only`);
  };
  if (backend?.type === "localfs" && backend.localfs != null) {
    const { blob_file, dir, alt_dirs } = backend.localfs;
    return {
      inner: localfsBackend({
        ...(blob_file === "" ? {} : { blobFile: blob_file }),
        ...(dir === "" ? {} : { dir }),
        altDirs: alt_dirs,
      }),
      setAuth: fixed,
    };
  }
  if (backend?.type === "registry" && backend.registry != null) return openRegistry(backend.registry);
  const known = "localfs and registry work";
  throw new NydusdError("UNSUPPORTED", `backend.type ${JSON.stringify(backend?.type)} is not built in this version; ${known}`);
}

function openRegistry(config: RegistryConfig): { inner: BlobBackend; setAuth: (auth: string) => void } {
  const inner = registryBackend({
    host: config.host,
    repository: config.repo,
    scheme: config.scheme === "http" ? "http" : "https",
    credentials: credentialsOf(config.auth, config.registry_token ?? undefined),
    mirrors: config.mirrors,
    hostsDirs: config.hosts_dirs,
    ...(config.proxy.url === "" ? {} : { proxy: config.proxy }),
    caFiles: config.ca_cert_files,
    skipVerify: config.skip_verify,
    timeoutMs: secondsToMs(config.timeout),
    connectTimeoutMs: secondsToMs(config.connect_timeout),
    retryLimit: config.retry_limit,
    blobUrlScheme: config.blob_url_scheme,
    blobRedirectedHost: config.blob_redirected_host,
  });
  return { inner, setAuth: (auth) => inner.setCredentials(credentialsOf(auth, undefined)) };
}

function credentialsOf(auth: string | undefined, token: string | undefined): Credentials {
  if (auth !== undefined) return staticCredentials(credentialOfAuth(auth), { source: "auth of nydusd's configuration" });
  return staticCredentials(token === undefined ? undefined : { kind: "bearer", token }, {
    source: "registry_token of nydusd's configuration",
  });
}

function secondsToMs(seconds: number): number {
  return seconds * 1000;
}

/** How long a read waits for absent data: a request and its retries over all hosts. 0 in the configuration means no limit there; here it is the default. */
export function readDeadlineMs(config: ConfigV2): number {
  const table = config.backend?.registry;
  if (table == null || table.timeout === 0) return readDeadlineDefaultMs;
  return Math.min(300_000, table.timeout * 1000 * (1 + Math.max(2, table.retry_limit)));
}

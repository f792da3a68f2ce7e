import type { BlobBackend } from "@nydus-ts/chunk-store";
import type { HostHealth } from "@nydus-ts/mirror-config";
import {
  HostTraffic,
  nydusdCredentials,
  nydusdHttpProxyOptions,
  nydusdObjectStoreOptions,
  nydusdRegistryOptions,
  type ObjectStoreOptions,
  objectStoreBackend,
  registryBackend,
} from "@nydus-ts/registry-client";
import type { HttpProxyConfig, ObjectStoreConfig, RegistryConfig } from "../config/index.ts";
import { describeError, NydusdError } from "../errors.ts";

export { HostTraffic };

/** As messages call it. */
const file = "nydusd's configuration";

/** A back end and how to give it other credentials. */
export interface Opened {
  readonly inner: BlobBackend;
  readonly setAuth: (auth: string) => void;
  readonly hosts?: () => readonly HostHealth[];
}

/** Opens the registry of a configuration; nothing is contacted. @throws NydusdError CONFIG_INVALID */
export async function openRegistry(config: RegistryConfig, traffic: HostTraffic, onWarning: (line: string) => void): Promise<Opened> {
  try {
    const options = nydusdRegistryOptions(config, { file, key: "backend.registry" });
    const inner = await registryBackend({ ...options, onWarning, traffic });
    const setAuth = (auth: string): void => inner.setCredentials(nydusdCredentials({ auth }, file));
    return { inner, setAuth, hosts: () => inner.metrics().hosts };
  } catch (cause) {
    throw new NydusdError("CONFIG_INVALID", describeError(cause), { cause });
  }
}

/** Opens the bucket of a configuration; nothing is contacted. @throws NydusdError CONFIG_INVALID */
export function openObjectStore(kind: "oss" | "s3", config: ObjectStoreConfig, traffic: HostTraffic): Opened {
  return openStore(kind, traffic, () => nydusdObjectStoreOptions(kind, config, { file, key: `backend.${kind}` }));
}

/** Opens the HTTP server of a configuration; nothing is contacted. @throws NydusdError CONFIG_INVALID */
export function openHttpProxy(config: HttpProxyConfig, traffic: HostTraffic): Opened {
  return openStore("http-proxy", traffic, () => nydusdHttpProxyOptions(config, { file, key: "backend.http-proxy" }));
}

function openStore(kind: string, traffic: HostTraffic, options: () => ObjectStoreOptions): Opened {
  try {
    const inner = objectStoreBackend({ ...options(), traffic });
    return { inner, setAuth: () => refuseAuth(kind), hosts: () => inner.hosts };
  } catch (cause) {
    throw new NydusdError("CONFIG_INVALID", describeError(cause), { cause });
  }
}

/** Keys of object stores come with the configuration. @throws NydusdError UNSUPPORTED */
export function refuseAuth(kind: string): never {
  throw new NydusdError("UNSUPPORTED", `back end ${kind} takes no credentials while it runs; they can be set for registries only`);
}

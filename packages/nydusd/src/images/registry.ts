import type { BlobBackend } from "@nydus-ts/chunk-store";
import type { HostHealth } from "@nydus-ts/mirror-config";
import { HostTraffic, nydusdCredentials, nydusdRegistryOptions, registryBackend } from "@nydus-ts/registry-client";
import type { RegistryConfig } from "../config/index.ts";
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

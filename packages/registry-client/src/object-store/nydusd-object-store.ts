import { parseMirrors } from "@nydus-ts/mirror-config";
import { RegistryError } from "../errors.ts";
import { type NydusdConnection, type NydusdPlace, nydusdConnectionOptions } from "../nydusd-registry.ts";
import type { ObjectStoreOptions } from "./object-store.ts";
import type { ObjectStoreAddress } from "./place.ts";

/** The oss and s3 tables of nydusd's configuration, in its spelling. Source: spec/nydusd.md 3.3.3 - 3.3.5 */
export interface NydusdObjectStore extends NydusdConnection {
  /** May be empty with s3. */
  readonly endpoint?: string | undefined;
  readonly scheme?: string | undefined;
  readonly bucket_name: string;
  /** Needed with s3. */
  readonly region?: string | undefined;
  readonly object_prefix?: string | undefined;
  readonly access_key_id?: string | undefined;
  readonly access_key_secret?: string | undefined;
}

/** The http-proxy table. Source: spec/nydusd.md 3.3.7 */
export interface NydusdHttpProxy extends NydusdConnection {
  readonly addr: string;
  readonly path?: string | undefined;
}

/**
 * What `ObjectStore` needs to ask the hosts that a daemon with this configuration asks.
 *
 * @throws MirrorConfigError (mirrors), RegistryError REGISTRY_CONFIG
 */
export function nydusdObjectStoreOptions(kind: "oss" | "s3", config: NydusdObjectStore, place: NydusdPlace): ObjectStoreOptions {
  const { bucket_name: bucket, region = "", object_prefix: prefix = "" } = config;
  // Whoever writes the endpoint as a URL means its scheme.
  const [, written, endpoint = ""] = /^(?:(https?):\/\/)?(.*)$/s.exec(config.endpoint ?? "") ?? [];
  const scheme = written ?? (config.scheme || "https");
  const fault = (key: string, expected: string) =>
    new RegistryError("REGISTRY_CONFIG", `${place.file}: ${place.key}.${key}: expected ${expected}`);
  if (scheme !== "http" && scheme !== "https") throw fault("scheme", '"http" or "https"');
  if (kind === "oss" && endpoint === "") throw fault("endpoint", "a host");
  if (kind === "s3" && region === "") throw fault("region", "the region of the bucket");
  const key = { id: config.access_key_id ?? "", secret: config.access_key_secret ?? "" };
  const common = { endpoint, bucket, scheme, key } as const;
  const address: ObjectStoreAddress = kind === "s3" ? { kind, region, ...common } : { kind, ...common };
  return { address, prefix, ...connectionOf(config, place) };
}

/** @see nydusdObjectStoreOptions */
export function nydusdHttpProxyOptions(config: NydusdHttpProxy, place: NydusdPlace): ObjectStoreOptions {
  const address = { kind: "http-proxy", address: config.addr, path: config.path ?? "" } as const;
  return { address, prefix: "", ...connectionOf(config, place) };
}

const connectionOf = (config: NydusdConnection, place: NydusdPlace) => ({
  ...nydusdConnectionOptions(config),
  mirrors: parseMirrors(config.mirrors, { file: place.file, key: `${place.key}.mirrors` }),
});

import type { HostHealth } from "@nydus-ts/mirror-config";
import { type BlobReadOptions, type ByteRange, dragonfly, environmentHeaders } from "../backend.ts";
import { RegistryError } from "../errors.ts";
import { ObjectStore, type ObjectStoreOptions } from "./object-store.ts";

export interface ObjectStoreBackendOptions extends ObjectStoreOptions {
  /** Of every `NYDUS_HEADER_<Name>` in it a header is made; `process.env` by default. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

/** A `BlobBackend` of chunk-store over an object store, or a plain HTTP server. */
export interface ObjectStoreBackend {
  /** `oss` also for s3, as the original has it in its metrics. */
  readonly kind: "oss" | "http-proxy";
  read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array>;
  size(blobId: string, options: BlobReadOptions): Promise<number>;
  readonly hosts: readonly HostHealth[];
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Opens an object store as a back end: a blob is the object `prefix` + id. Nothing is contacted.
 *
 * @throws RegistryError REGISTRY_CONFIG
 * Source: spec/nydusd.md 13.3, 13.4
 */
export function objectStoreBackend(options: ObjectStoreBackendOptions): ObjectStoreBackend {
  const store = new ObjectStore(options);
  const headers = environmentHeaders(options.environment ?? process.env);
  const call = (given: BlobReadOptions) => ({ ...given, headers, proxyHeaders: dragonfly(given.priority) });
  return {
    kind: store.kind === "http-proxy" ? "http-proxy" : "oss",
    read: (blobId, range, given) => store.read(blobId, range, call(given)),
    async size(blobId, given) {
      const size = await store.size(blobId, call(given));
      if (size !== undefined) return size;
      throw new RegistryError("REGISTRY_NOT_FOUND", `blob ${store.urlOf(blobId)} is not there`, {
        hint: "store the blob again, or check the back end's configuration",
      });
    },
    get hosts() {
      return store.hosts;
    },
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

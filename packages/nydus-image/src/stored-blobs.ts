/** Blobs beside a registry: a folder or a bucket, as the options of nydusify name it. Source: spec/nydusify.md, section 1.3 */
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import { nydusdObjectStoreOptions, ObjectStore, type ObjectStoreOptions, objectStoreBackend } from "@nydus-ts/registry-client";
import { type BlobStore, localStore } from "./convert/blob-store.ts";
import { NydusImageError } from "./errors.ts";
import { blobReadDeadlineMs, objectStepDeadlineMs } from "./limits.ts";

const pieceBytes = 4 * 1024 * 1024;

export interface StoredBlobs extends AsyncDisposable {
  /** for messages: the folder, or `oss://bucket/prefix` */
  readonly name: string;
  readonly backend: BlobBackend;
  /** the same in nydusd's configuration, version 1 */
  readonly nydusd: { readonly type: string; readonly config: object };
  store(forcePush: boolean): BlobStore;
}

/**
 * What the flags name; undefined if they name no back end. Nothing is contacted.
 * @param prefix  of the options, such as `source-`
 * @throws NydusImageError IMAGE_ARGUMENT; RegistryError REGISTRY_CONFIG
 */
export async function givenBlobs(
  flags: { type: string | undefined; config: string | undefined; configFile?: string | undefined },
  prefix: string,
): Promise<StoredBlobs | undefined> {
  const { type } = flags;
  if (type === undefined || type === "") return undefined;
  const option = (name: string) => `--${prefix}backend-${name}`;
  if (type !== "localfs" && type !== "oss" && type !== "s3")
    throw new NydusImageError("IMAGE_ARGUMENT", `${option("type")} ${JSON.stringify(type)} is not known: it is one of oss, s3, localfs`);
  const text = (flags.configFile === undefined ? flags.config : await readFile(flags.configFile, "utf8")) ?? "";
  if (text.trim() === "") {
    const example = type === "localfs" ? '{"dir": "DIRECTORY"}' : bucketExample;
    throw new NydusImageError("IMAGE_ARGUMENT", `${option("type")} ${type} needs a configuration: give ${option("config")} '${example}'`);
  }
  const config = backendTable(text);
  return type === "localfs" ? inFolder(textOf(config, type, "dir")) : inBucket(type, config);
}

/** In the help of options. */
export const bucketExample =
  '{"endpoint": "HOST", "bucket_name": "NAME", "region": "OF-S3", "access_key_id": "ID", "access_key_secret": "KEY"}';

/** @throws NydusImageError IMAGE_ARGUMENT. The text may hold a secret, and the parser's message may hold the text. */
export function backendTable(text: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new NydusImageError("IMAGE_ARGUMENT", "the backend configuration is not JSON");
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new NydusImageError("IMAGE_ARGUMENT", "the backend configuration is not a JSON object");
}

/** A text that must be there. */
function textOf(config: Readonly<Record<string, unknown>>, type: string, key: string): string {
  const value = config[key];
  if (typeof value === "string" && value !== "") return value;
  throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration of ${type} names no "${key}"`);
}

/** Keys that nydusify and nydusd have in common. */
const bucketKeys = ["scheme", "endpoint", "region", "bucket_name", "object_prefix", "access_key_id", "access_key_secret"] as const;

/**
 * @param prefixKey  which member is put before every key
 * @throws NydusImageError IMAGE_ARGUMENT; RegistryError REGISTRY_CONFIG
 */
export function bucketOptions(
  type: "oss" | "s3",
  config: Readonly<Record<string, unknown>>,
  prefixKey = "object_prefix",
): { readonly options: ObjectStoreOptions; readonly table: Readonly<Record<string, unknown>> } {
  const table: Record<string, string> = {};
  for (const key of bucketKeys) {
    const value = config[key === "object_prefix" ? prefixKey : key] ?? "";
    if (typeof value !== "string") throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration has a "${key}" that is no text`);
    if (value !== "") table[key] = value;
  }
  textOf(table, type, "bucket_name");
  if (type === "oss") textOf(table, type, "endpoint");
  else textOf(table, type, "region");
  const connection = config as { skip_verify?: boolean; ca_cert_files?: string[]; timeout?: number };
  const { skip_verify, ca_cert_files, timeout } = connection;
  const bucket = { ...table, bucket_name: table["bucket_name"]!, skip_verify, ca_cert_files, timeout };
  const options = nydusdObjectStoreOptions(type, bucket, { file: "the backend configuration", key: type });
  // What nydusd's configuration of s3 must have, and of OSS may not.
  const { region = "", ...rest } = table;
  return { options, table: type === "s3" ? { endpoint: "", ...rest, region } : rest };
}

function inFolder(directory: string): StoredBlobs {
  const backend = localfsBackend({ dir: directory });
  return {
    name: directory,
    backend,
    nydusd: { type: "localfs", config: { dir: resolve(directory) } },
    store: (forcePush) => localStore(directory, forcePush),
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
}

function inBucket(type: "oss" | "s3", config: Readonly<Record<string, unknown>>): StoredBlobs {
  const { options, table } = bucketOptions(type, config);
  const [bucket, backend] = [new ObjectStore(options), objectStoreBackend(options)];
  return {
    name: bucket.urlOf(""),
    backend,
    nydusd: { type, config: table },
    store: (forcePush) => bucketStore(bucket, backend, forcePush),
    async [Symbol.asyncDispose]() {
      await bucket[Symbol.asyncDispose]();
      await backend[Symbol.asyncDispose]();
    },
  };
}

function bucketStore(bucket: ObjectStore, backend: BlobBackend, force: boolean): BlobStore {
  const put = async (
    { digest, size }: { digest: string; size: number },
    open: () => AsyncIterable<Uint8Array>,
    signal: AbortSignal | undefined,
  ): Promise<boolean> => {
    const options = { stepDeadlineMs: objectStepDeadlineMs, force, ...(signal === undefined ? {} : { signal }) };
    return await bucket.put(idOf(digest), { size, digest, open }, options);
  };
  return {
    inTarget: false,
    write: (descriptor, path, { signal }) => put(descriptor, () => createReadStream(path, { highWaterMark: 1024 * 1024 }), signal),
    take: (descriptor, from, { signal }) => put(descriptor, () => from.openBlob(descriptor, { signal }), signal),
    give: async (descriptor, to, options) =>
      void (await to.writeBlob(descriptor, () => wholeBlob(backend, idOf(descriptor.digest), descriptor.size, options.signal), options)),
  };
}

const idOf = (digest: string): string => digest.slice("sha256:".length);

/** A whole blob in pieces, the next of which is on its way while one is used. */
export async function* wholeBlob(backend: BlobBackend, id: string, size: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const read = (offset: number): Promise<Uint8Array> | undefined => {
    if (offset >= size) return undefined;
    const piece = backend.read(
      id,
      { offset, length: Math.min(pieceBytes, size - offset) },
      { deadlineMs: blobReadDeadlineMs, priority: "demand", signal },
    );
    // Whoever stops early takes no more, and this piece's failure is nobody's.
    piece.catch(() => undefined);
    return piece;
  };
  let next = read(0);
  for (let offset = 0; next !== undefined; offset += pieceBytes) {
    const piece: Uint8Array = await next;
    next = read(offset + pieceBytes);
    yield piece;
  }
}

/**
 * A blob of an image that keeps its data beside its registry.
 * @param owner  as messages call the image
 * @throws NydusImageError IMAGE_SOURCE: it is not there
 */
export async function storedBlob(
  id: string,
  { name, backend }: StoredBlobs,
  owner: string,
  signal: AbortSignal,
): Promise<{ open: () => AsyncIterable<Uint8Array>; digest: string; size: number }> {
  if (!/^[0-9a-f]{64}$/.test(id))
    throw new NydusImageError("IMAGE_SOURCE", `${owner} has a blob called ${JSON.stringify(id)}, which is no digest`);
  const size = await backend.size(id, { deadlineMs: blobReadDeadlineMs, priority: "demand", signal }).catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_SOURCE", `blob ${id} of ${owner} is not in ${name}`, { cause });
  });
  return { open: () => wholeBlob(backend, id, size, signal), digest: `sha256:${id}`, size };
}

/** The bucket of `nydusify build`: it takes blobs and bootstraps under prefixes of their own. Source: spec/nydusify.md, section 7 */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { ObjectStore } from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import { objectStepDeadlineMs } from "../limits.ts";
import { bucketOptions } from "../stored-blobs.ts";

export interface BuildBucket extends AsyncDisposable {
  /** for messages, without secrets */
  readonly name: string;
  /** configuration of `compact` for the blobs; holds the secret */
  readonly blobsConfig: string;
  /** Blobs that are there stay; the bootstrap comes last and replaces one of its name. */
  push(
    built: { bootstrap: string; name: string; directory: string; blobs: readonly string[] },
    signal: AbortSignal,
  ): Promise<{ bootstrap: string; blobOf: (id: string) => string }>;
}

/** Nothing is contacted. @throws NydusImageError IMAGE_ARGUMENT; RegistryError REGISTRY_CONFIG */
export function openBuildBucket(type: string, config: Readonly<Record<string, unknown>>): BuildBucket {
  if (type !== "oss" && type !== "s3")
    throw new NydusImageError("IMAGE_ARGUMENT", `--backend-type ${JSON.stringify(type)} can not be built into: it is one of oss, s3`);
  // The original's manual says object_prefix, its program blob_prefix.
  const ofBlobs = bucketOptions(type, config, "blob_prefix" in config ? "blob_prefix" : "object_prefix");
  const blobs = new ObjectStore(ofBlobs.options);
  const bootstraps = new ObjectStore(bucketOptions(type, config, "meta_prefix").options);
  // As the original prints them.
  const shown = (store: ObjectStore, key: string) =>
    type === "s3" ? store.urlOf(key).replace(store.name, () => store.hosts.at(-1)!.url) : store.urlOf(key);
  const put = async (store: ObjectStore, key: string, path: string, options: { signal: AbortSignal; force?: boolean; digest?: string }) => {
    const { digest, ...rest } = options;
    const { size } = await stat(path);
    const open = () => createReadStream(path, { highWaterMark: 1024 * 1024 });
    const source = { size, open, ...(digest === undefined ? {} : { digest }) };
    await store.put(key, source, { stepDeadlineMs: objectStepDeadlineMs, ...rest });
  };
  return {
    name: blobs.urlOf(""),
    blobsConfig: JSON.stringify({ ...config, ...ofBlobs.table }),
    async push({ bootstrap, name, directory, blobs: ids }, signal) {
      for (const id of ids) await put(blobs, id, join(directory, id), { signal, digest: `sha256:${id}` });
      await put(bootstraps, name, bootstrap, { signal, force: true });
      return { bootstrap: shown(bootstraps, name), blobOf: (id) => shown(blobs, id) };
    },
    async [Symbol.asyncDispose]() {
      await blobs[Symbol.asyncDispose]();
      await bootstraps[Symbol.asyncDispose]();
    },
  };
}

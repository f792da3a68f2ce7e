/** A chunk dictionary, as `convert --chunk-dict` uses it: an image whose chunks the result refers to instead of storing them. Source: spec/nydusify.md, section 2.8 */
import { createHash } from "node:crypto";
import { type BlobEntry, type ChunkSource, type Digester, loadChunks } from "@nydus-ts/builder";
import { digesters } from "@nydus-ts/rafs-format";
import type { StoredChunk } from "@nydus-ts/rafs-format/writer";
import {
  currentPlatform,
  type Descriptor,
  type ImageSource,
  type ImageTarget,
  type OpenImageOptions,
  openImageSource,
} from "@nydus-ts/registry-client";
import { readBootstrapFile } from "../bootstrap-file.ts";
import { NydusImageError } from "../errors.ts";
import { type LayerFile, loadLayer, requireConsistent } from "../layer-file.ts";
import type { Log } from "../log.ts";
import { readBootstrapLayer, readHalves } from "../nydusify/image.ts";
import type { BlobStore } from "./blob-store.ts";
import { blobSize, copyBlob } from "./copy-blob.ts";
import { annotations, nydusMediaTypes } from "./manifest.ts";

export interface PutOptions {
  target: ImageTarget;
  /** where the blobs of the result are kept, if not in the target */
  store: BlobStore | undefined;
  signal: AbortSignal;
}

export interface Dictionary extends ChunkSource, AsyncDisposable {
  chunks: readonly StoredChunk[];
  blobs: readonly BlobEntry[];
  /** of its bootstrap: another dictionary gives another image */
  digest: string;
  /** contents of `<id>.blob.meta`, by blob id */
  metaFiles: ReadonlyMap<string, Buffer>;
  /** Makes a blob of the dictionary a blob of the result. @throws NydusImageError IMAGE_SOURCE: it is not there */
  put(blobId: string, options: PutOptions): Promise<Descriptor>;
}

/** What is built with it. */
export interface DictionaryUse {
  fsVersion: 5 | 6;
  chunkSize: number;
  digester: Digester;
  log: Log;
}

/**
 * @param argument  `bootstrap:registry:IMAGE` or `bootstrap:local:PATH`
 * @throws NydusImageError IMAGE_ARGUMENT; IMAGE_SOURCE: it does not fit to what is built
 */
export async function openDictionary(
  argument: string,
  options: OpenImageOptions & { signal: AbortSignal },
  format: DictionaryUse,
): Promise<Dictionary> {
  const [, kind, reference = ""] = /^bootstrap:(registry|local):(.+)$/.exec(argument) ?? [];
  if (kind === undefined)
    throw new NydusImageError(
      "IMAGE_ARGUMENT",
      `invalid --chunk-dict ${argument}: expected bootstrap:registry:IMAGE or bootstrap:local:PATH`,
    );
  if (kind === "local") {
    const file = loadLayer(await readBootstrapFile(reference));
    return new LoadedDictionary(reference, checked(reference, file, format), undefined);
  }
  const source = await openImageSource(reference, options);
  try {
    const { nydus } = await readHalves(source, currentPlatform());
    if (!nydus) throw new NydusImageError("IMAGE_SOURCE", `the chunk dictionary ${source.name} is not a nydus image`);
    const { bootstrap, files } = await readBootstrapLayer(source, nydus, options.signal);
    const dictionary = new LoadedDictionary(source.name, checked(source.name, loadLayer(bootstrap), format), source);
    for (const [name, bytes] of files) {
      const id = /^image\/([^/]+)\.blob\.meta$/.exec(name)?.[1];
      if (id !== undefined) dictionary.metaFiles.set(id, bytes);
    }
    return dictionary;
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

function checked(name: string, file: LayerFile, { fsVersion, chunkSize, digester, log }: DictionaryUse): LayerFile {
  const traits = { name: "this conversion", version: fsVersion, chunkSize, explicitUidGid: true, digester, isTarfs: false };
  try {
    requireConsistent(traits, { ...file.traits, name });
  } catch (cause) {
    throw new NydusImageError("IMAGE_SOURCE", `the chunk dictionary ${name} does not fit`, { cause });
  }
  // Ids become names of files and parts of addresses.
  const odd = file.image.blobs.find(({ id }) => !/^[0-9a-f]{64}$/.test(id));
  if (odd)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `the chunk dictionary ${name} has a blob called ${JSON.stringify(odd.id)}, which is no digest`,
    );
  if (file.traits.digester !== digester)
    log.warn(`the chunk dictionary ${name} has digests of ${file.traits.digester}, this conversion of ${digester}: no chunk will be found`);
  return file;
}

class LoadedDictionary implements Dictionary {
  readonly chunks: readonly StoredChunk[];
  readonly blobs: readonly BlobEntry[];
  readonly digest: string;
  readonly metaFiles = new Map<string, Buffer>();
  readonly #name: string;
  readonly #source: ImageSource | undefined;

  constructor(name: string, { bootstrap, bytes, image, traits }: LayerFile, source: ImageSource | undefined) {
    this.#name = name;
    this.#source = source;
    this.blobs = image.blobs;
    this.chunks = [...loadChunks(bootstrap, image.blobs, digesters.indexOf(traits.digester))];
    this.digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  }

  async put(blobId: string, { target, store, signal }: PutOptions): Promise<Descriptor> {
    const digest = `sha256:${blobId}`;
    const layer = {
      mediaType: nydusMediaTypes.blob,
      digest,
      annotations: { [annotations.blob]: "true", [annotations.role]: "dictionary" },
    };
    const source = this.#source;
    if (!source) {
      if (store || !(await target.hasBlob(digest)))
        throw new NydusImageError(
          "IMAGE_SOURCE",
          `blob ${blobId} of the chunk dictionary ${this.#name} is not in ${target.name}: name the dictionary's image with bootstrap:registry:IMAGE`,
        );
      return { ...layer, size: await blobSize(target, digest, signal) };
    }
    const descriptor = { ...layer, size: await blobSize(source, digest, signal) };
    if (store) await store.take(descriptor, source, { signal });
    else await copyBlob(descriptor, source, target, { signal });
    return descriptor;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source?.[Symbol.asyncDispose]();
  }
}

/** An index in a registry that knows which blob a layer became, for the conversions that come after. Sources: spec/nydusify.md, section 2.7; spec/images.md, section 8 */
import { createHash } from "node:crypto";
import {
  type Descriptor,
  formatPlatform,
  type ImageManifest,
  MEDIA_TYPES,
  type Platform,
  parseManifest,
  RegistryError,
  type RegistryImage,
} from "@nydus-ts/registry-client";
import type { Log } from "../log.ts";
import type { BlobStore } from "./blob-store.ts";
import type { ConvertedLayer } from "./layer.ts";
import { annotations, nydusMediaTypes } from "./manifest.ts";

export interface BuildCacheOptions {
  /** what `--build-cache-version` says: caches of other versions are left alone */
  version: string;
  /** digest of all options that decide what a layer becomes */
  fingerprint: string;
  /** layers that the cache keeps for a platform; the oldest stay */
  recordsMax: number;
  log: Log;
  signal: AbortSignal;
}

interface CacheManifest {
  platform: Platform | undefined;
  manifest: ImageManifest;
  descriptor: Descriptor;
}

/** A cache that can not be read or written is a warning: the conversion goes on without. */
export class BuildCache {
  readonly #image: RegistryImage;
  readonly #options: BuildCacheOptions;
  #records = new Map<string, Descriptor>();
  readonly #used = new Set<string>();

  private constructor(image: RegistryImage, options: BuildCacheOptions) {
    this.#image = image;
    this.#options = options;
  }

  static async open(image: RegistryImage, options: BuildCacheOptions): Promise<BuildCache> {
    const cache = new BuildCache(image, options);
    try {
      const manifests = await cache.#read();
      cache.#records = new Map(manifests.filter((each) => cache.#fits(each)).flatMap(({ manifest }) => recordsOf(manifest)));
      options.log.info(`build cache ${image.name} knows ${cache.#records.size} layers`);
    } catch (error) {
      options.signal.throwIfAborted();
      options.log.warn(`build cache ${image.name} can not be read, the conversion goes on without: ${(error as Error).message}`);
    }
    return cache;
  }

  /** Layers that were taken from the cache. */
  get hits(): number {
    return this.#used.size;
  }

  get image(): RegistryImage {
    return this.#image;
  }

  /** The blob that a layer became, if it is there still. */
  async find(layer: string): Promise<Descriptor | undefined> {
    const blob = this.#records.get(layer);
    if (!blob) return undefined;
    const isThere = await this.#image.hasBlob(blob.digest).catch(() => false);
    if (isThere) this.#used.add(layer);
    return isThere ? blob : undefined;
  }

  /** Forgets a record that turned out to be none. */
  drop(layer: string, why: unknown): void {
    this.#records.delete(layer);
    this.#used.delete(layer);
    this.#options.log.warn(`build cache ${this.#image.name}: layer ${layer} is converted anew: ${(why as Error).message}`);
  }

  /** Adds what this conversion made. What others wrote meanwhile stays. @param from  has the blobs */
  async save(added: readonly { layer: string; converted: ConvertedLayer }[], platform: Platform, from: BlobStore): Promise<void> {
    const { log, recordsMax, signal } = this.#options;
    try {
      const manifests = await this.#read();
      const own = manifests.find((each) => this.#fits(each) && samePlatform(each.platform, platform));
      const records = new Map(own ? recordsOf(own.manifest) : []);
      const before = records.size;
      for (const { layer, converted } of added) {
        if (records.size >= recordsMax) break;
        if (!records.has(layer)) records.set(layer, cacheLayer(layer, converted));
      }
      if (records.size === before) return;
      for (const blob of records.values()) if (!(await this.#image.hasBlob(blob.digest))) await from.give(blob, this.#image, { signal });
      const written = await this.#writeManifest([...records.values()], platform);
      const others = manifests.filter((each) => each !== own).map(({ descriptor }) => descriptor);
      const index = { schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [...others, written] };
      await this.#image.writeManifest(Buffer.from(JSON.stringify(index)), MEDIA_TYPES.ociIndex, true);
      log.info(`build cache ${this.#image.name} knows ${records.size} layers now, ${records.size - before} of them new`);
    } catch (error) {
      signal.throwIfAborted();
      log.warn(`build cache ${this.#image.name} can not be written: ${(error as Error).message}`);
    }
  }

  async #writeManifest(layers: readonly Descriptor[], platform: Platform): Promise<Descriptor> {
    const diffIds = layers.map(({ digest }) => digest);
    const config = Buffer.from(JSON.stringify({ ...platform, rootfs: { type: "layers", diff_ids: diffIds } }));
    const descriptor = {
      mediaType: MEDIA_TYPES.ociConfig,
      digest: `sha256:${createHash("sha256").update(config).digest("hex")}`,
      size: config.length,
    };
    const once = async function* (): AsyncGenerator<Uint8Array> {
      yield config;
    };
    await this.#image.writeBlob(descriptor, once, { signal: this.#options.signal });
    const manifest = {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      config: descriptor,
      layers,
      annotations: { [annotations.cacheVersion]: this.#options.version, [annotations.options]: this.#options.fingerprint },
    };
    const written = await this.#image.writeManifest(Buffer.from(JSON.stringify(manifest)), MEDIA_TYPES.ociManifest, false);
    return { ...written, platform };
  }

  /** Nothing there is an empty cache. */
  async #read(): Promise<CacheManifest[]> {
    let top: Descriptor;
    try {
      top = await this.#image.resolve();
    } catch (error) {
      if (error instanceof RegistryError && error.code === "REGISTRY_NOT_FOUND") return [];
      throw error;
    }
    const index = parseManifest(await this.#image.readManifest(top));
    if (index.kind !== "index") throw new RegistryError("REGISTRY_PROTOCOL", `${this.#image.name} is an image, not a build cache`);
    const found: CacheManifest[] = [];
    for (const descriptor of index.value.manifests) {
      const parsed = parseManifest(await this.#image.readManifest(descriptor));
      if (parsed.kind === "manifest") found.push({ platform: descriptor.platform, manifest: parsed.value, descriptor });
    }
    return found;
  }

  #fits({ manifest }: CacheManifest): boolean {
    const { [annotations.cacheVersion]: version, [annotations.options]: fingerprint } = manifest.annotations ?? {};
    return version === this.#options.version && fingerprint === this.#options.fingerprint;
  }
}

function cacheLayer(source: string, { id, size, reference }: ConvertedLayer): Descriptor {
  return {
    mediaType: nydusMediaTypes.blob,
    digest: `sha256:${id}`,
    size,
    annotations: {
      [annotations.blob]: "true",
      [annotations.sourceDigest]: source,
      [annotations.uncompressed]: `sha256:${id}`,
      ...(reference === undefined ? {} : { [annotations.reference]: reference }),
    },
  };
}

function recordsOf({ layers }: ImageManifest): Array<[source: string, blob: Descriptor]> {
  return layers.flatMap((layer): Array<[string, Descriptor]> => {
    const source = layer.annotations?.[annotations.sourceDigest];
    return source !== undefined && /^sha256:[0-9a-f]{64}$/.test(layer.digest) ? [[source, layer]] : [];
  });
}

const samePlatform = (a: Platform | undefined, b: Platform): boolean => a !== undefined && formatPlatform(a) === formatPlatform(b);

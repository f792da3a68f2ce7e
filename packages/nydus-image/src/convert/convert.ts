/** An OCI image becomes a nydus image: all layers at once, then one bootstrap over them. Source: spec/nydusify.md, section 2; spec/images.md */
import { createHash } from "node:crypto";
import { type BlobEntry, CompressPool, cloneTree, compressorNumbers, digesterNumbers, IndexThreads, mergeLayers } from "@nydus-ts/builder";
import { type Descriptor, type ImageManifest, MEDIA_TYPES, type Platform, RegistryImage } from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import { configBytesMax, layersInBuildMax, layersInFlightMax, layersMax } from "../limits.ts";
import { packBootstrapLayer } from "./bootstrap-layer.ts";
import { readCachedLayer } from "./cached-layer.ts";
import { copyBlob, readBlob } from "./copy-blob.ts";
import type { Dictionary } from "./dictionary.ts";
import { EarlierResult } from "./earlier-result.ts";
import { type ConvertedLayer, convertLayer } from "./layer.ts";
import { createLimiter } from "./limiter.ts";
import {
  annotations,
  blobLayer,
  bootstrapLayer,
  isNydusManifest,
  nydusHistory,
  nydusMediaTypes,
  platformOf,
  rewriteConfig,
  writeIndex,
  writeManifest,
} from "./manifest.ts";
import { makeOciHalf } from "./merged-index.ts";
import type { ConvertOptions } from "./options.ts";
import { listReferrer } from "./referrers.ts";
import { type SelectedImage, selectImages } from "./select.ts";
import { Together } from "./together.ts";
import { workDirectory } from "../work-directory.ts";

export interface ConvertResult {
  /** what the target's name stands for now */
  descriptor: Descriptor;
  sourceBytes: number;
  targetBytes: number;
  blobsWritten: number;
  blobsThere: number;
}

/**
 * Converts the platforms asked for and tags the result. Running it again writes no blob: equal layers and options give equal blobs, and a
 * result that is there whole is not made again.
 * @throws NydusImageError IMAGE_SOURCE, IMAGE_UNSUPPORTED; RegistryError; BuilderError
 */
export async function convertImage(options: ConvertOptions): Promise<ConvertResult> {
  await using work = await workDirectory(options.workDirectory);
  await using pool = new CompressPool();
  await using indexThreads = new IndexThreads();
  try {
    return await new Conversion(options, work.path, { pool, indexThreads }).run();
  } finally {
    options.progress.stop();
  }
}

/** An image of the source with what it became. */
interface Converted {
  image: SelectedImage;
  nydus: Descriptor;
  oci: Descriptor | undefined;
}

interface Threads {
  pool: CompressPool;
  indexThreads: IndexThreads;
}

class Conversion {
  readonly #options: ConvertOptions;
  readonly #workDirectory: string;
  readonly #threads: Threads;
  readonly #limit = createLimiter(layersInFlightMax);
  readonly #limitBuilds = createLimiter(layersInBuildMax);
  /** by digest of the source layer: a layer that several images share is converted once */
  readonly #layers = new Map<string, Promise<ConvertedLayer>>();
  readonly #together: Together;
  readonly #earlier: EarlierResult;
  /** images that were built by this run */
  readonly #made: Array<{ platform: Platform; layers: readonly string[] }> = [];
  #sourceBytes = 0;
  #targetBytes = 0;
  #blobsThere = 0;

  constructor(options: ConvertOptions, workDirectory: string, threads: Threads) {
    this.#threads = threads;
    this.#options = options;
    this.#workDirectory = workDirectory;
    this.#together = new Together(options.signal);
    this.#earlier = new EarlierResult(options);
  }

  async run(): Promise<ConvertResult> {
    const { source, platforms, mergePlatform } = this.#options;
    const { images, index } = await selectImages(source, { platforms, kind: "oci" });
    const alone = images.length === 1 && !mergePlatform;
    const converted = await this.#together.all(images.map((image) => () => this.#image(image, alone)));
    const descriptor = alone ? converted[0].nydus : await this.#writeIndex(converted, index?.annotations);
    await this.#saveCache();
    const layers = await Promise.all(this.#layers.values());
    const blobsWritten = layers.filter(({ uploaded }) => uploaded).length;
    return {
      descriptor,
      sourceBytes: this.#sourceBytes,
      targetBytes: this.#targetBytes,
      blobsWritten,
      blobsThere: layers.length - blobsWritten + this.#blobsThere,
    };
  }

  /** All OCI images, then all nydus images: clients that do not know nydus take the first that fits. */
  async #writeIndex(converted: readonly Converted[], source: Readonly<Record<string, string>> | undefined): Promise<Descriptor> {
    const { mergePlatform, target } = this.#options;
    const withPlatform = (descriptor: Descriptor, { platform }: SelectedImage): Descriptor =>
      platform ? { ...descriptor, platform } : descriptor;
    const oci = converted.flatMap(({ image, oci }) => (oci ? [withPlatform(oci, image)] : []));
    const nydus = converted.map(({ image, nydus }) => ({
      ...withPlatform(nydus, image),
      ...(mergePlatform ? { artifactType: nydusMediaTypes.manifest } : {}),
    }));
    return await target.writeManifest(writeIndex([...oci, ...nydus], source), MEDIA_TYPES.ociIndex, true);
  }

  async #image(image: SelectedImage, tagged: boolean): Promise<Converted> {
    const { source, target, mergePlatform } = this.#options;
    const { descriptor, manifest } = image;
    const what = `${source.name} (${descriptor.digest})`;
    if (isNydusManifest(manifest)) throw new NydusImageError("IMAGE_SOURCE", `${what} is a nydus image already`);
    if (manifest.layers.length === 0) throw new NydusImageError("IMAGE_SOURCE", `${what} has no layers`);
    if (manifest.layers.length > layersMax)
      throw new NydusImageError("IMAGE_SOURCE", `${source.name} has ${manifest.layers.length} layers; at most ${layersMax} are converted`);
    this.#sourceBytes += sizeOf(manifest);
    const earlier = await this.#earlier.find(descriptor.digest);
    if (earlier) {
      this.#targetBytes += sizeOf(earlier.manifest);
      this.#blobsThere += earlier.manifest.layers.length - 1;
    }
    const config = await this.#readConfig(manifest.config);
    const nydus = earlier
      ? await target.writeManifest(earlier.bytes, MEDIA_TYPES.ociManifest, tagged)
      : await this.#nydus(image, config, tagged);
    if (!mergePlatform) return { image, nydus, oci: undefined };
    return { image: { ...image, platform: image.platform ?? platformOf(config) }, nydus, oci: await this.#oci(image, config) };
  }

  async #nydus({ descriptor, manifest, platform }: SelectedImage, config: Buffer, tagged: boolean): Promise<Descriptor> {
    const { source, target, blobs, builderVersion, dictionary, format, mergePlatform, prefetch, withReferrer } = this.#options;
    const layers = await this.#together.all(manifest.layers.map((layer) => () => this.#layer(layer)));
    if (this.#options.cache)
      this.#made.push({ platform: platform ?? platformOf(config), layers: manifest.layers.map(({ digest }) => digest) });
    const merged = mergeLayers({
      fsVersion: format.fsVersion,
      layers: layers.map(({ root }) => cloneTree(root)),
      compressor: compressorNumbers[format.ociRef ? "gzip" : format.compressor],
      digester: digesterNumbers[format.ociRef ? "sha256" : format.digester],
      cipher: dictionary?.blobs.some(({ cipher }) => cipher !== 0) ? 1 : 0,
      explicitUidGid: true,
      prefetch,
    });
    const shared = dictionary ? await this.#shared(dictionary, merged.blobs) : [];
    // Named as the cache files of the run time: by the blob that holds the data.
    const metaFiles = new Map(
      layers.flatMap(({ id, metaFile, reference }) => (metaFile ? [[reference?.slice("sha256:".length) ?? id, metaFile] as const] : [])),
    );
    for (const { digest } of shared) {
      const metaFile = dictionary?.metaFiles.get(digest.slice("sha256:".length));
      if (metaFile) metaFiles.set(digest.slice("sha256:".length), metaFile);
    }
    const packed = await packBootstrapLayer(merged.bootstrap, metaFiles);
    const bootstrap = await this.#writeSmall(nydusMediaTypes.bootstrap, packed.gzip);
    const listed = blobs.inTarget ? [...layers.map(blobLayer), ...shared] : [];
    const diffIds = [...listed.map(({ digest }) => digest), packed.diffId];
    const newConfig = await this.#writeSmall(
      mergePlatform ? nydusMediaTypes.config : MEDIA_TYPES.ociConfig,
      rewriteConfig(config, diffIds, nydusHistory(!blobs.inTarget)),
    );
    this.#targetBytes += [newConfig, bootstrap, ...layers].reduce((total, { size }) => total + size, 0);
    const bytes = writeManifest({
      config: newConfig,
      layers: [...listed, bootstrapLayer(bootstrap.digest, bootstrap.size, format.fsVersion)],
      source: { manifest, digest: descriptor.digest, reference: source instanceof RegistryImage ? source.name : undefined },
      subject: withReferrer ? descriptor : undefined,
      fsVersion: format.fsVersion,
      builderVersion,
      options: this.#earlier.fingerprint,
    });
    const written = await target.writeManifest(bytes, MEDIA_TYPES.ociManifest, tagged);
    if (withReferrer && target instanceof RegistryImage)
      await listReferrer(target, descriptor.digest, { ...written, artifactType: nydusMediaTypes.manifest }, this.#together.signal);
    return written;
  }

  /** The blobs of the dictionary that the image refers to, put where the image's are. */
  async #shared(dictionary: Dictionary, referred: readonly BlobEntry[]): Promise<Descriptor[]> {
    const { target, blobs } = this.#options;
    const { signal } = this.#together;
    const used = referred.filter(({ id }) => dictionary.blobs.some((blob) => blob.id === id));
    const store = blobs.inTarget ? undefined : blobs;
    return await this.#together.all(
      used.map(
        ({ id }) =>
          () =>
            this.#limit(() => dictionary.put(id, { target, store, signal })),
      ),
    );
  }

  /** The OCI half of a merged index. */
  async #oci({ descriptor, bytes, manifest }: SelectedImage, config: Buffer): Promise<Descriptor> {
    const { source, target } = this.#options;
    const half = makeOciHalf(descriptor, bytes, config);
    const { signal } = this.#together;
    await this.#together.all([
      ...manifest.layers.map((layer) => () => this.#limit(() => copyBlob(layer, source, target, { signal }))),
      ...[half.config, half.emptyLayer].map((part) => () => target.writeBlob(part.descriptor, () => once(part.bytes), { signal })),
    ]);
    const written = await target.writeManifest(half.manifest.bytes, half.manifest.mediaType, false);
    return { ...written, annotations: { ...descriptor.annotations, [annotations.sourceDigest]: descriptor.digest } };
  }

  async #readConfig(descriptor: Descriptor): Promise<Buffer> {
    if (descriptor.size > configBytesMax)
      throw new NydusImageError("IMAGE_SOURCE", `the image's config has ${descriptor.size} bytes; at most ${configBytesMax} are read`);
    return await readBlob(descriptor, this.#options.source, { bytesMax: configBytesMax, signal: this.#together.signal });
  }

  #layer(layer: Descriptor): Promise<ConvertedLayer> {
    let converted = this.#layers.get(layer.digest);
    if (!converted) {
      const progress = this.#options.progress.layer(layer.digest.slice(0, 19), layer.size);
      const { source, target, blobs, dictionary, format } = this.#options;
      converted = this.#limit(async () => {
        const { signal } = this.#together;
        signal.throwIfAborted();
        const cached = await this.#cached(layer);
        if (cached) progress.done(cached.uploaded ? "written" : "already there");
        const shared = { workDirectory: this.#workDirectory, ...this.#threads, limitBuilds: this.#limitBuilds };
        const options = { source, blobs, dictionary, format, ...shared, signal };
        const result = cached ?? (await convertLayer(layer, options, progress));
        // The run time reads the data of such an image from the layer, in the repository of the image.
        if (format.ociRef) await copyBlob(layer, source, target, { signal });
        return result;
      });
      this.#layers.set(layer.digest, converted);
    }
    return converted;
  }

  /** What the build cache says the layer became; its blob is then in the target. */
  async #cached({ digest }: Descriptor): Promise<ConvertedLayer | undefined> {
    const { blobs, cache, format } = this.#options;
    const { signal } = this.#together;
    const blob = await cache?.find(digest);
    if (!cache || !blob) return undefined;
    try {
      const reference = format.ociRef ? digest : undefined;
      const layer = await readCachedLayer(blob, cache.image, { workDirectory: this.#workDirectory, reference, signal });
      return { ...layer, uploaded: await blobs.take(blob, cache.image, { signal }) };
    } catch (error) {
      signal.throwIfAborted();
      cache.drop(digest, error);
      return undefined;
    }
  }

  /** The tag stands by now: a cache that can not be written takes nothing away from it. */
  async #saveCache(): Promise<void> {
    const { blobs, cache } = this.#options;
    if (!cache) return;
    for (const { platform, layers } of this.#made) {
      const added = await Promise.all(layers.map(async (layer) => ({ layer, converted: await this.#layers.get(layer)! })));
      await cache.save(added, platform, blobs);
    }
  }

  async #writeSmall(mediaType: string, bytes: Buffer): Promise<Descriptor> {
    const descriptor = { mediaType, digest: `sha256:${createHash("sha256").update(bytes).digest("hex")}`, size: bytes.length };
    await this.#options.target.writeBlob(descriptor, () => once(bytes), { signal: this.#together.signal });
    return descriptor;
  }
}

const sizeOf = ({ config, layers }: ImageManifest): number => [config, ...layers].reduce((total, { size }) => total + size, 0);

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

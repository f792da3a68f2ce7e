/** An OCI image becomes a nydus image: all layers at once, then one bootstrap over them. Source: spec/nydusify.md, section 2; spec/images.md */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Compressor,
  CompressPool,
  cloneTree,
  compressorNumbers,
  type Digester,
  digesterNumbers,
  mergeLayers,
  type PrefetchPolicy,
} from "@nydus-ts/builder";
import {
  type Descriptor,
  formatPlatform,
  type ImageManifest,
  type ImageSource,
  type ImageTarget,
  isIndexType,
  MEDIA_TYPES,
  type Platform,
  parseManifest,
  platformMatches,
  RegistryImage,
} from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import { configBytesMax, layersInFlightMax, layersMax, manifestsMax } from "../limits.ts";
import { packBootstrapLayer } from "./bootstrap-layer.ts";
import { type ConvertedLayer, convertLayer } from "./layer.ts";
import { createLimiter } from "./limiter.ts";
import { blobLayer, bootstrapLayer, isNydusManifest, nydusMediaTypes, rewriteConfig, writeIndex, writeManifest } from "./manifest.ts";
import type { Progress } from "./progress.ts";

export interface ConvertOptions {
  source: ImageSource;
  target: ImageTarget;
  /** undefined: all of them */
  platforms: readonly Platform[] | undefined;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  prefetch: { policy: PrefetchPolicy; patterns: readonly string[] };
  /** where blobs lie until they are written; default: a new directory in the system's temporary directory */
  workDirectory: string | undefined;
  builderVersion: string;
  progress: Progress;
  signal: AbortSignal;
}

export interface ConvertResult {
  /** what the target's name stands for now */
  descriptor: Descriptor;
  sourceBytes: number;
  targetBytes: number;
  blobsWritten: number;
  blobsThere: number;
}

/**
 * Converts the platforms asked for and tags the result. Running it again writes no blob: equal layers and options give equal blobs.
 * @throws NydusImageError IMAGE_SOURCE, IMAGE_UNSUPPORTED; RegistryError; BuilderError
 */
export async function convertImage(options: ConvertOptions): Promise<ConvertResult> {
  const parent = options.workDirectory ?? tmpdir();
  await mkdir(parent, { recursive: true });
  const workDirectory = await mkdtemp(join(parent, "nydus-convert-"));
  await using pool = new CompressPool();
  try {
    return await new Conversion(options, workDirectory, pool).run();
  } finally {
    options.progress.stop();
    await rm(workDirectory, { recursive: true, force: true });
  }
}

class Conversion {
  readonly #options: ConvertOptions;
  readonly #workDirectory: string;
  readonly #pool: CompressPool;
  readonly #limit = createLimiter(layersInFlightMax);
  /** by digest of the source layer: a layer that several images share is converted once */
  readonly #layers = new Map<string, Promise<ConvertedLayer>>();
  /** stops the other layers when one has failed */
  readonly #abort = new AbortController();
  #sourceBytes = 0;
  #targetBytes = 0;

  constructor(options: ConvertOptions, workDirectory: string, pool: CompressPool) {
    this.#pool = pool;
    this.#options = options;
    this.#workDirectory = workDirectory;
  }

  async run(): Promise<ConvertResult> {
    const { source } = this.#options;
    const top = await source.resolve();
    const bytes = await source.readManifest(top);
    const parsed = parseManifest(bytes);
    let descriptor: Descriptor;
    if (parsed.kind === "manifest") {
      descriptor = await this.#manifest(top, parsed.value, true);
    } else {
      const entries = this.#select(parsed.value.manifests);
      if (entries.length === 1) descriptor = await this.#entry(entries[0], true);
      else descriptor = await this.#index(entries, (parsed.value as { annotations?: Record<string, string> }).annotations);
    }
    const layers = await Promise.all(this.#layers.values());
    const blobsWritten = layers.filter(({ uploaded }) => uploaded).length;
    return {
      descriptor,
      sourceBytes: this.#sourceBytes,
      targetBytes: this.#targetBytes,
      blobsWritten,
      blobsThere: layers.length - blobsWritten,
    };
  }

  /** Entries for the platforms asked for. Attestations describe images that are not there any more after a conversion: they are dropped. */
  #select(entries: readonly Descriptor[]): Descriptor[] {
    const { platforms, source } = this.#options;
    const images = entries.filter((entry) => entry.annotations?.["vnd.docker.reference.type"] === undefined);
    const selected = platforms
      ? images.filter((entry) => entry.platform === undefined || platforms.some((wanted) => platformMatches(entry.platform, wanted)))
      : images;
    if (selected.length === 0) {
      const there = images.map((entry) => (entry.platform ? formatPlatform(entry.platform) : "?")).join(", ");
      const wanted = platforms?.map(formatPlatform).join(", ") ?? "any platform";
      throw new NydusImageError(
        "IMAGE_SOURCE",
        `${source.name} has no image for ${wanted}: it has ${there || "none"}; choose with --platform`,
      );
    }
    if (selected.length > manifestsMax)
      throw new NydusImageError("IMAGE_SOURCE", `${source.name} has ${selected.length} images; at most ${manifestsMax} are converted`);
    return selected;
  }

  async #index(entries: readonly Descriptor[], annotations: Readonly<Record<string, string>> | undefined): Promise<Descriptor> {
    const converted = await this.#together(entries.map((entry) => () => this.#entry(entry, false)));
    const manifests = converted.map((descriptor, i) =>
      entries[i].platform ? { ...descriptor, platform: entries[i].platform } : descriptor,
    );
    return await this.#options.target.writeManifest(writeIndex(manifests, annotations), MEDIA_TYPES.ociIndex, true);
  }

  async #entry(entry: Descriptor, tagged: boolean): Promise<Descriptor> {
    if (isIndexType(entry.mediaType))
      throw new NydusImageError("IMAGE_UNSUPPORTED", `${entry.digest} is an index inside an index; convert its images one by one`);
    const parsed = parseManifest(await this.#options.source.readManifest(entry));
    if (parsed.kind !== "manifest") throw new NydusImageError("IMAGE_SOURCE", `${entry.digest} is not an image manifest`);
    return await this.#manifest(entry, parsed.value, tagged);
  }

  async #manifest(descriptor: Descriptor, manifest: ImageManifest, tagged: boolean): Promise<Descriptor> {
    const { source, target, builderVersion } = this.#options;
    if (isNydusManifest(manifest))
      throw new NydusImageError("IMAGE_SOURCE", `${source.name} (${descriptor.digest}) is a nydus image already`);
    if (manifest.layers.length === 0) throw new NydusImageError("IMAGE_SOURCE", `${source.name} (${descriptor.digest}) has no layers`);
    if (manifest.layers.length > layersMax)
      throw new NydusImageError("IMAGE_SOURCE", `${source.name} has ${manifest.layers.length} layers; at most ${layersMax} are converted`);
    const config = await this.#readConfig(manifest.config);
    const layers = await this.#together(manifest.layers.map((layer) => () => this.#layer(layer)));
    const { compressor, digester, prefetch } = this.#options;
    const merged = mergeLayers({
      layers: layers.map(({ root }) => cloneTree(root)),
      compressor: compressorNumbers[compressor],
      digester: digesterNumbers[digester],
      cipher: 0,
      explicitUidGid: true,
      prefetch,
    });
    const metaFiles = new Map(layers.flatMap(({ id, metaFile }) => (metaFile ? [[id, metaFile] as const] : [])));
    const packed = await packBootstrapLayer(merged.bootstrap, metaFiles);
    const bootstrap = await this.#writeSmall(nydusMediaTypes.bootstrap, packed.gzip);
    const newConfig = rewriteConfig(config, [...layers.map(({ id }) => `sha256:${id}`), packed.diffId]);
    const configDescriptor = await this.#writeSmall(MEDIA_TYPES.ociConfig, newConfig);
    this.#sourceBytes += [manifest.config, ...manifest.layers].reduce((total, { size }) => total + size, 0);
    this.#targetBytes += [configDescriptor, bootstrap, ...layers].reduce((total, { size }) => total + size, 0);
    const bytes = writeManifest({
      config: configDescriptor,
      layers: [...layers.map(blobLayer), bootstrapLayer(bootstrap.digest, bootstrap.size)],
      source: { manifest, digest: descriptor.digest, reference: source instanceof RegistryImage ? source.name : undefined },
      builderVersion,
    });
    return await target.writeManifest(bytes, MEDIA_TYPES.ociManifest, tagged);
  }

  async #readConfig(descriptor: Descriptor): Promise<Buffer> {
    if (descriptor.size > configBytesMax)
      throw new NydusImageError("IMAGE_SOURCE", `the image's config has ${descriptor.size} bytes; at most ${configBytesMax} are read`);
    const parts: Uint8Array[] = [];
    for await (const part of this.#options.source.openBlob(descriptor, { signal: this.#signal() })) parts.push(part);
    return Buffer.concat(parts);
  }

  #layer(layer: Descriptor): Promise<ConvertedLayer> {
    let converted = this.#layers.get(layer.digest);
    if (!converted) {
      const progress = this.#options.progress.layer(layer.digest.slice(0, 19), layer.size);
      const { source, target, compressor, digester, chunkSize } = this.#options;
      converted = this.#limit(async () => {
        const signal = this.#signal();
        signal.throwIfAborted();
        return await convertLayer(
          layer,
          { source, target, compressor, digester, chunkSize, workDirectory: this.#workDirectory, pool: this.#pool, signal },
          progress,
        );
      });
      this.#layers.set(layer.digest, converted);
    }
    return converted;
  }

  /** All results in order, or the first failure, once everything has stopped: nothing may go on in a work directory that is removed. */
  async #together<T>(tasks: ReadonlyArray<() => Promise<T>>): Promise<T[]> {
    const results = await Promise.allSettled(
      tasks.map(async (task) => {
        try {
          return await task();
        } catch (failure) {
          if (!this.#abort.signal.aborted) this.#abort.abort(failure);
          throw failure;
        }
      }),
    );
    if (this.#abort.signal.aborted) throw this.#abort.signal.reason;
    return results.map((result) => (result as PromiseFulfilledResult<T>).value);
  }

  #signal(): AbortSignal {
    return AbortSignal.any([this.#abort.signal, this.#options.signal]);
  }

  async #writeSmall(mediaType: string, bytes: Buffer): Promise<Descriptor> {
    const descriptor = { mediaType, digest: `sha256:${createHash("sha256").update(bytes).digest("hex")}`, size: bytes.length };
    await this.#options.target.writeBlob(descriptor, () => once(bytes), { signal: this.#signal() });
    return descriptor;
  }
}

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

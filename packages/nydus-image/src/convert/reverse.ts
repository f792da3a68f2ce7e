/** A nydus image becomes an OCI image: each blob a gzip layer again. Source: spec/nydusify.md, section 3 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream, createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { finished, pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { localfsBackend } from "@nydus-ts/chunk-store";
import { type Descriptor, MEDIA_TYPES } from "@nydus-ts/registry-client";
import { readBootstrapFile, storedBlobId } from "../bootstrap-file.ts";
import { writeMembers } from "../commands/unpack.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { ImageChunks } from "../image-chunks.ts";
import { configBytesMax, layersInBuildMax } from "../limits.ts";
import type { ConvertResult } from "./convert.ts";
import { blobSize, copyBlob, readBlob } from "./copy-blob.ts";
import { createLimiter } from "./limiter.ts";
import { annotations, isConverterHistory, isNydusManifest, ociAnnotations, rewriteConfig, writeIndex } from "./manifest.ts";
import type { ConvertOptions } from "./options.ts";
import type { LayerProgress } from "./progress.ts";
import { type SelectedImage, selectImages } from "./select.ts";
import { Together } from "./together.ts";
import { workDirectory } from "../work-directory.ts";

export type ReverseOptions = Pick<ConvertOptions, "source" | "target" | "platforms" | "workDirectory" | "progress" | "signal">;

const layerTypes = { gzip: "application/vnd.oci.image.layer.v1.tar+gzip", none: "application/vnd.oci.image.layer.v1.tar" } as const;

/**
 * The files of the result are those of the source; its layers are equivalent to those the source was made of, not the same bytes. An image
 * that refers to layers gets these layers back as they are.
 * @throws NydusImageError IMAGE_SOURCE: no nydus image; IMAGE_UNSUPPORTED: its data are elsewhere
 */
export async function reverseImage(options: ReverseOptions): Promise<ConvertResult> {
  await using work = await workDirectory(options.workDirectory);
  try {
    return await new Reversal(options, work.path).run();
  } finally {
    options.progress.stop();
  }
}

interface OciLayer {
  descriptor: Descriptor;
  diffId: string;
  uploaded: boolean;
}

class Reversal {
  readonly #options: ReverseOptions;
  readonly #workDirectory: string;
  readonly #together: Together;
  readonly #limit = createLimiter(layersInBuildMax);
  /** by digest of the nydus blob */
  readonly #layers = new Map<string, Promise<OciLayer>>();
  /** files of the work directory, by digest */
  readonly #files = new Map<string, Promise<string>>();
  #sourceBytes = 0;
  #targetBytes = 0;

  constructor(options: ReverseOptions, workDirectory: string) {
    this.#options = options;
    this.#workDirectory = workDirectory;
    this.#together = new Together(options.signal);
  }

  async run(): Promise<ConvertResult> {
    const { source, target, platforms } = this.#options;
    const { images } = await selectImages(source, { platforms, kind: "nydus" });
    const alone = images.length === 1;
    const written = await this.#together.all(images.map((image) => () => this.#image(image, alone)));
    const manifests = written.map((descriptor, i) => (images[i].platform ? { ...descriptor, platform: images[i].platform } : descriptor));
    const descriptor = alone ? written[0] : await target.writeManifest(writeIndex(manifests, undefined), MEDIA_TYPES.ociIndex, true);
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

  async #image({ descriptor, manifest }: SelectedImage, tagged: boolean): Promise<Descriptor> {
    const { source, target } = this.#options;
    const { signal } = this.#together;
    const what = `${source.name} (${descriptor.digest})`;
    if (!isNydusManifest(manifest)) throw new NydusImageError("IMAGE_SOURCE", `${what} is not a nydus image: there is nothing to reverse`);
    const blobs = manifest.layers.slice(0, -1);
    const hot = `sha256:${manifest.layers.at(-1)?.annotations?.[annotations.prefetchBlob]}`;
    const ofImage = blobs.filter((blob) => blob.digest !== hot && blob.annotations?.[annotations.role] === undefined);
    if (ofImage.length === 0) throw unsupported(`${what} keeps its data outside of the registry; reversing it`, "keep the OCI image");
    this.#sourceBytes += [manifest.config, ...manifest.layers].reduce((total, { size }) => total + size, 0);
    const config = await readBlob(manifest.config, source, { bytesMax: configBytesMax, signal });
    const layers = await this.#together.all(ofImage.map((blob) => () => this.#layer(blob, blobs)));
    const newConfig = rewriteConfig(
      config,
      layers.map(({ diffId }) => diffId),
      (lines) => lines.filter((line) => !isConverterHistory(line)),
    );
    const configDescriptor = { mediaType: MEDIA_TYPES.ociConfig, digest: sha256(newConfig), size: newConfig.length };
    await target.writeBlob(configDescriptor, () => one(newConfig), { signal });
    this.#targetBytes += [configDescriptor, ...layers.map((layer) => layer.descriptor)].reduce((total, { size }) => total + size, 0);
    const kept = ociAnnotations(manifest);
    const bytes = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MEDIA_TYPES.ociManifest,
        config: configDescriptor,
        layers: layers.map((layer) => layer.descriptor),
        ...(Object.keys(kept).length > 0 ? { annotations: kept } : {}),
      }),
    );
    return await target.writeManifest(bytes, MEDIA_TYPES.ociManifest, tagged);
  }

  #layer(blob: Descriptor, all: readonly Descriptor[]): Promise<OciLayer> {
    let layer = this.#layers.get(blob.digest);
    if (!layer) {
      const progress = this.#options.progress.layer(blob.digest.slice(0, 19), blob.size);
      const reference = blob.annotations?.[annotations.reference];
      layer = this.#limit(() => (reference === undefined ? this.#rebuild(blob, all, progress) : this.#original(reference, progress)));
      this.#layers.set(blob.digest, layer);
    }
    return layer;
  }

  /** The layer that the blob refers to, as it is. It is read for its diff ID. */
  async #original(digest: string, progress: LayerProgress): Promise<OciLayer> {
    const { source, target } = this.#options;
    const { signal } = this.#together;
    const size = await blobSize(source, digest, signal);
    const blob: Descriptor = { mediaType: layerTypes.gzip, digest, size };
    const hash = createHash("sha256");
    let compression: keyof typeof layerTypes | undefined;
    const pieces = async function* () {
      for await (const piece of source.openBlob(blob, { signal })) {
        compression ??= piece[0] === 0x1f && piece[1] === 0x8b ? "gzip" : "none";
        progress.read(piece.length);
        yield piece;
      }
    };
    const first = pieces();
    const head = await first.next();
    const whole = async function* () {
      if (!head.done) yield head.value;
      yield* first;
    };
    if (compression === "gzip") {
      await pipeline(whole, createGunzip(), async (data: AsyncIterable<Uint8Array>) => {
        for await (const piece of data) hash.update(piece);
      });
    } else for await (const piece of whole()) hash.update(piece);
    const descriptor = { ...blob, mediaType: layerTypes[compression ?? "none"] };
    const uploaded = await copyBlob(descriptor, source, target, { signal });
    progress.done(uploaded ? "written" : "already there");
    return { descriptor, diffId: `sha256:${hash.digest("hex")}`, uploaded };
  }

  /** A layer from the files of one blob's bootstrap. Their data may lie in other blobs of the image too. */
  async #rebuild(blob: Descriptor, all: readonly Descriptor[], progress: LayerProgress): Promise<OciLayer> {
    const { source, target } = this.#options;
    const { signal } = this.#together;
    const path = await this.#fetch(blob, progress);
    const file = await readBootstrapFile(path);
    const output = `${path}.tar.gz`;
    try {
      for (const record of file.bootstrap.blobs) {
        const id = storedBlobId(file, record);
        const other = all.find(({ digest }) => digest === `sha256:${id}`);
        if (!other) throw new NydusImageError("IMAGE_SOURCE", `it needs blob ${id}, which the image does not list`);
        await this.#fetch(other, progress);
      }
      await using backend = localfsBackend({ dir: this.#workDirectory });
      const chunks = new ImageChunks(file, backend, signal);
      const { diffId, digest, size } = await writeGzip(output, (sink) => writeMembers(sink, file.bootstrap, chunks, signal));
      const descriptor: Descriptor = { mediaType: layerTypes.gzip, digest, size };
      const uploaded = await target.writeBlob(descriptor, () => createReadStream(output, { highWaterMark: 1024 * 1024 }), {
        signal,
        onProgress: (bytes) => progress.written(bytes, size),
      });
      progress.done(uploaded ? "written" : "already there");
      return { descriptor, diffId, uploaded };
    } catch (cause) {
      throw new NydusImageError("IMAGE_SOURCE", `blob ${blob.digest} of ${source.name} can not be made a layer`, { cause });
    } finally {
      await rm(output, { force: true });
    }
  }

  #fetch(blob: Descriptor, progress: LayerProgress): Promise<string> {
    let file = this.#files.get(blob.digest);
    if (!file) {
      const path = join(this.#workDirectory, blob.digest.slice("sha256:".length));
      const { source } = this.#options;
      const { signal } = this.#together;
      const pieces = async function* () {
        for await (const piece of source.openBlob(blob, { signal })) {
          progress.read(piece.length);
          yield piece;
        }
      };
      file = pipeline(pieces, createWriteStream(path)).then(() => path);
      this.#files.set(blob.digest, file);
    }
    return file;
  }
}

/** Writes what `fill` gives as gzip: equal input gives equal bytes, for the header has no time. */
async function writeGzip(
  path: string,
  fill: (sink: { writeFile(bytes: Uint8Array): Promise<void> }) => Promise<void>,
): Promise<{ diffId: string; digest: string; size: number }> {
  const tarHash = createHash("sha256");
  const gzipHash = createHash("sha256");
  let size = 0;
  const gzip = createGzip();
  const written = pipeline(
    gzip,
    async function* (source: AsyncIterable<Buffer>) {
      for await (const piece of source) {
        gzipHash.update(piece);
        size += piece.length;
        yield piece;
      }
    },
    createWriteStream(path),
  );
  written.catch(() => {}); // told by the await below, or by a write that fails first
  try {
    await fill({
      async writeFile(bytes) {
        tarHash.update(bytes);
        if (!gzip.write(bytes)) await Promise.race([once(gzip, "drain"), finished(gzip)]);
      },
    });
    gzip.end();
    await written;
  } catch (error) {
    gzip.destroy();
    throw error;
  }
  return { diffId: `sha256:${tarHash.digest("hex")}`, digest: `sha256:${gzipHash.digest("hex")}`, size };
}

const sha256 = (bytes: Uint8Array): string => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

async function* one(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

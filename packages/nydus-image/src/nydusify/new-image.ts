/** A nydus image made of another one: what `optimize`, `commit` and `chunkdict` write at the end. Source: spec/images.md, section 2 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import {
  type Descriptor,
  type ImageManifest,
  type ImageSource,
  type ImageTarget,
  MEDIA_TYPES,
  type WriteOptions,
} from "@nydus-ts/registry-client";
import { packBootstrapLayer } from "../convert/bootstrap-layer.ts";
import { blobSize, copyBlob } from "../convert/copy-blob.ts";
import { createLimiter } from "../convert/limiter.ts";
import { annotations, bootstrapLayer, nydusMediaTypes, rewriteConfig } from "../convert/manifest.ts";
import { Together } from "../convert/together.ts";
import { blobsInCopyMax } from "../limits.ts";

export interface NewImage {
  target: ImageTarget;
  /** of the image that it is made of */
  manifest: ImageManifest;
  /** likewise */
  config: Buffer;
  /** all but the bootstrap; they are in the target */
  blobs: readonly Descriptor[];
  bootstrap: Buffer;
  fsVersion: 5 | 6;
  /** beside the bootstrap, by whole name */
  files: ReadonlyMap<string, Buffer>;
  /** of the bootstrap layer, beside those that each has */
  bootstrapAnnotations: Readonly<Record<string, string>>;
  history: (lines: readonly unknown[]) => readonly unknown[];
  signal: AbortSignal;
}

/** The tag comes last: before it, nobody sees anything of the image. */
export async function writeNewImage(image: NewImage): Promise<Descriptor> {
  const { target, manifest, blobs, fsVersion, signal } = image;
  const packed = await packBootstrapLayer(image.bootstrap, new Map(), image.files);
  const bootstrap = await writeBytes(target, nydusMediaTypes.bootstrap, packed.gzip, signal);
  const diffIds = [...blobs.map(({ digest }) => digest), packed.diffId];
  const config = await writeBytes(target, MEDIA_TYPES.ociConfig, rewriteConfig(image.config, diffIds, image.history), signal);
  const layer = bootstrapLayer(bootstrap.digest, bootstrap.size, fsVersion);
  // An equal conversion must not take this image for its own result.
  const { [annotations.options]: _, ...kept } = manifest.annotations ?? {};
  const value = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    config,
    layers: [...blobs, { ...layer, annotations: { ...layer.annotations, ...image.bootstrapAnnotations } }],
    annotations: { ...kept, [annotations.fsVersion]: String(fsVersion) },
  };
  return await target.writeManifest(Buffer.from(JSON.stringify(value)), MEDIA_TYPES.ociManifest, true);
}

/** The blobs of an image, and the layers that they refer to, into another repository; those that are there stay. */
export async function copyBlobs(layers: readonly Descriptor[], from: ImageSource, to: ImageTarget, signal: AbortSignal): Promise<void> {
  const together = new Together(signal);
  const limit = createLimiter(blobsInCopyMax);
  const parts = [...layers];
  for (const digest of new Set(layers.flatMap((layer) => layer.annotations?.[annotations.reference] ?? [])))
    parts.push({ mediaType: "application/octet-stream", digest, size: await blobSize(from, digest, signal) });
  const unique = [...new Map(parts.map((part) => [part.digest, part])).values()];
  await together.all(unique.map((part) => () => limit(() => copyBlob(part, from, to, { signal: together.signal }))));
}

/** Stores a blob of this machine, or of a store beside the registry, and gives it as a layer. Its name is its digest. */
export async function writeBlobFile(
  target: ImageTarget,
  blob: ({ path: string } | { open: () => AsyncIterable<Uint8Array> }) & {
    digest: string;
    size: number;
    annotations?: Readonly<Record<string, string>>;
  },
  options: WriteOptions,
): Promise<Descriptor> {
  const { digest, size } = blob;
  const layer = { mediaType: nydusMediaTypes.blob, digest, size, annotations: { [annotations.blob]: "true", ...blob.annotations } };
  await target.writeBlob(layer, "open" in blob ? blob.open : () => createReadStream(blob.path, { highWaterMark: 1024 * 1024 }), options);
  return layer;
}

export async function writeBytes(target: ImageTarget, mediaType: string, bytes: Buffer, signal: AbortSignal): Promise<Descriptor> {
  const descriptor = { mediaType, digest: `sha256:${createHash("sha256").update(bytes).digest("hex")}`, size: bytes.length };
  await target.writeBlob(descriptor, () => once(bytes), { signal });
  return descriptor;
}

async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

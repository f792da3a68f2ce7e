/** An image as `check`, `mount` and `copy` look at it: its OCI half and its nydus half. Source: spec/nydusify.md, section 5.2 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { readArchive } from "@nydus-ts/builder";
import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import { openBootstrap } from "@nydus-ts/rafs-format";
import {
  dockerConfigCredentials,
  type ImageSource,
  LayoutImage,
  openImageSource,
  type Platform,
  parsePlatform,
  RegistryImage,
  registryBackend,
  registryEnvironment,
} from "@nydus-ts/registry-client";
import type { BootstrapFile } from "../bootstrap-file.ts";
import { readBlob } from "../convert/copy-blob.ts";
import { isNydusManifest } from "../convert/manifest.ts";
import { type SelectedImage, selectImages } from "../convert/select.ts";
import { NydusImageError } from "../errors.ts";
import { bootstrapLayerBytesMax, configBytesMax } from "../limits.ts";

const gunzipAsync = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(gunzip);

export interface OpenOptions {
  insecure: boolean;
  signal: AbortSignal;
}

export async function openSource(reference: string, { insecure, signal }: OpenOptions): Promise<ImageSource> {
  return await openImageSource(reference, { credentials: dockerConfigCredentials({}), signal, skipVerify: insecure });
}

/** Exactly one `linux/amd64` or `linux/arm64`. @throws NydusImageError IMAGE_ARGUMENT */
export function onePlatform(text: string): Platform {
  if (!/^linux\/(amd64|arm64)$/.test(text))
    throw new NydusImageError("IMAGE_ARGUMENT", `--platform ${text}: it is one of linux/amd64, linux/arm64`);
  return parsePlatform(text);
}

export interface Halves {
  oci: SelectedImage | undefined;
  nydus: SelectedImage | undefined;
}

/** What the name stands for on a platform. @throws NydusImageError IMAGE_SOURCE: nothing */
export async function readHalves(source: ImageSource, platform: Platform): Promise<Halves> {
  const { images } = await selectImages(source, { platforms: [platform], kind: "all" });
  return {
    oci: images.find(({ manifest }) => !isNydusManifest(manifest)),
    nydus: images.find(({ manifest }) => isNydusManifest(manifest)),
  };
}

export async function readConfig(source: ImageSource, { manifest }: SelectedImage, signal: AbortSignal): Promise<Buffer> {
  return await readBlob(manifest.config, source, { bytesMax: configBytesMax, signal });
}

/** Files of a bootstrap layer by name; `diffId` is that of the bytes that were there. */
export interface BootstrapLayerFiles {
  bootstrap: BootstrapFile;
  files: ReadonlyMap<string, Buffer>;
  diffId: string;
}

/** @throws NydusImageError IMAGE_SOURCE: no bootstrap in it; BuilderError, RafsError: damaged */
export async function readBootstrapLayer(
  source: ImageSource,
  { manifest }: SelectedImage,
  signal: AbortSignal,
): Promise<BootstrapLayerFiles> {
  const layer = manifest.layers.at(-1)!;
  const packed = await readBlob(layer, source, { bytesMax: bootstrapLayerBytesMax, signal });
  const plain = await gunzipAsync(packed, { maxOutputLength: bootstrapLayerBytesMax }).catch((cause: unknown) => {
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `bootstrap layer ${layer.digest} of ${source.name} is no gzip of at most ${bootstrapLayerBytesMax} bytes`,
      { cause },
    );
  });
  const files = new Map<string, Buffer>();
  for await (const member of readArchive(oncePiece(plain))) {
    if (member.kind !== "file") continue;
    const bytes = Buffer.alloc(member.size);
    await member.read(bytes);
    files.set(member.name, bytes);
  }
  const bytes = files.get("image/image.boot") ?? files.get("image.boot");
  if (!bytes) throw new NydusImageError("IMAGE_SOURCE", `bootstrap layer ${layer.digest} of ${source.name} holds no image/image.boot`);
  return {
    bootstrap: { path: "image.boot", bytes, bootstrap: openBootstrap(bytes), blob: undefined },
    files,
    diffId: `sha256:${createHash("sha256").update(plain).digest("hex")}`,
  };
}

/** Where the blobs of an image are read: beside its manifest. */
export async function blobBackend(source: ImageSource, insecure: boolean): Promise<BlobBackend> {
  if (source instanceof LayoutImage) return localfsBackend({ dir: join(source.directory, "blobs/sha256") });
  if (!(source instanceof RegistryImage)) throw new TypeError("a source of another kind");
  const { host, repository } = source.reference;
  const reach = registryEnvironment(host, undefined, process.env);
  return await registryBackend({ host, repository, credentials: dockerConfigCredentials({}), skipVerify: insecure, ...reach });
}

async function* oncePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

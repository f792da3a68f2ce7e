/** One OCI layer becomes one nydus blob, and is written to its store as soon as it is whole. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, open, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type BlobEntry,
  type Compressor,
  type CompressPool,
  type CreateResult,
  type CreateSource,
  countDropped,
  createImage,
  type Digester,
  type IndexThreads,
  type TreeNode,
  withoutInlinedBootstrap,
} from "@nydus-ts/builder";
import { readToc, tocTailBytes } from "@nydus-ts/rafs-format";
import type { Descriptor, ImageSource } from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import type { BlobStore } from "./blob-store.ts";
import type { Dictionary } from "./dictionary.ts";
import type { Limiter } from "./limiter.ts";
import type { LayerProgress } from "./progress.ts";

/** How layers are built. All of it changes the blobs. */
export interface LayerFormat {
  fsVersion: 5 | 6;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  /** bytes of a batch of small chunks; 0: each is stored alone */
  batchSize: number;
  /** version 5: chunks start at multiples of 4 KiB */
  alignedChunks: boolean;
  /** layers stay as they are, and blobs only say where in them things are */
  ociRef: boolean;
}

export interface LayerOptions {
  source: ImageSource;
  blobs: BlobStore;
  format: LayerFormat;
  dictionary: Dictionary | undefined;
  workDirectory: string;
  pool: CompressPool;
  indexThreads: IndexThreads;
  /** layers that are built at the same time take turns by this */
  limitBuilds: Limiter;
  signal: AbortSignal;
}

export interface ConvertedLayer {
  id: string;
  size: number;
  root: TreeNode;
  /** undefined if the layer has no file data */
  blob: BlobEntry | undefined;
  metaFile: Buffer | undefined;
  /** digest of the source's layer that holds the data, if the blob does not */
  reference: string | undefined;
  /** false: the store had the blob already */
  uploaded: boolean;
}

/**
 * The layer's bytes go through memory once: download, decompress, chunk, compress, into a file of the work directory. The blob's digest is
 * its name in the store, so it is written there when it is whole, and not at all if it is there.
 */
export async function convertLayer(layer: Descriptor, options: LayerOptions, progress: LayerProgress): Promise<ConvertedLayer> {
  if (/\+encrypted$/.test(layer.mediaType)) {
    throw new NydusImageError("IMAGE_UNSUPPORTED", `layer ${layer.digest} is encrypted: decrypt the image before converting it`);
  }
  const { source, blobs, format, workDirectory, pool, indexThreads, limitBuilds, signal } = options;
  const directory = await mkdtemp(join(workDirectory, "layer-"));
  const kind: CreateSource["kind"] & ("layer" | "tar") = format.ociRef ? "layer" : "tar";
  const build = (): Promise<CreateResult> =>
    createImage({
      source: { kind, stream: counted(source.openBlob(layer, { signal }), (bytes) => progress.read(bytes)), bytes: layer.size },
      blob: { directory, isTemporary: true },
      bootstrap: undefined,
      blobId: "",
      blobOffset: 0,
      compressor: format.compressor,
      digester: format.digester,
      chunkSize: format.chunkSize,
      chunkInfoVersion: 1,
      batchSize: format.batchSize,
      toc: format.fsVersion === 6,
      explicitUidGid: true,
      ...(format.fsVersion === 5 ? { version5: { alignedChunks: format.alignedChunks } } : {}),
      prefetch: { policy: "none", patterns: [] },
      ...(options.dictionary ? { dictionary: options.dictionary } : {}),
      pool,
      indexThreads,
    });
  const built = await limitBuilds(build).catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_SOURCE", `layer ${layer.digest} of ${source.name} can not be converted`, { cause });
  });
  const { path, size } = built.blob!;
  // The name that the builder gives to a description leaves some sections out, as the original's does; a registry wants the digest of all.
  const id = format.ociRef ? await hashFile(path) : built.blob!.id;
  const own = built.blobs.find((each) => !options.dictionary?.blobs.includes(each));
  const blob = own && Object.assign(own, withoutInlinedBootstrap(own));
  if (blob && format.ociRef) await describeReference(blob, { id, path, size });
  const descriptor: Descriptor = { mediaType: "application/octet-stream", digest: `sha256:${id}`, size };
  const uploaded = await blobs.write(descriptor, path, { signal, onProgress: (bytes) => progress.written(bytes, size) });
  await rm(directory, { recursive: true, force: true });
  progress.done(uploaded ? "written" : "already there");
  return { id, size, root: built.root, blob, metaFile: built.metaFile, reference: format.ociRef ? layer.digest : undefined, uploaded };
}

/** The merged bootstrap says where the description of a layer's data is: which blob, how large, with which table of contents. Source: spec/nydus-image.md, section 12.1 */
async function describeReference(blob: BlobEntry, file: { id: string; path: string; size: number }): Promise<void> {
  await using handle = await open(file.path, "r");
  const tail = Buffer.alloc(tocTailBytes(file.size));
  await handle.read(tail, 0, tail.length, file.size - tail.length);
  blob.metaDigest = Buffer.from(file.id, "hex");
  blob.metaSize = file.size;
  blob.tocDigest = readToc(tail, file.size)!.digest;
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(piece);
  return hash.digest("hex");
}

async function* counted(stream: AsyncIterable<Uint8Array>, count: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  for await (const piece of stream) {
    count(piece.length);
    countDropped(piece.length);
    yield piece;
  }
}

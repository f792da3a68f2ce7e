/** One OCI layer becomes one nydus blob, and is written to the target as soon as it is whole. */
import { createReadStream } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type BlobEntry,
  type Compressor,
  type CompressPool,
  createImage,
  type Digester,
  type TreeNode,
  withoutInlinedBootstrap,
} from "@nydus-ts/builder";
import type { Descriptor, ImageSource, ImageTarget } from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import type { LayerProgress } from "./progress.ts";

export interface LayerOptions {
  source: ImageSource;
  target: ImageTarget;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  workDirectory: string;
  pool: CompressPool;
  signal: AbortSignal;
}

export interface ConvertedLayer {
  id: string;
  size: number;
  root: TreeNode;
  /** undefined if the layer has no file data */
  blob: BlobEntry | undefined;
  metaFile: Buffer | undefined;
  /** false: the target had the blob already */
  uploaded: boolean;
}

/**
 * The layer's bytes go through memory once: download, decompress, chunk, compress, into a file of the work directory. The blob's digest is
 * its name in the registry, so it is written there when it is whole, and not at all if the target has it.
 */
export async function convertLayer(layer: Descriptor, options: LayerOptions, progress: LayerProgress): Promise<ConvertedLayer> {
  if (/\+encrypted$/.test(layer.mediaType)) {
    throw new NydusImageError("IMAGE_UNSUPPORTED", `layer ${layer.digest} is encrypted: decrypt the image before converting it`);
  }
  const { source, target, compressor, digester, chunkSize, workDirectory, pool, signal } = options;
  const directory = await mkdtemp(join(workDirectory, "layer-"));
  const stream = counted(source.openBlob(layer, { signal }), (bytes) => progress.read(bytes));
  const built = await createImage({
    source: { kind: "tar", stream },
    blob: { directory },
    bootstrap: undefined,
    blobId: "",
    blobOffset: 0,
    compressor,
    digester,
    chunkSize,
    chunkInfoVersion: 1,
    toc: true,
    explicitUidGid: true,
    prefetch: { policy: "none", patterns: [] },
    pool,
  }).catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_SOURCE", `layer ${layer.digest} of ${source.name} can not be converted`, { cause });
  });
  const { id, path, size } = built.blob!;
  const descriptor: Descriptor = { mediaType: "application/octet-stream", digest: `sha256:${id}`, size };
  const uploaded = await target.writeBlob(descriptor, () => createReadStream(path, { highWaterMark: 1024 * 1024 }), {
    signal,
    onProgress: (bytes) => progress.written(bytes, size),
  });
  await rm(directory, { recursive: true, force: true });
  progress.done(uploaded ? "written" : "already there");
  const blob = built.blobs[0] && Object.assign(built.blobs[0], withoutInlinedBootstrap(built.blobs[0]));
  return { id, size, root: built.root, blob, metaFile: built.metaFile, uploaded };
}

async function* counted(stream: AsyncIterable<Uint8Array>, count: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  for await (const piece of stream) {
    count(piece.length);
    yield piece;
  }
}

/** An image that is read, changed in part, and written again: what `optimize` and `compact` share. */
import {
  type BlobEntry,
  type BlobKey,
  type ChunkBytes,
  type Compressor,
  compressorNumbers,
  type Digester,
  type LoadedImage,
  newBlobKey,
  type TreeNode,
} from "@nydus-ts/builder";
import { type Bootstrap, digesters, hasFeature, superFlags } from "@nydus-ts/rafs-format";
import { numberTree, type StoredChunk, writeBootstrap, writeBootstrapV5 } from "@nydus-ts/rafs-format/writer";
import { compressorOf } from "./commands/merge.ts";
import { unsupported } from "./errors.ts";
import type { ImageChunks } from "./image-chunks.ts";
import type { LayerFile } from "./layer-file.ts";

export interface EditableImage extends LoadedImage {
  /** nodes of the prefetch table */
  prefetch: TreeNode[];
}

/**
 * An image whose chunks may be moved.
 * @throws NydusImageError IMAGE_UNSUPPORTED (tarfs: its blobs are the layers' tars, of which nothing can be left out)
 */
export function editable({ image }: LayerFile, verb: string): EditableImage {
  const { flags } = image.bootstrap;
  if ((flags & superFlags.tarfsMode) !== 0n)
    throw unsupported(`${verb} of a tarfs image`, "its data is a plain tar; build it with `--type tar-rafs`");
  return { ...image, prefetch: prefetchNodes(image) };
}

function prefetchNodes({ bootstrap, root }: LoadedImage): TreeNode[] {
  const wanted = new Map(bootstrap.prefetchNids.map((nid, i) => [nid, i]));
  const nodes: TreeNode[] = [];
  if (wanted.size === 0) return nodes;
  for (const { path, nid } of bootstrap.walk()) {
    const position = wanted.get(nid);
    if (position !== undefined) nodes[position] ??= findNode(root, Buffer.from(path).toString("latin1"))!;
  }
  return nodes.filter((node) => node !== undefined);
}

/** The node of an absolute path, one byte per code unit; links are not followed. */
export function findNode(root: TreeNode, path: string): TreeNode | undefined {
  let node: TreeNode | undefined = root;
  for (const name of path.split("/").filter((part) => part !== "")) node = node?.children?.get(name);
  return node;
}

/** The bootstrap of the tree as it is now, with the settings of the image it was. */
export function writeEdited(image: EditableImage, blobs: readonly BlobEntry[]): Buffer {
  const { bootstrap, root, prefetch } = image;
  const order = numberTree(root);
  const isV5 = bootstrap.version === 5;
  return (isV5 ? writeBootstrapV5 : writeBootstrap)({
    root,
    nodeCount: order.length,
    blobs,
    chunkSize: bootstrap.chunkSize,
    compressor: compressorNumbers[compressorOf(bootstrap.flags)],
    digester: digesters.indexOf(digesterOf(bootstrap)),
    cipher: blobs.some(({ cipher }) => cipher !== 0) ? 1 : 0,
    explicitUidGid: (bootstrap.flags & superFlags.explicitUidGid) !== 0n,
    hasXattr: !isV5 || order.some((node) => node.xattrs !== undefined),
    prefetch,
  });
}

export function digesterOf(bootstrap: Bootstrap): Digester {
  return (bootstrap.flags & superFlags.hashSha256) !== 0n ? "sha256" : "blake3";
}

/** The compressor of a new blob: that of the image. No chunk is stored as gzip but in layers that stay as they are. */
export function blobCompressorOf(bootstrap: Bootstrap): Compressor {
  const compressor = compressorOf(bootstrap.flags);
  return compressor === "gzip" ? "zstd" : compressor;
}

/** What a new blob has of the image that it is for. */
export function blobTraits(bootstrap: Bootstrap) {
  return {
    version: bootstrap.version,
    compressor: blobCompressorOf(bootstrap),
    digester: digesterOf(bootstrap),
    chunkSize: bootstrap.chunkSize,
    chunkInfoVersion: bootstrap.blobs.some((each) => hasFeature(each, "chunkInfoV2")) ? 2 : 1,
    key: newKeyFor(bootstrap),
  } as const;
}

/** A key for a new blob, where the image is encrypted: chunks of several blobs, each with a key of its own, come together in it. */
export function newKeyFor({ flags }: Bootstrap): BlobKey | undefined {
  return (flags & superFlags.encryptionAes128Xts) === 0n ? undefined : newBlobKey();
}

/** Bytes of the chunks of an image, by their blob's place in its table. */
export function chunkBytes(image: EditableImage, chunks: ImageChunks): ChunkBytes {
  const index = new Map(image.blobs.map((blob, i) => [blob, i]));
  const reader = (chunk: StoredChunk) => chunks.reader(index.get(chunk.blob)!);
  return {
    stored: async (chunk) => await (await reader(chunk)).readStored(chunk.index),
    data: async (chunk) => await (await reader(chunk)).read(chunk.index),
  };
}

/** All nodes of a tree, a directory before what lies in it. */
export function* nodesOf(root: TreeNode): Generator<TreeNode, void> {
  const pending = [root];
  for (let node = pending.pop(); node; node = pending.pop()) {
    yield node;
    const children = [...(node.children?.values() ?? [])];
    // Depth first, in the order of the bootstrap: of equal chunks the first one counts.
    for (let i = children.length - 1; i >= 0; i--) pending.push(children[i]);
  }
}

/** Chunks of equal data have equal keys. */
export function digestKey(chunk: StoredChunk): string {
  return Buffer.from(chunk.digest).toString("latin1");
}

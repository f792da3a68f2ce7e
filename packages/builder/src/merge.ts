/** Several layers become one image. Source: spec/nydus-image.md, section 12 */
import {
  type BlobEntry,
  forEachDirectory,
  numberTree,
  type TreeNode,
  writeBootstrap,
  writeBootstrapV5,
} from "@nydus-ts/rafs-format/writer";
import { requireOneCompressor } from "./adopt-version.ts";
import { BuilderError } from "./errors.ts";
import { blobsMax, chunkSizeDefault } from "./limits.ts";
import { overlay } from "./overlay.ts";
import { matchPrefetch, type PrefetchPolicy } from "./prefetch.ts";

export interface MergeOptions {
  /** of the result; that of the layers. Default 6 */
  fsVersion?: 5 | 6;
  /** trees of the layers, lowest first; they are used up. Their chunks must refer to `BlobEntry` objects that are one per blob */
  layers: readonly TreeNode[];
  compressor: number;
  digester: number;
  cipher: number;
  explicitUidGid: boolean;
  /** the layers are tars that stay as they are */
  isTarfs?: boolean;
  prefetch: { policy: PrefetchPolicy; patterns: readonly string[] };
}

export interface MergeResult {
  bootstrap: Buffer;
  root: TreeNode;
  /** the blobs that are referenced, in the order of the blob table */
  blobs: BlobEntry[];
}

/**
 * Applies the layers with OCI whiteouts and writes one bootstrap. Blobs that nothing refers to any more are left out.
 * @throws BuilderError BUILD_LIMIT (too many blobs), BUILD_INCONSISTENT (chunk sizes differ), BUILD_UNSUPPORTED (version 5, and blobs of several compressors)
 */
export function mergeLayers(options: MergeOptions): MergeResult {
  let root: TreeNode | undefined;
  for (const layer of options.layers) root = overlay(root, layer, "oci");
  if (!root) throw new BuilderError("BUILD_INCONSISTENT", "there is no layer to merge");
  const order = numberTree(root);
  const blobs = blobsByFirstReference(root);
  checkBlobCount(blobs);
  const chunkSize = blobs[0]?.chunkSize ?? chunkSizeDefault;
  const other = blobs.find((blob) => blob.chunkSize !== chunkSize);
  if (other) {
    throw new BuilderError(
      "BUILD_INCONSISTENT",
      `can not merge bootstraps with inconsistent chunk size: blob ${other.id} has 0x${other.chunkSize.toString(16)}, blob ${blobs[0].id} has 0x${chunkSize.toString(16)}`,
    );
  }
  const isV5 = options.fsVersion === 5;
  if (isV5) requireOneCompressor(root, options.compressor);
  const write = isV5 ? writeBootstrapV5 : writeBootstrap;
  const bootstrap = write({
    root,
    nodeCount: order.length,
    blobs,
    chunkSize,
    compressor: options.compressor,
    digester: options.digester,
    cipher: options.cipher,
    explicitUidGid: options.explicitUidGid,
    isTarfs: options.isTarfs,
    hasXattr: !isV5 || order.some((node) => node.xattrs !== undefined),
    prefetch: options.prefetch.policy === "fs" ? matchPrefetch(root, order, options.prefetch.patterns).exact : [],
  });
  return { bootstrap, root, blobs };
}

/** @throws BuilderError BUILD_LIMIT */
export function checkBlobCount(blobs: readonly BlobEntry[]): void {
  if (blobs.length > blobsMax)
    throw new BuilderError("BUILD_LIMIT", `the layers have ${blobs.length} blobs with data; an image holds at most ${blobsMax}`);
}

/** Layers with equal data have one blob: its first row stands for all. */
function blobsByFirstReference(root: TreeNode): BlobEntry[] {
  const blobs = new Map<string, BlobEntry>();
  forEachDirectory(root, (directory) => {
    for (const node of directory.sorted) {
      for (const chunk of node.chunks) {
        const known = blobs.get(chunk.blob.id);
        if (known) chunk.blob = known;
        else blobs.set(chunk.blob.id, chunk.blob);
      }
    }
  });
  return [...blobs.values()];
}

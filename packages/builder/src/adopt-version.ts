/**
 * An image of one version below an image of the other. Its blobs stay as they are: what changes is what a bootstrap records of them.
 *
 * Version 6 over 5: a blob of version 5 has no chunk info, so the chunk table of the bootstrap alone describes it. Version 6 names a chunk's
 * place in blocks of 4 KiB, and version 5 lays chunks end to end; since that place is one in the uncompressed blob, which is stored nowhere,
 * each chunk gets one at a block of its own. The new place follows from the old one and the chunk's index alone, so that images that use
 * different chunks of a blob agree on it.
 *
 * Version 5 over 6: chunk records say where stored bytes lie, whatever wrote them; forms that only chunk info describes are refused.
 *
 * Source: spec/rafs.md, sections 2.5, 2.9, 3.7
 */
import { blobFeatures, chunkFlags, compressors, digesters, withoutExtendedTable } from "@nydus-ts/rafs-format";
import { type BlobEntry, forEachDirectory, numberTree, roundUp, type StoredChunk, type TreeNode } from "@nydus-ts/rafs-format/writer";
import { chunkKey } from "./chunk-dictionary.ts";
import { BuilderError } from "./errors.ts";

const blockBytes = 4096;

/** What the original records where there is no chunk info. Source: spec/rafs.md, section 2.5 */
const ciCompressorUnused = 1;

/** Speak of chunk info, which version 5 does not have. */
const chunkInfoFeatures =
  blobFeatures.chunkInfoV2 | blobFeatures.separate | blobFeatures.inlinedChunkDigest | blobFeatures.hasTarHeader | blobFeatures.hasToc;

/** Forms of blobs that chunk records alone do not describe. */
const formsOfVersion6 = [
  [blobFeatures.batch, "holds small chunks in batches"],
  [blobFeatures.encrypted, "is encrypted"],
  [blobFeatures.zran, "is a gzip layer that stays as it is"],
  [blobFeatures.tarfs, "is a tar that stays as it is"],
  [blobFeatures.external, "belongs to another tool"],
] as const;

export interface AdoptedImage {
  root: TreeNode;
  blobs: readonly BlobEntry[];
}

/**
 * Makes the rows and chunks of an image fit a bootstrap of `version`, in place; it must be an image of the other version.
 * @throws BuilderError BUILD_UNSUPPORTED: version 5 can not describe one of its blobs; BUILD_INCONSISTENT: its chunks lie over each other
 */
export function adoptImage(image: AdoptedImage, version: 5 | 6, digester: number): void {
  const chunks = shareChunks(image);
  for (const blob of image.blobs) {
    const own = [...(chunks.get(blob)?.values() ?? [])].sort((a, b) => a.index - b.index);
    if (version === 6) toVersion6(blob, own);
    else toVersion5(blob, digester);
  }
}

/** Equal chunks of a blob become one: a chunk table has room for one chunk of a digest in a blob. */
function shareChunks({ root }: AdoptedImage): Map<BlobEntry, Map<string, StoredChunk>> {
  const blobs = new Map<BlobEntry, Map<string, StoredChunk>>();
  numberTree(root);
  forEachDirectory(root, (directory) => {
    for (const node of directory.sorted) {
      node.chunks = node.chunks.map((chunk) => {
        const known = blobs.get(chunk.blob) ?? new Map<string, StoredChunk>();
        blobs.set(chunk.blob, known);
        const key = `${chunkKey(chunk.digest)}${chunk.uncompressedSize}`;
        const first = known.get(key) ?? chunk;
        known.set(key, first);
        return first;
      });
    }
  });
  return blobs;
}

function toVersion6(blob: BlobEntry, chunks: readonly StoredChunk[]): void {
  if (blob.features === withoutExtendedTable) measure(blob, chunks);
  let end = 0;
  for (const chunk of chunks) {
    if (chunk.uncompressedOffset < end) {
      throw new BuilderError(
        "BUILD_INCONSISTENT",
        `chunk ${chunk.index} of blob ${blob.id} lies before the end of the one in front of it: version 6 can not place it`,
      );
    }
    end = chunk.uncompressedOffset + chunk.uncompressedSize;
  }
  if ((blob.features & blobFeatures.aligned) === 0) {
    for (const chunk of chunks) chunk.uncompressedOffset = roundUp(chunk.uncompressedOffset, blockBytes) + blockBytes * chunk.index;
    blob.uncompressedSize += blockBytes * blob.chunkCount;
  }
  blob.uncompressedSize = roundUp(blob.uncompressedSize, blockBytes);
  blob.features = ((blob.features & ~chunkInfoFeatures) | blobFeatures.aligned) >>> 0;
  blob.ciCompressor = ciCompressorUnused;
}

/** Images without extended blob table record no sizes: what their chunks need. */
function measure(blob: BlobEntry, chunks: readonly StoredChunk[]): void {
  blob.features = blobFeatures.capTarToc;
  for (const chunk of chunks) {
    blob.chunkCount = Math.max(blob.chunkCount, chunk.index + 1);
    blob.compressedSize = Math.max(blob.compressedSize, chunk.compressedOffset + chunk.compressedSize);
    blob.uncompressedSize = Math.max(blob.uncompressedSize, chunk.uncompressedOffset + chunk.uncompressedSize);
  }
}

function toVersion5(blob: BlobEntry, digester: number): void {
  const form = formsOfVersion6.find(([feature]) => (blob.features & feature) !== 0);
  if (form) throw new BuilderError("BUILD_UNSUPPORTED", `blob ${blob.id} ${form[1]}, which version 5 can not describe: build version 6`);
  if (blob.digester !== digester) {
    throw new BuilderError(
      "BUILD_UNSUPPORTED",
      `blob ${blob.id} has ${digesters[blob.digester]} digests, and version 5 records one kind for an image, here ${digesters[digester]}: give the same --digester`,
    );
  }
  blob.features = (blob.features & ~chunkInfoFeatures) >>> 0;
}

/**
 * Version 5 records one compressor for all blobs of an image.
 * @throws BuilderError BUILD_UNSUPPORTED: a chunk of the tree is stored by another one
 */
export function requireOneCompressor(root: TreeNode, compressor: number): void {
  forEachDirectory(root, (directory) => {
    for (const node of directory.sorted) {
      for (const { blob, flags } of node.chunks) {
        if (blob.compressor === compressor || (flags & chunkFlags.compressed) === 0) continue;
        throw new BuilderError(
          "BUILD_UNSUPPORTED",
          `blob ${blob.id} is compressed by ${compressors[blob.compressor]}, and version 5 records one compressor for an image, here ${compressors[compressor]}: build with the same --compressor`,
        );
      }
    }
  });
}

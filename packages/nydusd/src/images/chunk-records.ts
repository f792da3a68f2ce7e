import { withRecordedSizes } from "@nydus-ts/chunk-store";
import { type BlobRecord, type Bootstrap, type ChunkRecord, hasBlobMeta, hasFeature } from "@nydus-ts/rafs-format";
import { NydusdError } from "../errors.ts";

const alignment = 4096;

/** A blob as its cache needs it described. */
export interface DescribedBlob {
  readonly blob: BlobRecord;
  /** What the bootstrap records of its chunks; undefined for a blob that has blob meta, or needs none (tarfs). */
  readonly chunkRecords: readonly ChunkRecord[] | undefined;
  /**
   * What follows the id in the names of its cache files. A blob that a version 5 image brought lies differently in a version 6 image, at
   * blocks: images of both versions may be mounted at once, and each kind needs files of its own.
   */
  readonly cacheSuffix: "" | ".v6";
}

/**
 * The blobs of an image, with the chunk records of those that have no blob meta (all of v5, external ones of v6).
 *
 * @throws RafsError (a record can't be read), NydusdError MOUNT_IMAGE
 */
export function describeBlobs(bootstrap: Bootstrap): DescribedBlob[] {
  const needed = bootstrap.blobs.map((blob) => !hasBlobMeta(blob) && !hasFeature(blob, "tarfs"));
  const records = bootstrap.blobs.map((): ChunkRecord[] => []);
  if (needed.includes(true)) {
    for (const record of bootstrap.chunkRecords()) {
      if (needed[record.blobIndex] !== true) continue;
      // A v6 file names a chunk's place in blocks: it could not be told from a neighbour in the same block.
      if (bootstrap.version === 6 && record.uncompressedOffset % alignment !== 0) {
        throw new NydusdError(
          "MOUNT_IMAGE",
          `chunk ${record.chunkIndex} of blob ${record.blobIndex} does not lie at a block; rebuild the image`,
        );
      }
      records[record.blobIndex]?.push(record);
    }
  }
  return bootstrap.blobs.map((blob, index) =>
    needed[index] === true
      ? {
          blob: withRecordedSizes(blob, records[index]!),
          chunkRecords: records[index]!,
          cacheSuffix: bootstrap.version === 6 && !hasFeature(blob, "external") ? ".v6" : "",
        }
      : { blob, chunkRecords: undefined, cacheSuffix: "" },
  );
}

// Chunk info of both forms with its contexts, as it stands in blobs and as the cache keeps it; and chunk maps.
import { type BlobMeta, openBlobMeta, RafsError, readChunkMap, readMetaFile } from "@nydus-ts/rafs-format";
import { goldenFiles } from "../golden-files.ts";
import { blobsOf, chunkInfoOf } from "../stored-meta.ts";
import type { Seed, Target } from "../target.ts";

export const target: Target = {
  name: "blob-metas",
  seeds: (golden) => [...inBlobs(golden), ...inCaches(golden), ...chunkMaps(golden)],
  accepts: (error) => error instanceof RafsError,
};

function inBlobs(golden: string | undefined): Seed[] {
  return chunkInfoOf(golden).map(({ name, blob, ci, header }) => ({
    name,
    bytes: Buffer.concat([ci, header]),
    read: (bytes) => {
      const border = Math.max(0, bytes.length - header.length);
      use(openBlobMeta(bytes.subarray(0, border), bytes.subarray(border), blob));
    },
  }));
}

function inCaches(golden: string | undefined): Seed[] {
  return goldenFiles(golden, /\.blob\.meta$/).flatMap(({ name, bytes, directory }) =>
    blobsOf(directory)
      .filter(({ id }) => name.includes(id))
      .map((blob) => ({ name, bytes, read: (mutated: Uint8Array) => use(readMetaFile(mutated, blob)) })),
  );
}

function chunkMaps(golden: string | undefined): Seed[] {
  return goldenFiles(golden, /\.chunk_map$/).map(({ name, bytes }) => ({
    name,
    bytes,
    read: (mutated) => void readChunkMap(mutated, (bytes.length - 4096) * 8),
  }));
}

/** What was opened was checked whole: no accessor may fail or lead outside of the blob. */
function use(meta: BlobMeta): void {
  for (let index = 0; index < meta.count; index++) {
    if (meta.compressedOffset(index) + meta.compressedSize(index) > meta.dataEnd) throw new Error("chunk outside of the blob");
    if (meta.batchOf(index) >= 0) meta.batchContext(meta.batchOf(index));
    if (meta.zranOf(index) >= 0) meta.zranContext(meta.zranOf(index));
  }
}

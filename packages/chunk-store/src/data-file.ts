import { closeSync, constants } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { type BlobRecord, cacheFileNames } from "@nydus-ts/rafs-format";
import { ChunkMap } from "./chunk-map.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";
import { openFd, removeFile, truncateFile } from "./file-io.ts";

export interface DataFile {
  readonly fd: number;
  readonly path: string;
  readonly map: ChunkMap;
}

/**
 * Opens or creates the data file of a blob and its chunk map. A data file that is new, or has not the size of the blob, holds nothing:
 * its map is emptied **before** the file gets its full size, so that a kill in between leaves no bit for a hole.
 *
 * @throws ChunkStoreError CHUNK_CACHE
 * Source: spec/rafs.md 8
 */
export async function openDataFile(directory: string, blob: BlobRecord, cacheName = blob.id): Promise<DataFile> {
  const names = cacheFileNames(cacheName);
  const path = join(directory, names.data);
  const mapPath = join(directory, names.chunkMap);
  try {
    const size = await sizeOf(path);
    const whole = size !== undefined && size > 0 && size >= blob.uncompressedSize && size <= blob.uncompressedSize + 4095;
    const map = await ChunkMap.open(mapPath, blob.chunkCount, !whole);
    try {
      if (size !== undefined && !whole && size > 0) await removeFile(path);
      const fd = await openFd(path, constants.O_RDWR | constants.O_CREAT, 0o644);
      try {
        if (!whole) await truncateFile(fd, blob.uncompressedSize);
        return { fd, path, map };
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    } catch (error) {
      map.close();
      throw error;
    }
  } catch (cause) {
    throw new ChunkStoreError("CHUNK_CACHE", `cache file ${path}: ${describeCause(cause)}`, { cause });
  }
}

/** Opens the tar that is the data of a tarfs blob. @throws ChunkStoreError CHUNK_CACHE */
export async function openTar(directory: string, blobId: string): Promise<{ readonly fd: number; readonly path: string }> {
  const path = join(directory, blobId);
  try {
    return { fd: await openFd(path, "r"), path };
  } catch (cause) {
    const hint = "a tarfs image reads its layers from plain tars named by blob id in the cache directory";
    throw new ChunkStoreError("CHUNK_CACHE", `${path}: ${describeCause(cause)}; ${hint}`, { cause });
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

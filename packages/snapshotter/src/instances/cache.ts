import { existsSync, lstatSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

/** Names of one blob's files in the cache, in the order they are removed: maps first, so that no map ever speaks for data that is gone. */
export const CACHE_SUFFIXES = [
  ".blob.data.chunk_map",
  ".chunk_map",
  // Of blobs that version 5 images brought, as version 6 images see them.
  ".v6.blob.data.chunk_map",
  ".blob.meta.sha256",
  ".blob.meta",
  ".blob.data",
  ".v6.blob.data",
  ".image.disk",
  ".layer.disk",
  "",
] as const;

/** The id of a data layer's blob, from the layer's digest; undefined when it is none. */
export const blobIdOf = (layerDigest: string | undefined): string | undefined => /^sha256:([0-9a-f]{64})$/.exec(layerDigest ?? "")?.[1];

/** The files of a blob that are there. */
export function cacheFilesOf(cache: string, blobId: string): string[] {
  return CACHE_SUFFIXES.map((suffix) => join(cache, blobId + suffix)).filter((path) => existsSync(path));
}

/**
 * Removes the cache files of blobs nobody needs. Only names of the form <64 hex digits><known suffix> (and leftovers of a copy, `.tmp`) are touched.
 * Returns what was removed and what could not be.
 */
export function collectCache(cache: string, used: ReadonlySet<string>): { removed: string[]; failed: { path: string; error: unknown }[] } {
  const removed: string[] = [];
  const failed: { path: string; error: unknown }[] = [];
  const unused = new Set<string>();
  for (const name of existsSync(cache) ? readdirSync(cache) : []) {
    const id = /^([0-9a-f]{64})(?:\.|$)/.exec(name)?.[1];
    if (id !== undefined && !used.has(id)) unused.add(id);
  }
  for (const id of unused) {
    const leftovers = readdirSync(cache).filter((name) => name.startsWith(`${id}.`) && name.endsWith(".tmp"));
    for (const path of [...cacheFilesOf(cache, id), ...leftovers.map((name) => join(cache, name))]) {
      try {
        if (!lstatSync(path).isFile()) continue;
        rmSync(path, { force: true });
        removed.push(path);
      } catch (error) {
        failed.push({ path, error });
      }
    }
  }
  return { removed, failed };
}

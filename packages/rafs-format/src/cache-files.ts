import assert from "node:assert/strict";
import { type BlobMeta, openBlobMeta } from "./blob-meta.ts";
import type { BlobRecord } from "./blob-record.ts";
import { allZero, roundUp, viewOf } from "./bytes.ts";
import { chunkMapAllReady, chunkMapMagic1, chunkMapMagic2 } from "./constants.ts";
import { RafsError } from "./errors.ts";
import { CHUNK_MAP_HEADER, META_HEADER } from "./records/blob.ts";

// Files of the local cache, byte for byte as the original keeps them. Source: spec/rafs.md 8

export interface CacheFileNames {
  readonly data: string;
  readonly chunkMap: string;
  readonly meta: string;
  /** SHA-256 of the meta file in hex; not a file of the original, which has nothing to tell damage by. */
  readonly metaDigest: string;
  readonly toc: string;
  readonly digests: string;
}

/** Names of the cache files of a blob, by what they hold. */
export const cacheFileNames = (blobId: string): CacheFileNames => ({
  data: `${blobId}.blob.data`,
  chunkMap: `${blobId}.blob.data.chunk_map`,
  meta: `${blobId}.blob.meta`,
  metaDigest: `${blobId}.blob.meta.sha256`,
  toc: `${blobId}.blob.toc`,
  digests: `${blobId}.blob.digest`,
});

/** Bytes in front of the bitmap of a chunk map. */
export const chunkMapHeaderBytes = CHUNK_MAP_HEADER.recordSize;

/** Bytes of the chunk map file of a blob with `chunkCount` chunks; chunk i is bit 0x80 >> (i & 7) of byte i >> 3 after the header. */
export const chunkMapFileBytes = (chunkCount: number): number => chunkMapHeaderBytes + Math.ceil(chunkCount / 8);

/** The header of a new chunk map. */
export function encodeChunkMapHeader(options: { readonly allReady: boolean }): Uint8Array {
  const header = new Uint8Array(CHUNK_MAP_HEADER.recordSize);
  const view = viewOf(header);
  view.setUint32(CHUNK_MAP_HEADER.magic, chunkMapMagic1, true);
  view.setUint32(CHUNK_MAP_HEADER.version, 1, true);
  view.setUint32(CHUNK_MAP_HEADER.magic2, chunkMapMagic2, true);
  view.setUint32(CHUNK_MAP_HEADER.allReady, options.allReady ? chunkMapAllReady : 0, true);
  return header;
}

/**
 * Reads a whole chunk map file.
 *
 * @returns the bitmap in place, or undefined when the file is empty or all zeros: a new one
 * @throws RafsError RAFS_CACHE_FILE when it belongs to another number of chunks or is no chunk map
 */
export function readChunkMap(
  file: Uint8Array,
  chunkCount: number,
): { readonly allReady: boolean; readonly bitmap: Uint8Array } | undefined {
  if (file.length === 0) return undefined;
  if (file.length !== chunkMapFileBytes(chunkCount)) {
    throw new RafsError("RAFS_CACHE_FILE", `chunk map of ${file.length} bytes, ${chunkCount} chunks need ${chunkMapFileBytes(chunkCount)}`);
  }
  const view = viewOf(file);
  const magic = view.getUint32(CHUNK_MAP_HEADER.magic, true);
  if (magic !== chunkMapMagic1) {
    if (allZero(file)) return undefined;
    throw new RafsError("RAFS_CACHE_FILE", `chunk map: magic is 0x${magic.toString(16)}`);
  }
  const version = view.getUint32(CHUNK_MAP_HEADER.version, true);
  if (version >= 1 && view.getUint32(CHUNK_MAP_HEADER.magic2, true) !== chunkMapMagic2)
    throw new RafsError("RAFS_CACHE_FILE", "chunk map: wrong second magic");
  const allReady = version >= 1 && view.getUint32(CHUNK_MAP_HEADER.allReady, true) === chunkMapAllReady;
  return { allReady, bitmap: file.subarray(chunkMapHeaderBytes) };
}

/** Bytes of the meta file of a blob: chunk info padded to 4096, then the header. */
export const metaFileBytes = (blob: BlobRecord): number => roundUp(blob.ciUncompressedSize, 4096) + META_HEADER.recordSize;

/** The meta file of a blob, from its plain chunk info and plain header. */
export function encodeMetaFile(ci: Uint8Array, header: Uint8Array): Uint8Array {
  assert.equal(header.length, META_HEADER.recordSize, "the header has 4096 bytes");
  const file = new Uint8Array(roundUp(ci.length, 4096) + header.length);
  file.set(ci);
  file.set(header, file.length - header.length);
  return file;
}

/**
 * Opens a meta file.
 *
 * @throws RafsError RAFS_CACHE_FILE (size of another blob), RAFS_META (content damaged, perhaps by a crash in the middle of writing)
 */
export function readMetaFile(file: Uint8Array, blob: BlobRecord): BlobMeta {
  if (file.length !== metaFileBytes(blob))
    throw new RafsError("RAFS_CACHE_FILE", `meta file of ${file.length} bytes, blob ${blob.id} needs ${metaFileBytes(blob)}`);
  return openBlobMeta(file.subarray(0, blob.ciUncompressedSize), file.subarray(file.length - META_HEADER.recordSize), blob);
}

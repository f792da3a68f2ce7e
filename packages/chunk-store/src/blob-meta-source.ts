import { hash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type BlobMeta,
  type BlobRecord,
  cacheFileNames,
  checkChunkInfoSize,
  encodeMetaFile,
  hasMisplacedMeta,
  locateBlobMeta,
  metaHeaderBytes,
  metaTrailerBytes,
  openBlobMeta,
  RafsError,
  readMetaFile,
} from "@nydus-ts/rafs-format";
import type { BlobBackend } from "./backend.ts";
import { decompress } from "./codecs/decompress.ts";
import { decryptXts } from "./codecs/xts.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";
import { replaceFile } from "./file-io.ts";

/** Reads a range for the meta; the caller counts and limits it. */
export type ReadRange = (blobId: string, offset: number, length: number) => Promise<Uint8Array>;

/**
 * Blob meta from its cache file, without the network.
 *
 * @returns undefined when there is none, or none that fits the blob: it is to be fetched
 */
export async function readCachedMeta(directory: string, blob: BlobRecord): Promise<BlobMeta | undefined> {
  const names = cacheFileNames(blob.id);
  try {
    // Its place in the blob is recorded wrongly, so the size of the file can't be known; it is its own witness.
    if (hasMisplacedMeta(blob)) return undefined;
    const file = await readFile(join(directory, names.meta));
    const digest = await readFile(join(directory, names.metaDigest), "latin1").catch(() => undefined);
    // Without a digest it is a file of the original, or came with the image: what it says wrongly fails at the digests of the chunks.
    if (digest !== undefined && digest !== hexDigest(file)) return undefined;
    return readMetaFile(file, blob);
  } catch (error) {
    if (error instanceof RafsError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new ChunkStoreError("CHUNK_CACHE", `meta file of blob ${blob.id}: ${describeCause(error)}`, { cause: error });
  }
}

/** Keeps blob meta for the next time. A disk that can't keep it is no failure. @param file  as `readMeta` gave it */
export async function keepMeta(directory: string, blobId: string, file: Uint8Array): Promise<void> {
  const names = cacheFileNames(blobId);
  try {
    await replaceFile(join(directory, names.meta), file);
    await replaceFile(join(directory, names.metaDigest), Buffer.from(hexDigest(file), "latin1"));
  } catch {
    // It is fetched again next time.
  }
}

const hexDigest = (bytes: Uint8Array): string => hash("sha256", bytes, "hex");

export interface MetaSource {
  readonly blob: BlobRecord;
  /** The blob that holds it. */
  readonly metaBlobId: string;
  readonly backend: Pick<BlobBackend, "size">;
  readonly read: ReadRange;
  readonly limits: { readonly deadlineMs: number; readonly signal: AbortSignal };
}

/**
 * Fetches blob meta and checks all of it.
 *
 * @returns it, and the bytes of the cache file that keeps it
 * @throws ChunkStoreError CHUNK_META (not what the blob record promises); what `read` throws
 * Source: spec/rafs.md 5, spec/nydusd.md 11.3
 */
export async function readMeta(source: MetaSource): Promise<{ readonly opened: BlobMeta; readonly file: Uint8Array }> {
  const { metaBlobId, read } = source;
  const blob = hasMisplacedMeta(source.blob) ? await locate(source) : source.blob;
  return whatIsWrong(blob, async () => {
    checkChunkInfoSize(blob);
    const stored = await read(metaBlobId, blob.ciOffset, blob.ciCompressedSize + metaHeaderBytes);
    const ci = decode(blob, decrypt(blob, stored.subarray(0, blob.ciCompressedSize)));
    const header = decrypt(blob, stored.subarray(blob.ciCompressedSize));
    return { opened: openBlobMeta(ci, header, blob), file: encodeMetaFile(ci, header) };
  });
}

async function locate({ blob, metaBlobId, backend, read, limits }: MetaSource): Promise<BlobRecord> {
  const size = await backend.size(metaBlobId, { ...limits, priority: "demand" });
  const length = Math.min(size, metaTrailerBytes);
  const tail = await read(metaBlobId, size - length, length);
  return whatIsWrong(blob, async () => locateBlobMeta(blob, tail, size));
}

async function whatIsWrong<T>(blob: BlobRecord, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    if (!(cause instanceof RafsError) && !(cause instanceof ChunkStoreError && cause.code === "CHUNK_DECODE")) throw cause;
    throw new ChunkStoreError("CHUNK_META", `blob ${blob.id}: its blob meta is damaged: ${cause.message}`, { cause });
  }
}

function decrypt(blob: BlobRecord, stored: Uint8Array): Uint8Array {
  return blob.cipherKey === undefined || blob.cipherIv === undefined ? stored : decryptXts(stored, blob.cipherKey, blob.cipherIv);
}

function decode(blob: BlobRecord, stored: Uint8Array): Uint8Array {
  // The original compresses only when it gets smaller, and leaves no other mark.
  if (stored.length === blob.ciUncompressedSize) return stored;
  return decompress(blob.ciCompressor, stored, new Uint8Array(blob.ciUncompressedSize));
}

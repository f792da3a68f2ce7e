import { hash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type BlobMeta,
  type BlobRecord,
  cacheFileNames,
  checkChunkInfoSize,
  checkSection,
  encodeMetaFile,
  hasFeature,
  hasMisplacedMeta,
  locateBlobMeta,
  metaHeaderBytes,
  metaTrailerBytes,
  openBlobMeta,
  RafsError,
  readKnownToc,
  readMetaFile,
  sectionNames,
  type Toc,
  tocEntry,
} from "@nydus-ts/rafs-format";
import type { BlobBackend } from "./backend.ts";
import { decompress } from "./codecs/decompress.ts";
import { decryptXts } from "./codecs/xts.ts";
import { hasDigest } from "./digest.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";
import { replaceFile } from "./file-io.ts";
import { metaBlobOthersMax } from "./limits.ts";

/** Reads a range for the meta; the caller counts and limits it. */
export type ReadRange = (blobId: string, offset: number, length: number) => Promise<Uint8Array>;

/** Blob meta and the bytes of the file that keeps it. */
export interface MetaWithFile {
  readonly opened: BlobMeta;
  readonly file: Uint8Array;
}

/**
 * Blob meta from its cache file, without the network. `proven`: it is what we fetched and kept; otherwise it is hearsay.
 *
 * @returns undefined when there is none, or none that fits the blob: it is to be fetched
 */
export async function readCachedMeta(
  directory: string,
  blob: BlobRecord,
): Promise<(MetaWithFile & { readonly proven: boolean }) | undefined> {
  const names = cacheFileNames(blob.id);
  try {
    // Its place in the blob is recorded wrongly, so the size of the file can't be known; it is its own witness.
    if (hasMisplacedMeta(blob)) return undefined;
    const file = await readFile(join(directory, names.meta));
    const digest = await readFile(join(directory, names.metaDigest), "latin1").catch(() => undefined);
    // Without a digest it is a file of the original, or came with the image: what it says wrongly is met at its chunks.
    if (digest !== undefined && digest !== hexDigest(file)) return undefined;
    return { opened: readMetaFile(file, blob), file, proven: digest !== undefined };
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
 * Fetches blob meta and checks all of it: by the ToC where the image knows the ToC's digest, else by the digest of its blob where it has
 * a blob of its own. A blob with neither is checked by its form, and what it says wrongly fails at the digests of the chunks.
 *
 * @returns it, and the bytes of the cache file that keeps it
 * @throws ChunkStoreError CHUNK_META (not what the blob record promises); what `read` throws
 * Source: spec/rafs.md 5, spec/nydusd.md 11.3
 */
export async function readMeta(source: MetaSource): Promise<MetaWithFile> {
  const { metaBlobId, read } = source;
  const blob = hasMisplacedMeta(source.blob) ? await locate(source) : source.blob;
  return whatIsWrong(blob, async () => {
    checkChunkInfoSize(blob);
    const length = blob.ciCompressedSize + metaHeaderBytes;
    const whole = isWholeBlob(blob);
    const hasToc = blob.tocDigest !== undefined && blob.tocSize > 0;
    const [bytes, toc] = await Promise.all([
      whole ? read(metaBlobId, 0, blob.metaSize) : read(metaBlobId, blob.ciOffset, length),
      hasToc ? readRecordedToc(source) : undefined,
    ]);
    if (whole) checkWholeBlob(blob, bytes);
    const stored = whole ? bytes.subarray(blob.ciOffset, blob.ciOffset + length) : bytes;
    const ci = decode(blob, decrypt(blob, stored.subarray(0, blob.ciCompressedSize)));
    const header = decrypt(blob, stored.subarray(blob.ciCompressedSize));
    if (toc !== undefined) checkSections(toc, { [sectionNames.meta]: ci, [sectionNames.metaHeader]: header });
    return { opened: openBlobMeta(ci, header, blob), file: encodeMetaFile(ci, header) };
  });
}

/**
 * Whether the meta lies in a blob of its own whose digest is recorded: then all of it is fetched, it is hardly larger, and compared.
 * With a ToC the original records a digest that is not the blob's (case plain-v6-zran-toc): there the ToC decides.
 */
function isWholeBlob(blob: BlobRecord): boolean {
  if (!hasFeature(blob, "separate") || blob.metaDigest === undefined || blob.tocDigest !== undefined) return false;
  const others = 32 * blob.chunkCount + metaBlobOthersMax;
  const end = blob.ciOffset + blob.ciCompressedSize + metaHeaderBytes;
  return blob.metaSize >= end && blob.metaSize <= end + others;
}

function checkWholeBlob(blob: BlobRecord, bytes: Uint8Array): void {
  if (blob.metaDigest !== undefined && hasDigest("sha256", bytes, blob.metaDigest)) return;
  throw new ChunkStoreError(
    "CHUNK_META",
    `blob ${blob.id}: its meta blob has another SHA-256 than the image records; a host serves other bytes`,
  );
}

/** The ToC that the image knows the digest of. It ends the blob; images put together by `merge` may record another size of the blob. */
async function readRecordedToc({ blob, metaBlobId, backend, read, limits }: MetaSource): Promise<Toc> {
  const recordedSize = hasFeature(blob, "separate") ? blob.metaSize : blob.compressedSize;
  const readAtEnd = async (size: number): Promise<Toc> => {
    if (size < blob.tocSize) throw new ChunkStoreError("CHUNK_META", `blob ${blob.id}: ${size} bytes, too short for its ToC`);
    return readKnownToc(await read(metaBlobId, size - blob.tocSize, blob.tocSize), size, blob);
  };
  try {
    return await readAtEnd(recordedSize);
  } catch (error) {
    const size = await backend.size(metaBlobId, { ...limits, priority: "demand" });
    if (size === recordedSize) throw error;
    return readAtEnd(size);
  }
}

/** @throws RafsError RAFS_TOC (another digest than the ToC says, or the ToC does not name the section) */
function checkSections(toc: Toc, sections: Readonly<Record<string, Uint8Array>>): void {
  for (const [name, bytes] of Object.entries(sections)) {
    const entry = tocEntry(toc, name);
    if (entry === undefined) throw new RafsError("RAFS_TOC", `the ToC has no section ${name}`);
    checkSection(entry, bytes);
  }
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

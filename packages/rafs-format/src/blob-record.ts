import { allZero, isPowerOfTwo, readPaddedText, readU64, viewOf } from "./bytes.ts";
import { blobFeatures, type Cipher, type Compressor, ciphers, compressors, type Digester, digesters, superFlags } from "./constants.ts";
import { RafsError } from "./errors.ts";
import { blobCompressedBytesMax, blobUncompressedBytesMax, chunkBytesMax, chunkBytesMin, chunksPerBlobMax, tocBytesMax } from "./limits.ts";
import { BLOB_RECORD } from "./records/v6.ts";

/** What a bootstrap says about one of its blobs: of v6 all of it, of v5 what that version records (the rest is 0 or "none"). */
export interface BlobRecord {
  /** As in the table; inlined bootstraps hold a placeholder, see `effectiveBlobId`. Safe as a file name. */
  readonly id: string;
  readonly index: number;
  readonly chunkSize: number;
  readonly chunkCount: number;
  readonly compressor: Compressor;
  readonly digester: Digester;
  /** Bits of `blobFeatures`. */
  readonly features: number;
  readonly compressedSize: number;
  readonly uncompressedSize: number;
  /** Bytes of ToC entries and their tar header at the end of the blob; 0 = unknown. */
  readonly tocSize: number;
  /** SHA-256 of those bytes; undefined when not recorded. */
  readonly tocDigest: Uint8Array | undefined;
  readonly ciCompressor: Compressor;
  readonly ciOffset: number;
  readonly ciCompressedSize: number;
  readonly ciUncompressedSize: number;
  /** SHA-256, and so the id, of the blob that holds the meta of a SEPARATE blob; undefined when not recorded. */
  readonly metaDigest: Uint8Array | undefined;
  /** Bytes of that blob. */
  readonly metaSize: number;
  readonly cipher: Cipher;
  /** 32 bytes: data key, then tweak key. Present for encrypted blobs only. */
  readonly cipherKey: Uint8Array | undefined;
  /** 16 bytes, the same for every stored item of the blob. */
  readonly cipherIv: Uint8Array | undefined;
  /** Bytes at the start of the blob that hold prefetched files; v5 only. */
  readonly prefetchSize: number;
}

/** Whether the blob has a chunk info array: not of tarfs and external blobs, v5, and empty dictionaries. */
export const hasBlobMeta = (blob: BlobRecord): boolean => blob.ciCompressedSize > 0 && blob.ciUncompressedSize > 0;

export const hasFeature = (blob: BlobRecord, feature: keyof typeof blobFeatures): boolean => (blob.features & blobFeatures[feature]) !== 0;

/**
 * The id under which a blob is stored. A bootstrap inside a blob can't know the blob's id; such a blob is named by the file the
 * bootstrap came from, up to its first dot. Source: spec/rafs.md 6.4.
 *
 * @param bootstrapFile  base name of the file that held the bootstrap, when known
 */
export function effectiveBlobId(blob: BlobRecord, bootstrapFile: string | undefined): string {
  if (bootstrapFile === undefined) return blob.id;
  const name = bootstrapFile.split(".")[0] as string;
  if (hasFeature(blob, "inlinedFsMeta") && !hasFeature(blob, "separate") && !hasFeature(blob, "external")) return name;
  // Old converters named a bootstrap after its blob; but one called image.boot says nothing, and the table is right.
  return !hasFeature(blob, "capTarToc") && /^[0-9a-f]{64}$/.test(name) ? name : blob.id;
}

/**
 * The id of the blob that holds a SEPARATE blob's chunk info: its recorded digest, or the file the bootstrap came from when meta
 * and bootstrap share a blob. The blob's own id for all others. Source: spec/rafs.md 6.4.
 */
export function metaBlobId(blob: BlobRecord, bootstrapFile: string | undefined): string {
  if (!hasFeature(blob, "separate")) return effectiveBlobId(blob, bootstrapFile);
  if (hasFeature(blob, "inlinedFsMeta") && bootstrapFile !== undefined) return bootstrapFile.split(".")[0] as string;
  return blob.metaDigest === undefined ? blob.id : Buffer.from(blob.metaDigest).toString("hex");
}

/**
 * Whether the record is what `optimize` of the original leaves for its new blob: chunk info at offset 0, raw, 24 bytes a chunk,
 * none of it true. Ask `locateBlobMeta` for the real place. Source: spec/rafs.md 11, 16
 */
export function hasMisplacedMeta(blob: BlobRecord): boolean {
  // A SEPARATE blob's chunk info does begin its meta blob.
  const size = hasFeature(blob, "separate") ? 0 : 24 * blob.chunkCount;
  return (
    size > 0 && blob.ciOffset === 0 && blob.ciCompressor === "none" && blob.ciCompressedSize === size && blob.ciUncompressedSize === size
  );
}

/**
 * Reads and checks record `index` of a v6 blob table.
 *
 * @param record  the 256 bytes of the record
 * @throws RafsError RAFS_BLOB_TABLE, RAFS_RANGE, RAFS_UNSUPPORTED (an algorithm or feature this build does not know)
 * Source: spec/rafs.md 2.5, 10
 */
export function readBlobRecord(
  record: Uint8Array,
  index: number,
  image: { readonly flags: bigint; readonly chunkSize: number },
): BlobRecord {
  const what = `blob record ${index}`;
  const view = viewOf(record);
  const u32 = (offset: number): number => view.getUint32(offset, true);
  const features = u32(BLOB_RECORD.features);
  const encrypted = (features & blobFeatures.encrypted) !== 0;
  const bytes = (offset: number, size: number): Uint8Array => record.subarray(offset, offset + size);
  const digest = (offset: number): Uint8Array | undefined => (allZero(bytes(offset, 32)) ? undefined : bytes(offset, 32));
  const blob: BlobRecord = {
    id: checkBlobId(readPaddedText(bytes(BLOB_RECORD.blobId, 64), "RAFS_BLOB_TABLE", `${what}: id`), what),
    index: u32(BLOB_RECORD.blobIndex),
    chunkSize: u32(BLOB_RECORD.chunkSize),
    chunkCount: u32(BLOB_RECORD.chunkCount),
    compressor: algorithm(compressors, u32(BLOB_RECORD.compressor), `${what}: compressor`),
    digester: algorithm(digesters, u32(BLOB_RECORD.digester), `${what}: digester`),
    features,
    compressedSize: readU64(view, BLOB_RECORD.compressedSize, `${what}: compressed size`),
    uncompressedSize: readU64(view, BLOB_RECORD.uncompressedSize, `${what}: uncompressed size`),
    tocSize: u32(BLOB_RECORD.tocSize),
    tocDigest: digest(BLOB_RECORD.tocDigest),
    ciCompressor: algorithm(compressors, u32(BLOB_RECORD.ciCompressor), `${what}: compressor of the chunk info`),
    ciOffset: readU64(view, BLOB_RECORD.ciOffset, `${what}: offset of the chunk info`),
    ciCompressedSize: readU64(view, BLOB_RECORD.ciCompressedSize, `${what}: compressed size of the chunk info`),
    ciUncompressedSize: readU64(view, BLOB_RECORD.ciUncompressedSize, `${what}: size of the chunk info`),
    metaDigest: encrypted ? undefined : digest(BLOB_RECORD.metaDigest),
    metaSize: encrypted ? 0 : readU64(view, BLOB_RECORD.metaSize, `${what}: size of the meta blob`),
    cipher: algorithm(ciphers, u32(BLOB_RECORD.cipher), `${what}: cipher`),
    cipherKey: encrypted ? bytes(BLOB_RECORD.metaDigest, 32) : undefined,
    cipherIv: encrypted ? bytes(BLOB_RECORD.metaSize, 16) : undefined,
    prefetchSize: 0,
  };
  checkBlobRecord(blob, index, image, what);
  return blob;
}

/** Ids become file names and parts of URLs. @throws RafsError RAFS_BLOB_TABLE */
export function checkBlobId(id: string, what: string): string {
  if (id === "" || id === "." || id === ".." || /[/\\\u0000-\u001f\u007f]/.test(id)) {
    throw new RafsError("RAFS_BLOB_TABLE", `${what}: id ${JSON.stringify(id)} is no safe file name`);
  }
  return id;
}

function checkBlobRecord(
  blob: BlobRecord,
  index: number,
  image: { readonly flags: bigint; readonly chunkSize: number },
  what: string,
): void {
  const refuse = (fault: string): never => {
    throw new RafsError("RAFS_BLOB_TABLE", `${what}: ${fault}`);
  };
  if (blob.index !== index) refuse(`index is ${blob.index}`);
  if (!isPowerOfTwo(blob.chunkSize) || blob.chunkSize < chunkBytesMin || blob.chunkSize > chunkBytesMax)
    refuse(`chunk size ${blob.chunkSize}`);
  if (blob.chunkSize !== image.chunkSize) refuse(`chunk size ${blob.chunkSize}, the superblock says ${image.chunkSize}`);
  if (blob.chunkCount > chunksPerBlobMax) refuse(`chunk count ${blob.chunkCount}, at most ${chunksPerBlobMax}`);
  if ((blob.features & 0x8000_f000) !== 0) {
    throw new RafsError("RAFS_UNSUPPORTED", `${what}: features 0x${blob.features.toString(16)} hold reserved bits of 0x8000f000`);
  }
  if (blob.compressedSize > blobCompressedBytesMax) refuse(`compressed size ${blob.compressedSize}, at most 2^40`);
  if (blob.uncompressedSize > blobUncompressedBytesMax) refuse(`uncompressed size ${blob.uncompressedSize}, at most 2^44`);
  if (blob.tocSize > tocBytesMax) refuse(`ToC size ${blob.tocSize}, at most ${tocBytesMax}`);
  const tarfs = (image.flags & superFlags.tarfsMode) !== 0n;
  const external = hasFeature(blob, "external");
  // External blobs lack the bit in every image the original writes, which it then can't load (spec/rafs.md 9).
  if (hasFeature(blob, "aligned") === tarfs && !external) refuse(`feature ALIGNED must be ${tarfs ? "clear in tarfs mode" : "set"}`);
  if (!external) checkChunkInfoSize(blob, refuse);
  if (!Number.isSafeInteger(blob.ciOffset + blob.ciCompressedSize)) refuse("end of the chunk info is above 2^53 − 1");
  checkCipher(blob, what, refuse);
}

function checkChunkInfoSize(blob: BlobRecord, refuse: (fault: string) => never): void {
  const v2 = hasFeature(blob, "chunkInfoV2");
  const contexts = hasFeature(blob, "batch") || hasFeature(blob, "zran") || hasFeature(blob, "encrypted");
  if (contexts && !v2) refuse("BATCH, ZRAN or ENCRYPTED without CHUNK_INFO_V2");
  if (blob.ciCompressedSize > blob.ciUncompressedSize) {
    refuse(`chunk info of ${blob.ciUncompressedSize} bytes is stored in ${blob.ciCompressedSize} bytes`);
  }
  // What `optimize` of the original leaves is wrong but known; see `locateBlobMeta`.
  if (hasMisplacedMeta(blob)) return;
  if (hasFeature(blob, "tarfs") || blob.ciUncompressedSize === 0) return;
  const size = (v2 ? 24 : 16) * blob.chunkCount;
  const fits = v2 && contexts ? blob.ciUncompressedSize >= size : blob.ciUncompressedSize === size;
  if (!fits && !(hasFeature(blob, "chunkDictGenerated") && !v2)) {
    refuse(`chunk info of ${blob.ciUncompressedSize} bytes does not fit ${blob.chunkCount} records of ${v2 ? 24 : 16} bytes`);
  }
}

function checkCipher(blob: BlobRecord, what: string, refuse: (fault: string) => never): void {
  if (blob.cipherKey === undefined) return;
  if (blob.cipher === "none") refuse("feature ENCRYPTED without a cipher");
  if (blob.cipher !== "aes-128-xts") throw new RafsError("RAFS_UNSUPPORTED", `${what}: cipher ${blob.cipher}, only aes-128-xts is known`);
  if (Buffer.compare(blob.cipherKey.subarray(0, 16), blob.cipherKey.subarray(16)) === 0) refuse("both halves of the XTS key are equal");
}

function algorithm<T extends string>(known: readonly T[], number: number, what: string): T {
  const found = known[number];
  if (found === undefined) throw new RafsError("RAFS_UNSUPPORTED", `${what} has number ${number}, known are 0 … ${known.length - 1}`);
  return found;
}

/** Words and quoting of the original's text output. */
import { type BlobRecord, type Bootstrap, blobFeatures, superFlags } from "@nydus-ts/rafs-format";

const flagNames: ReadonlyArray<readonly [bigint, string]> = [
  [superFlags.compressionNone, "COMPRESSION_NONE"],
  [superFlags.compressionLz4, "COMPRESSION_LZ4"],
  [superFlags.hashBlake3, "HASH_BLAKE3"],
  [superFlags.hashSha256, "HASH_SHA256"],
  [superFlags.explicitUidGid, "EXPLICIT_UID_GID"],
  [superFlags.hasXattr, "HAS_XATTR"],
  [superFlags.compressionGzip, "COMPRESSION_GZIP"],
  [superFlags.compressionZstd, "COMPRESSION_ZSTD"],
  [superFlags.inlinedChunkDigest, "INLINED_CHUNK_DIGEST"],
  [superFlags.tarfsMode, "TARTFS_MODE"],
  [superFlags.encryptionNone, "ENCRYPTION_NONE"],
  [superFlags.encryptionAes128Xts, "ENCRYPTION_ASE_128_XTS"],
];

/** Names of the superblock's flags, lowest bit first. Source: spec/rafs.md, section 1.3 */
export function superFlagNames(flags: bigint): string {
  return flagNames
    .filter(([flag]) => (flags & flag) !== 0n)
    .map(([, name]) => name)
    .join(" | ");
}

/** What is logged of every image that is loaded. Source: spec/nydus-image.md, section 1.5 */
export function featuresLine({ version, flags }: Pick<Bootstrap, "version" | "flags">): string {
  return version === 5 ? `RAFS v5 super block features: ${superFlagNames(flags)}` : `RAFS features: ${superFlagNames(flags)}`;
}

const featureNames: ReadonlyArray<readonly [number, string]> = [
  [blobFeatures.aligned, "ALIGNED"],
  [blobFeatures.inlinedFsMeta, "INLINED_FS_META"],
  [blobFeatures.chunkInfoV2, "CHUNK_INFO_V2"],
  [blobFeatures.zran, "ZRAN"],
  [blobFeatures.separate, "SEPARATE"],
  [blobFeatures.inlinedChunkDigest, "INLINED_CHUNK_DIGEST"],
  [blobFeatures.tarfs, "TARFS"],
  [blobFeatures.batch, "BATCH"],
  [blobFeatures.encrypted, "ENCRYPTED"],
  [blobFeatures.chunkDictGenerated, "IS_CHUNKDICT_GENERATED"],
  [blobFeatures.separatedWithPrefetchFiles, "IS_SEPARATED_WITH_PREFETCH_FILES"],
  [blobFeatures.external, "EXTERNAL"],
  [blobFeatures.hasTarHeader, "HAS_TAR_HEADER"],
  [blobFeatures.hasToc, "HAS_TOC"],
  [blobFeatures.capTarToc, "CAP_TAR_TOC"],
];

/** Names of a blob's features, lowest bit first. Source: spec/rafs.md, section 1.4 */
export function blobFeatureNames(features: number): string {
  return featureNames
    .filter(([feature]) => (features & feature) !== 0)
    .map(([, name]) => name)
    .join(" | ");
}

/** Feature words of `check`, in its order; some features have none. Source: spec/nydus-image.md, section 13.1 */
const featureWords: ReadonlyArray<readonly [number, string]> = [
  [blobFeatures.aligned, "aligned"],
  [blobFeatures.batch, "batch"],
  [blobFeatures.capTarToc, "cap_toc"],
  [blobFeatures.inlinedChunkDigest, "chunk-digest"],
  [blobFeatures.chunkInfoV2, "chunk-v2"],
  [blobFeatures.inlinedFsMeta, "fs-meta"],
  [blobFeatures.separate, "separate"],
  [blobFeatures.hasTarHeader, "tar-header"],
  [blobFeatures.hasToc, "toc"],
  [blobFeatures.zran, "zran"],
  [blobFeatures.encrypted, "encrypted"],
  [blobFeatures.chunkDictGenerated, "is-chunkdict-generated"],
];

export function checkFeatureWords(blob: BlobRecord): string {
  return featureWords
    .filter(([feature]) => (blob.features & feature) !== 0)
    .map(([, word]) => word)
    .join(" ");
}

const escapes: Readonly<Record<string, string>> = { "\0": "\\0", "\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\" };

/** Bytes in quotes; what is not UTF-8 or can not be shown is escaped. */
export function quoteBytes(bytes: Uint8Array): string {
  let out = '"';
  let at = 0;
  while (at < bytes.length) {
    const length = utf8Length(bytes, at);
    if (length === 0) {
      out += `\\x${bytes[at++].toString(16).toUpperCase().padStart(2, "0")}`;
      continue;
    }
    const character = Buffer.from(bytes.buffer, bytes.byteOffset + at, length).toString();
    out +=
      escapes[character] ??
      (/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}|\p{Mn}/u.test(character)
        ? `\\u{${character.codePointAt(0)!.toString(16)}}`
        : character);
    at += length;
  }
  return `${out}"`;
}

/** Length of the valid UTF-8 sequence at `at`, or 0. */
function utf8Length(bytes: Uint8Array, at: number): number {
  const first = bytes[at];
  const length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length === 0 || at + length > bytes.length) return 0;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(at, at + length));
    return length;
  } catch {
    return 0;
  }
}

export function hex(bytes: Uint8Array | undefined, length: number): string {
  return Buffer.from(bytes ?? new Uint8Array(length)).toString("hex");
}

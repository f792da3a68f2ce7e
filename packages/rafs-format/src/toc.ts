import { createHash } from "node:crypto";
import type { BlobRecord } from "./blob-record.ts";
import { allZero, readPaddedText, readU64, viewOf } from "./bytes.ts";
import { type Compressor, sectionNames, tocFlags } from "./constants.ts";
import { RafsError } from "./errors.ts";
import { inlinedBootstrapBytesMax, tocBytesMax, tocBytesMin, tocProbeBytes } from "./limits.ts";
import { TAR_HEADER, TOC_ENTRY } from "./records/blob.ts";
import { readTarHeader } from "./tar-header.ts";

/** A section of a blob: where it is stored and what it must decode to. */
export interface BlobSection {
  /** One of `sectionNames`. */
  readonly name: string;
  readonly compressor: Extract<Compressor, "none" | "zstd" | "lz4_block">;
  readonly offset: number;
  readonly compressedSize: number;
  readonly uncompressedSize: number;
  /** SHA-256 of the uncompressed section; undefined when not recorded. */
  readonly digest: Uint8Array | undefined;
}

export interface Toc {
  readonly entries: readonly BlobSection[];
  /** Bytes of entries and tar header at the end of the blob. */
  readonly size: number;
  /** SHA-256 of those bytes: the blob table's `tocDigest`. */
  readonly digest: Uint8Array;
}

/** How many bytes at the end of a blob `readToc` and `findInlinedBootstrap` want to see. */
export const tocTailBytes = (blobSize: number): number =>
  Math.min(tocProbeBytes, Math.floor(blobSize / TOC_ENTRY.recordSize) * TOC_ENTRY.recordSize);

/**
 * Reads the table of contents that ends a blob.
 *
 * @param tail  the last bytes of the blob: `tocTailBytes` of them, or the blob table's `tocSize`
 * @param blobSize  of the whole stored blob, in bytes
 * @returns undefined when the blob does not end in a ToC
 * @throws RafsError RAFS_TOC, RAFS_TAR_HEADER, RAFS_RANGE
 * Source: spec/rafs.md 6.2
 */
export function readToc(tail: Uint8Array, blobSize: number): Toc | undefined {
  const headerAt = tail.length - TAR_HEADER.recordSize;
  if (headerAt < 0 || tail.length > blobSize) return undefined;
  const header = readTarHeader(tail.subarray(headerAt));
  if (header === undefined || header.name !== sectionNames.toc) return undefined;
  const size = header.size + TAR_HEADER.recordSize;
  if (header.size % TOC_ENTRY.recordSize !== 0 || size < tocBytesMin || size > tocBytesMax)
    throw new RafsError("RAFS_TOC", `ToC of ${header.size} bytes`);
  if (size > tail.length)
    throw new RafsError("RAFS_TOC", `ToC of ${size} bytes does not fit into the ${tail.length} bytes read from the end of the blob`);
  const start = tail.length - size;
  const end = blobSize - size;
  const names = new Set<string>();
  const entries = Array.from({ length: header.size / TOC_ENTRY.recordSize }, (_, index) => {
    const at = start + index * TOC_ENTRY.recordSize;
    const entry = readTocEntry(tail.subarray(at, at + TOC_ENTRY.recordSize), end);
    if (names.has(entry.name)) throw new RafsError("RAFS_TOC", `ToC names ${entry.name} twice`);
    names.add(entry.name);
    return entry;
  });
  return { entries, size, digest: createHash("sha256").update(tail.subarray(start)).digest() };
}

/**
 * Reads the ToC of a blob that the bootstrap knows, and compares it with the recorded digest.
 *
 * @throws RafsError RAFS_TOC when there is none or it is another one
 */
export function readKnownToc(tail: Uint8Array, blobSize: number, blob: BlobRecord): Toc {
  const toc = readToc(tail, blobSize);
  if (toc === undefined) throw new RafsError("RAFS_TOC", `blob ${blob.id} does not end in a ToC`);
  if (blob.tocSize !== 0 && blob.tocSize !== toc.size)
    throw new RafsError("RAFS_TOC", `blob ${blob.id}: ToC of ${toc.size} bytes, the blob table says ${blob.tocSize}`);
  if (blob.tocDigest !== undefined && Buffer.compare(blob.tocDigest, toc.digest) !== 0) {
    throw new RafsError("RAFS_TOC", `blob ${blob.id}: the ToC has another digest than the blob table says`);
  }
  return toc;
}

export const tocEntry = (toc: Toc, name: string): BlobSection | undefined => toc.entries.find((entry) => entry.name === name);

/**
 * Finds the bootstrap inside a blob: by its ToC, or by the tar header `image.boot` that ends a blob without ToC. The caller reads
 * the section, decodes it (`none` or `zstd`) and lets `checkSection` verify it.
 *
 * @param tail  the last `tocTailBytes` of the blob
 * @returns undefined when the blob holds no bootstrap
 * @throws RafsError RAFS_TOC, RAFS_TAR_HEADER, RAFS_RANGE, RAFS_UNSUPPORTED
 * Source: spec/rafs.md 6.4
 */
export function findInlinedBootstrap(tail: Uint8Array, blobSize: number): BlobSection | undefined {
  const toc = readToc(tail, blobSize);
  if (toc !== undefined) {
    const entry = tocEntry(toc, sectionNames.bootstrap);
    if (entry === undefined) return undefined;
    if (entry.compressor === "lz4_block")
      throw new RafsError("RAFS_UNSUPPORTED", "bootstrap inside a blob stored with lz4_block; none and zstd are known");
    return checkBootstrapSize(entry);
  }
  if (tail.length < TAR_HEADER.recordSize) return undefined;
  const header = readTarHeader(tail.subarray(tail.length - TAR_HEADER.recordSize));
  if (header === undefined || header.name !== sectionNames.bootstrap) return undefined;
  const offset = blobSize - TAR_HEADER.recordSize - header.size;
  if (offset < 0) throw new RafsError("RAFS_TAR_HEADER", `bootstrap of ${header.size} bytes in a blob of ${blobSize} bytes`);
  const size = header.size;
  return checkBootstrapSize({
    name: header.name,
    compressor: "none",
    offset,
    compressedSize: size,
    uncompressedSize: size,
    digest: undefined,
  });
}

/** Compares the decoded bytes of a section with what the ToC says. @throws RafsError RAFS_TOC */
export function checkSection(section: BlobSection, bytes: Uint8Array): void {
  if (bytes.length !== section.uncompressedSize)
    throw new RafsError("RAFS_TOC", `${section.name}: ${bytes.length} bytes, the ToC says ${section.uncompressedSize}`);
  if (section.digest !== undefined && Buffer.compare(createHash("sha256").update(bytes).digest(), section.digest) !== 0) {
    throw new RafsError("RAFS_TOC", `${section.name}: the bytes have another digest than the ToC says`);
  }
}

/** Digests of a blob's chunks from its section `blob.digest`, in place. @throws RafsError RAFS_TOC when the size does not fit */
export function readDigestArray(bytes: Uint8Array, blob: BlobRecord): (chunkIndex: number) => Uint8Array | undefined {
  if (bytes.length !== 32 * blob.chunkCount)
    throw new RafsError("RAFS_TOC", `blob ${blob.id}: ${bytes.length} bytes of digests for ${blob.chunkCount} chunks`);
  return (chunkIndex) =>
    chunkIndex >= 0 && chunkIndex < blob.chunkCount ? bytes.subarray(chunkIndex * 32, chunkIndex * 32 + 32) : undefined;
}

const compressorOf = new Map<number, BlobSection["compressor"]>([
  [tocFlags.raw, "none"],
  [tocFlags.zstd, "zstd"],
  [tocFlags.lz4Block, "lz4_block"],
]);

function readTocEntry(bytes: Uint8Array, end: number): BlobSection {
  const view = viewOf(bytes);
  const name = readPaddedText(bytes.subarray(TOC_ENTRY.name, TOC_ENTRY.name + 16), "RAFS_TOC", "ToC entry: name");
  const flags = view.getUint32(TOC_ENTRY.flags, true);
  const compressor = compressorOf.get(flags);
  if (compressor === undefined) throw new RafsError("RAFS_TOC", `ToC entry ${JSON.stringify(name)}: unknown flags 0x${flags.toString(16)}`);
  const digest = bytes.subarray(TOC_ENTRY.digest, TOC_ENTRY.digest + 32);
  const u64 = (field: number): number => readU64(view, field, `ToC entry ${JSON.stringify(name)}`);
  const entry: BlobSection = {
    name,
    compressor,
    offset: u64(TOC_ENTRY.offset),
    compressedSize: u64(TOC_ENTRY.compressedSize),
    uncompressedSize: u64(TOC_ENTRY.uncompressedSize),
    digest: allZero(digest) ? undefined : digest,
  };
  // The section `image.blob` carries the uncompressed size of a blob whose chunks are compressed one by one.
  if (name === sectionNames.data) return entry;
  if (entry.offset + entry.compressedSize > end)
    throw new RafsError("RAFS_TOC", `ToC entry ${name} [${entry.offset}..+${entry.compressedSize}) passes the ToC at ${end}`);
  if (compressor === "none" && entry.compressedSize !== entry.uncompressedSize)
    throw new RafsError("RAFS_TOC", `ToC entry ${name}: raw with two sizes`);
  return entry;
}

function checkBootstrapSize(section: BlobSection): BlobSection {
  if (section.uncompressedSize > inlinedBootstrapBytesMax) {
    throw new RafsError("RAFS_TOC", `bootstrap of ${section.uncompressedSize} bytes, at most ${inlinedBootstrapBytesMax}`);
  }
  return section;
}

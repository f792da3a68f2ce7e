import { type BlobRecord, checkBlobId } from "./blob-record.ts";
import { type ByteView, bytesOf, isPowerOfTwo, readText, readU64, viewOf } from "./bytes.ts";
import { blobFeatures, type Compressor, type Digester, rafsV5Magic, rafsV5Version, superFlags } from "./constants.ts";
import { RafsError } from "./errors.ts";
import { bootstrapV5BytesMax, chunkBytesMax, chunkBytesMin, chunksPerBlobMax } from "./limits.ts";
import { EXTENDED_BLOB_V5, SUPERBLOCK_V5 } from "./records/v5.ts";
import { knownSuperFlags, type TableRange } from "./superblock-v6.ts";

/** Checked contents of a v5 superblock. */
export interface SuperblockV5 {
  readonly flags: bigint;
  readonly chunkSize: number;
  /** Unique inodes. */
  readonly inodeCount: number;
  /** Names; indexes of inodes are 1 … this. */
  readonly inodeEntries: number;
  readonly inodeTable: TableRange;
  readonly prefetchTable: TableRange;
  readonly blobTable: TableRange;
  readonly extendedBlobTable: TableRange;
  readonly compressor: Compressor;
  readonly digester: Digester;
}

/** Feature of a v5 blob whose image has no extended blob table: counts and sizes are unknown. Never on disk. */
export const withoutExtendedTable = 0x8000_0000;

const maxIdBytes = 200;
const knownFeatures = Object.values(blobFeatures).reduce((all, bit) => all | bit, 0) >>> 0;

/** Whether the bytes begin like a v5 bootstrap. */
export function isBootstrapV5(bytes: Uint8Array): boolean {
  return hasMagicV5(viewOf(bytes));
}

export function hasMagicV5(view: ByteView): boolean {
  return view.byteLength >= 8 && view.getUint32(SUPERBLOCK_V5.magic, true) === rafsV5Magic;
}

/**
 * Reads the superblock of a v5 bootstrap and checks every rule about it, and that its tables lie inside the file and apart.
 *
 * @throws RafsError RAFS_TRUNCATED, RAFS_MAGIC, RAFS_VERSION, RAFS_SUPERBLOCK, RAFS_RANGE, RAFS_UNSUPPORTED
 * Source: spec/rafs.md 3.1, 10
 */
export function readSuperblockV5(view: ByteView): SuperblockV5 {
  const length = view.byteLength;
  const refuse = (fault: string): never => {
    throw new RafsError("RAFS_SUPERBLOCK", `superblock: ${fault}`);
  };
  if (length >= 8) checkVersion(view);
  if (length <= SUPERBLOCK_V5.recordSize || length % 8 !== 0 || length > bootstrapV5BytesMax) {
    throw new RafsError("RAFS_TRUNCATED", `v5 bootstrap of ${length} bytes, must be a multiple of 8 above 8192 and at most 2 GiB`);
  }
  const u32 = (field: number): number => view.getUint32(field, true);
  if (u32(SUPERBLOCK_V5.superblockSize) !== SUPERBLOCK_V5.recordSize) refuse(`size ${u32(SUPERBLOCK_V5.superblockSize)}, must be 8192`);
  const chunkSize = u32(SUPERBLOCK_V5.chunkSize);
  if (!isPowerOfTwo(chunkSize) || chunkSize < chunkBytesMin || chunkSize > chunkBytesMax) refuse(`chunk size ${chunkSize}`);
  const flags = view.getBigUint64(SUPERBLOCK_V5.flags, true);
  if ((flags & ~knownSuperFlags) !== 0n) {
    throw new RafsError("RAFS_UNSUPPORTED", `superblock: flags 0x${flags.toString(16)} hold bits this build does not know`);
  }
  const inodeEntries = u32(SUPERBLOCK_V5.inodeTableEntries);
  const inodeCount = readU64(view, SUPERBLOCK_V5.inodeCount, "superblock: inode count");
  if (inodeEntries === 0 || inodeCount > inodeEntries) refuse(`${inodeCount} inodes in a table of ${inodeEntries} entries`);
  const table = (name: string, field: number, size: number): TableRange => {
    const offset = readU64(view, field, `superblock: offset of the ${name}`);
    if (offset % 8 !== 0) refuse(`${name} at ${offset}, must be at a multiple of 8`);
    if (size === 0) return { offset: 0, size: 0 };
    if (offset < SUPERBLOCK_V5.recordSize || offset + size > length) {
      throw new RafsError("RAFS_RANGE", `${name} [${offset}..${offset + size}) is outside of [8192..${length})`);
    }
    return { offset, size };
  };
  const inodeTable = table("inode table", SUPERBLOCK_V5.inodeTableOffset, inodeEntries * 4);
  const prefetchTable = table("prefetch table", SUPERBLOCK_V5.prefetchTableOffset, u32(SUPERBLOCK_V5.prefetchTableEntries) * 4);
  const blobTable = table("blob table", SUPERBLOCK_V5.blobTableOffset, u32(SUPERBLOCK_V5.blobTableSize));
  const extendedSize = u32(SUPERBLOCK_V5.extendedBlobTableEntries) * EXTENDED_BLOB_V5.recordSize;
  const extendedBlobTable = table("extended blob table", SUPERBLOCK_V5.extendedBlobTableOffset, extendedSize);
  const ranges = [inodeTable, prefetchTable, blobTable, extendedBlobTable].filter(({ size }) => size > 0);
  ranges.sort((a, b) => a.offset - b.offset);
  ranges.reduce((before, range) => (before.offset + before.size > range.offset ? refuse(`tables overlap at ${range.offset}`) : range));
  return { flags, chunkSize, inodeCount, inodeEntries, inodeTable, prefetchTable, blobTable, extendedBlobTable, ...algorithms(flags) };
}

/**
 * Reads blob table and extended blob table.
 *
 * @throws RafsError RAFS_BLOB_TABLE, RAFS_RANGE
 * Source: spec/rafs.md 3.4, 3.5
 */
export function readBlobTableV5(view: ByteView, superblock: SuperblockV5): BlobRecord[] {
  const { offset, size } = superblock.blobTable;
  const table = bytesOf(view, offset, offset + size);
  const blobs: BlobRecord[] = [];
  const end = offset + size;
  // After the last id come up to 7 NULs of padding.
  for (let at = offset; end - at > 8; ) {
    const start = at + 8;
    const nul = table.indexOf(0, start - offset);
    const idEnd = nul < 0 ? end : offset + nul;
    const what = `blob record ${blobs.length}`;
    if (idEnd - start > maxIdBytes) throw new RafsError("RAFS_BLOB_TABLE", `${what}: id of ${idEnd - start} bytes, at most ${maxIdBytes}`);
    const id = checkBlobId(readText(table.subarray(start - offset, idEnd - offset), "RAFS_BLOB_TABLE", `${what}: id`), what);
    blobs.push(blobRecord(view, superblock, blobs.length, id, view.getUint32(at + 4, true)));
    at = idEnd + 1;
  }
  const entries = superblock.extendedBlobTable.size / EXTENDED_BLOB_V5.recordSize;
  if (entries !== 0 && entries < blobs.length)
    throw new RafsError("RAFS_BLOB_TABLE", `${entries} extended blob records for ${blobs.length} blobs`);
  if (new Set(blobs.map(({ id }) => id)).size !== blobs.length) throw new RafsError("RAFS_BLOB_TABLE", "a blob stands twice in the table");
  return blobs;
}

function checkVersion(view: ByteView): void {
  const magic = view.getUint32(SUPERBLOCK_V5.magic, true);
  if (magic !== rafsV5Magic) throw new RafsError("RAFS_MAGIC", `no RAFS v5 bootstrap: magic 0x${magic.toString(16)} at byte 0`);
  const version = view.getUint32(SUPERBLOCK_V5.version, true);
  if (version !== rafsV5Version)
    throw new RafsError("RAFS_VERSION", `RAFS version 0x${version.toString(16)}, known are 0x500 and v6 images`);
}

function blobRecord(view: ByteView, superblock: SuperblockV5, index: number, id: string, prefetchSize: number): BlobRecord {
  const extended = superblock.extendedBlobTable;
  const at = extended.offset + index * EXTENDED_BLOB_V5.recordSize;
  const has = (index + 1) * EXTENDED_BLOB_V5.recordSize <= extended.size;
  const u64 = (field: number): number => (has ? readU64(view, at + field, `blob record ${index}`) : 0);
  const chunkCount = has ? view.getUint32(at + EXTENDED_BLOB_V5.chunkCount, true) : 0;
  if (chunkCount > chunksPerBlobMax)
    throw new RafsError("RAFS_BLOB_TABLE", `blob record ${index}: chunk count ${chunkCount}, at most ${chunksPerBlobMax}`);
  const features = has ? (view.getUint32(at + EXTENDED_BLOB_V5.features, true) & knownFeatures) >>> 0 : withoutExtendedTable;
  return {
    id,
    index,
    chunkSize: superblock.chunkSize,
    chunkCount,
    compressor: superblock.compressor,
    digester: superblock.digester,
    features,
    compressedSize: u64(EXTENDED_BLOB_V5.compressedSize),
    uncompressedSize: u64(EXTENDED_BLOB_V5.uncompressedSize),
    tocSize: 0,
    tocDigest: undefined,
    ciCompressor: "none",
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
    metaDigest: undefined,
    metaSize: 0,
    cipher: "none",
    cipherKey: undefined,
    cipherIv: undefined,
    prefetchSize,
  };
}

/** v5 does not demand exactly one bit; the order of the original decides. Source: spec/rafs.md 1.3 */
function algorithms(flags: bigint): { readonly compressor: Compressor; readonly digester: Digester } {
  const has = (flag: bigint): boolean => (flags & flag) !== 0n;
  const compressor = has(superFlags.compressionNone)
    ? "none"
    : has(superFlags.compressionLz4)
      ? "lz4_block"
      : has(superFlags.compressionGzip)
        ? "gzip"
        : has(superFlags.compressionZstd)
          ? "zstd"
          : "lz4_block";
  return { compressor, digester: has(superFlags.hashBlake3) || !has(superFlags.hashSha256) ? "blake3" : "sha256" };
}

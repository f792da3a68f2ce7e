import { type BlobRecord, readBlobRecord } from "./blob-record.ts";
import { type ByteView, bytesOf, isPowerOfTwo, readPaddedText, readU64, viewOf } from "./bytes.ts";
import {
  compatRafsV6,
  deviceSlotOffset,
  extendedSuperblockOffset,
  incompatRafsV6,
  rafsV6Magic,
  superblockOffset,
  superFlags,
} from "./constants.ts";
import { RafsError } from "./errors.ts";
import { blobsMax, chunkBytesMax, chunkBytesMin } from "./limits.ts";
import { CHUNK_RECORD } from "./records/blob.ts";
import { BLOB_RECORD, DEVICE_SLOT, EXTENDED_SUPERBLOCK, SUPERBLOCK } from "./records/v6.ts";

/** A table in the bootstrap; size 0 = not there. */
export interface TableRange {
  readonly offset: number;
  readonly size: number;
}

/** Checked contents of both superblocks. */
export interface SuperblockV6 {
  /** 12, or 9 in tarfs mode. */
  readonly blockBits: number;
  readonly rootNid: number;
  readonly inodeCount: number;
  /** Sum of the devices' blocks. */
  readonly blocks: number;
  /** Byte offset of the inode area: nid 0 would be there. */
  readonly metaOffset: number;
  readonly deviceCount: number;
  readonly flags: bigint;
  readonly chunkSize: number;
  readonly blobTable: TableRange;
  readonly chunkTable: TableRange;
  readonly prefetchTable: TableRange;
}

/** All super flags a reader may meet. */
export const knownSuperFlags = Object.values(superFlags).reduce((all, flag) => all | flag, 0n);
const compressionFlags = superFlags.compressionNone | superFlags.compressionLz4 | superFlags.compressionGzip | superFlags.compressionZstd;
const hashFlags = superFlags.hashBlake3 | superFlags.hashSha256;

/** Whether the bytes carry the magic of a v6 bootstrap at its place. */
export function isBootstrapV6(bytes: Uint8Array): boolean {
  return bytes.length >= superblockOffset + 4 && viewOf(bytes).getUint32(superblockOffset, true) === rafsV6Magic;
}

/**
 * Reads both superblocks of a v6 bootstrap and checks every rule about them, and that the tables lie inside the file and apart.
 *
 * @throws RafsError RAFS_TRUNCATED, RAFS_MAGIC, RAFS_SUPERBLOCK, RAFS_RANGE, RAFS_UNSUPPORTED
 * Source: spec/rafs.md 2.2, 2.3, 10
 */
export function readSuperblockV6(view: ByteView): SuperblockV6 {
  const length = view.byteLength;
  if (length < 4096) throw new RafsError("RAFS_TRUNCATED", `bootstrap of ${length} bytes, at least 4096 are needed`);
  const refuse = (fault: string): never => {
    throw new RafsError("RAFS_SUPERBLOCK", `superblock: ${fault}`);
  };
  const u32 = (field: number): number => view.getUint32(superblockOffset + field, true);
  const u16 = (field: number): number => view.getUint16(superblockOffset + field, true);
  const mustBe = (name: string, found: number, wanted: number): void => {
    if (found !== wanted) refuse(`${name} is ${found}, must be ${wanted}`);
  };
  if (u32(SUPERBLOCK.magic) !== rafsV6Magic) {
    throw new RafsError("RAFS_MAGIC", `no RAFS v6 bootstrap: magic 0x${u32(SUPERBLOCK.magic).toString(16)} at byte ${superblockOffset}`);
  }
  mustBe("checksum", u32(SUPERBLOCK.checksum), 0);
  if ((u32(SUPERBLOCK.featureCompat) & compatRafsV6) === 0)
    refuse("the compatible feature bit of RAFS v6 is clear: an EROFS image of another kind");
  const incompat = u32(SUPERBLOCK.featureIncompat);
  if (incompat !== incompatRafsV6) {
    throw new RafsError("RAFS_UNSUPPORTED", `superblock: incompatible features 0x${incompat.toString(16)}, only 0xc is known`);
  }
  const blockBits = view.getUint8(superblockOffset + SUPERBLOCK.blockBits);
  if (blockBits !== 12 && blockBits !== 9) refuse(`block size 2^${blockBits}, must be 2^12 or 2^9`);
  const blockSize = 2 ** blockBits;
  if (length % blockSize !== 0) {
    throw new RafsError("RAFS_TRUNCATED", `bootstrap of ${length} bytes is no multiple of its block size ${blockSize}`);
  }
  mustBe("extension slot count", view.getUint8(superblockOffset + SUPERBLOCK.extensionSlots), 0);
  mustBe("xattr block", u32(SUPERBLOCK.xattrBlock), 0);
  mustBe("word at 84", u16(SUPERBLOCK.union), 0);
  mustBe("device slot", u16(SUPERBLOCK.deviceSlot), deviceSlotOffset / DEVICE_SLOT.recordSize);
  const inodeCount = readU64(view, superblockOffset + SUPERBLOCK.inodeCount, "superblock: inode count");
  if (inodeCount === 0) refuse("inode count is 0");
  const blocks = u32(SUPERBLOCK.blocks);
  const deviceCount = u16(SUPERBLOCK.deviceCount);
  if (deviceCount === 0 && blocks !== 0 && blocks !== 4096) refuse(`no devices but ${blocks} blocks`);
  if (deviceCount > blobsMax) refuse(`${deviceCount} devices, at most ${blobsMax}`);
  if (deviceSlotOffset + deviceCount * DEVICE_SLOT.recordSize > length) refuse(`${deviceCount} device slots pass the end of the file`);
  const metaOffset = u32(SUPERBLOCK.metaBlock) * blockSize;
  if (metaOffset > length) refuse(`inode area at ${metaOffset}, the file ends at ${length}`);
  const extension = readExtension(view, deviceCount);
  if (((extension.flags & superFlags.tarfsMode) !== 0n) !== (blockBits === 9))
    refuse(`block size ${blockSize} does not fit flag TARTFS_MODE`);
  return { blockBits, rootNid: u16(SUPERBLOCK.rootNid), inodeCount, blocks, metaOffset, deviceCount, ...extension };
}

/**
 * Reads the blob table and compares it with the device slots.
 *
 * @throws RafsError RAFS_BLOB_TABLE, RAFS_RANGE, RAFS_UNSUPPORTED
 * Source: spec/rafs.md 2.4, 2.5, 10
 */
export function readBlobTableV6(view: ByteView, superblock: SuperblockV6): BlobRecord[] {
  const count = superblock.blobTable.size / BLOB_RECORD.recordSize;
  if (count !== superblock.deviceCount) {
    throw new RafsError("RAFS_BLOB_TABLE", `${count} blob records for ${superblock.deviceCount} device slots`);
  }
  const ids = new Set<string>();
  return Array.from({ length: count }, (_, index) => {
    const at = superblock.blobTable.offset + index * BLOB_RECORD.recordSize;
    const blob = readBlobRecord(bytesOf(view, at, at + BLOB_RECORD.recordSize), index, superblock);
    const slot = deviceSlotOffset + index * DEVICE_SLOT.recordSize;
    const slotId = readPaddedText(bytesOf(view, slot, slot + 64), "RAFS_BLOB_TABLE", `device slot ${index}: id`);
    if (slotId !== blob.id)
      throw new RafsError("RAFS_BLOB_TABLE", `device slot ${index} names ${JSON.stringify(slotId)}, the blob table ${blob.id}`);
    if (view.getUint32(slot + DEVICE_SLOT.blocks, true) === 0) throw new RafsError("RAFS_BLOB_TABLE", `device slot ${index} has no blocks`);
    if (ids.has(blob.id)) throw new RafsError("RAFS_BLOB_TABLE", `blob ${blob.id} stands twice in the table`);
    ids.add(blob.id);
    return blob;
  });
}

type Extension = Pick<SuperblockV6, "flags" | "chunkSize" | "blobTable" | "chunkTable" | "prefetchTable">;

function readExtension(view: ByteView, deviceCount: number): Extension {
  const at = (field: number): number => extendedSuperblockOffset + field;
  const flags = view.getBigUint64(at(EXTENDED_SUPERBLOCK.flags), true);
  checkFlags(flags);
  const chunkSize = view.getUint32(at(EXTENDED_SUPERBLOCK.chunkSize), true);
  if (!isPowerOfTwo(chunkSize) || chunkSize < chunkBytesMin || chunkSize > chunkBytesMax) {
    throw new RafsError("RAFS_SUPERBLOCK", `chunk size ${chunkSize}, must be a power of two from 4096 to 16 MiB`);
  }
  const table = (name: string, offsetField: number, size: number, record: number, alignment: number): TableRange => {
    const offset = readU64(view, at(offsetField), `offset of the ${name}`);
    if (size === 0) return { offset: 0, size: 0 };
    if (size % record !== 0) throw new RafsError("RAFS_SUPERBLOCK", `${name} of ${size} bytes is no multiple of ${record}`);
    if (offset % alignment !== 0 || offset < 4096)
      throw new RafsError("RAFS_SUPERBLOCK", `${name} at ${offset}, must be at a multiple of ${alignment} from 4096`);
    if (offset + size > view.byteLength)
      throw new RafsError("RAFS_RANGE", `${name} [${offset}..${offset + size}) passes the end ${view.byteLength}`);
    return { offset, size };
  };
  const blobTableSize = view.getUint32(at(EXTENDED_SUPERBLOCK.blobTableSize), true);
  const blobTable = table("blob table", EXTENDED_SUPERBLOCK.blobTableOffset, blobTableSize, BLOB_RECORD.recordSize, 4096);
  const chunkTableSize = readU64(view, at(EXTENDED_SUPERBLOCK.chunkTableSize), "size of the chunk table");
  const chunkTable = table("chunk table", EXTENDED_SUPERBLOCK.chunkTableOffset, chunkTableSize, CHUNK_RECORD.recordSize, 4096);
  const prefetchOffset = view.getBigUint64(at(EXTENDED_SUPERBLOCK.prefetchTableOffset), true);
  const prefetchSize = prefetchOffset === 0n ? 0 : view.getUint32(at(EXTENDED_SUPERBLOCK.prefetchTableSize), true);
  const prefetchTable = table("prefetch table", EXTENDED_SUPERBLOCK.prefetchTableOffset, prefetchSize, 4, 8);
  const slots = { offset: deviceSlotOffset, size: deviceCount * DEVICE_SLOT.recordSize };
  checkApart([
    ["blob table", blobTable],
    ["chunk table", chunkTable],
    ["prefetch table", prefetchTable],
    ["device slots", slots],
  ]);
  return { flags, chunkSize, blobTable, chunkTable, prefetchTable };
}

function checkFlags(flags: bigint): void {
  if ((flags & ~knownSuperFlags) !== 0n) {
    throw new RafsError("RAFS_UNSUPPORTED", `superblock: flags 0x${flags.toString(16)} hold bits this build does not know`);
  }
  const exactlyOne = (mask: bigint, name: string): void => {
    const set = flags & mask;
    if (set === 0n || (set & (set - 1n)) !== 0n)
      throw new RafsError("RAFS_SUPERBLOCK", `flags 0x${flags.toString(16)} must name exactly one ${name}`);
  };
  exactlyOne(compressionFlags, "compressor");
  exactlyOne(hashFlags, "digester");
}

function checkApart(tables: readonly (readonly [string, TableRange])[]): void {
  const present = tables.filter(([, range]) => range.size > 0).sort(([, a], [, b]) => a.offset - b.offset);
  for (let index = 1; index < present.length; index++) {
    const [name, range] = present[index] as (typeof present)[number];
    const [before, previous] = present[index - 1] as (typeof present)[number];
    if (previous.offset + previous.size > range.offset)
      throw new RafsError("RAFS_SUPERBLOCK", `${name} at ${range.offset} overlaps ${before}`);
  }
}

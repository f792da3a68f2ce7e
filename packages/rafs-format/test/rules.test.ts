import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  BLOB_RECORD,
  DEVICE_SLOT,
  DIRENT,
  EXTENDED_SUPERBLOCK,
  effectiveBlobId,
  INODE_EXTENDED,
  metaBlobId,
  openBootstrap,
  RafsV5Cursor,
  RafsV6Cursor,
  SUPERBLOCK,
  SUPERBLOCK_V5,
} from "../src/index.ts";
import { codeOf, view } from "./hostile.ts";

const fixture = (name: string): Uint8Array => Uint8Array.from(readFileSync(join(import.meta.dirname, "fixtures", name)));
const good6 = fixture("plain-v6.boot");
const good5 = fixture("plain-v5.boot");
const { superblock } = new RafsV6Cursor(good6);

type Width = 8 | 16 | 32 | 64;

/** The fixture with one field set. */
function patched(good: Uint8Array, at: number, width: Width, value: number | bigint): Uint8Array {
  const bytes = Uint8Array.from(good);
  const target = view(bytes);
  if (width === 8) target.setUint8(at, Number(value));
  else if (width === 16) target.setUint16(at, Number(value), true);
  else if (width === 32) target.setUint32(at, Number(value), true);
  else target.setBigUint64(at, BigInt(value), true);
  return bytes;
}

const sb = (field: number): number => 1024 + field;
const ext = (field: number): number => 1152 + field;
const blob = (field: number): number => superblock.blobTable.offset + field;
const root = (field: number): number => superblock.metaOffset + superblock.rootNid * 32 + field;

describe("every rule about a v6 superblock and blob record has its code", () => {
  test.each([
    ["magic", sb(SUPERBLOCK.magic), 32, 1, "RAFS_MAGIC"],
    ["checksum", sb(SUPERBLOCK.checksum), 32, 1, "RAFS_SUPERBLOCK"],
    ["compatible features without RAFS", sb(SUPERBLOCK.featureCompat), 32, 1, "RAFS_SUPERBLOCK"],
    ["incompatible features", sb(SUPERBLOCK.featureIncompat), 32, 0xd, "RAFS_UNSUPPORTED"],
    ["block size 8192", sb(SUPERBLOCK.blockBits), 8, 13, "RAFS_SUPERBLOCK"],
    ["block size 512 without tarfs", sb(SUPERBLOCK.blockBits), 8, 9, "RAFS_SUPERBLOCK"],
    ["extension slots", sb(SUPERBLOCK.extensionSlots), 8, 1, "RAFS_SUPERBLOCK"],
    ["no inodes", sb(SUPERBLOCK.inodeCount), 64, 0, "RAFS_SUPERBLOCK"],
    ["inodes above 2^53", sb(SUPERBLOCK.inodeCount), 64, 2n ** 60n, "RAFS_RANGE"],
    ["inode area behind the end", sb(SUPERBLOCK.metaBlock), 32, 0xffffffff, "RAFS_SUPERBLOCK"],
    ["shared xattrs", sb(SUPERBLOCK.xattrBlock), 32, 1, "RAFS_SUPERBLOCK"],
    ["union word", sb(SUPERBLOCK.union), 16, 1, "RAFS_SUPERBLOCK"],
    ["more devices than blobs", sb(SUPERBLOCK.deviceCount), 16, 2, "RAFS_BLOB_TABLE"],
    ["256 devices", sb(SUPERBLOCK.deviceCount), 16, 256, "RAFS_SUPERBLOCK"],
    ["device slot elsewhere", sb(SUPERBLOCK.deviceSlot), 16, 12, "RAFS_SUPERBLOCK"],
    ["root outside of the file", sb(SUPERBLOCK.rootNid), 16, 0xffff, "RAFS_RANGE"],
    ["unknown flag", ext(EXTENDED_SUPERBLOCK.flags), 64, 2n ** 40n, "RAFS_UNSUPPORTED"],
    ["two compressors", ext(EXTENDED_SUPERBLOCK.flags), 64, 0x7n, "RAFS_SUPERBLOCK"],
    ["no digester", ext(EXTENDED_SUPERBLOCK.flags), 64, 0x1n, "RAFS_SUPERBLOCK"],
    ["chunk size 3000", ext(EXTENDED_SUPERBLOCK.chunkSize), 32, 3000, "RAFS_SUPERBLOCK"],
    ["chunk size 32 MiB", ext(EXTENDED_SUPERBLOCK.chunkSize), 32, 2 ** 25, "RAFS_SUPERBLOCK"],
    ["chunk size of another image", ext(EXTENDED_SUPERBLOCK.chunkSize), 32, 65536, "RAFS_BLOB_TABLE"],
    ["blob table unaligned", ext(EXTENDED_SUPERBLOCK.blobTableOffset), 64, 4104, "RAFS_SUPERBLOCK"],
    ["blob table over the superblock", ext(EXTENDED_SUPERBLOCK.blobTableOffset), 64, 0, "RAFS_SUPERBLOCK"],
    ["blob table behind the end", ext(EXTENDED_SUPERBLOCK.blobTableOffset), 64, 2 ** 30, "RAFS_RANGE"],
    ["blob table of 300 bytes", ext(EXTENDED_SUPERBLOCK.blobTableSize), 32, 300, "RAFS_SUPERBLOCK"],
    ["chunk table of 81 bytes", ext(EXTENDED_SUPERBLOCK.chunkTableSize), 64, 81, "RAFS_SUPERBLOCK"],
    ["chunk table over the blob table", ext(EXTENDED_SUPERBLOCK.chunkTableOffset), 64, superblock.blobTable.offset, "RAFS_SUPERBLOCK"],
    ["blob index", blob(BLOB_RECORD.blobIndex), 32, 7, "RAFS_BLOB_TABLE"],
    ["chunk count 2^24 + 1", blob(BLOB_RECORD.chunkCount), 32, 2 ** 24 + 1, "RAFS_BLOB_TABLE"],
    ["compressor 9", blob(BLOB_RECORD.compressor), 32, 9, "RAFS_UNSUPPORTED"],
    ["digester 2", blob(BLOB_RECORD.digester), 32, 2, "RAFS_UNSUPPORTED"],
    ["reserved feature", blob(BLOB_RECORD.features), 32, 0x40001001, "RAFS_UNSUPPORTED"],
    ["unaligned", blob(BLOB_RECORD.features), 32, 0x40000000, "RAFS_BLOB_TABLE"],
    ["zran without V2 records", blob(BLOB_RECORD.features), 32, 0x40000009, "RAFS_BLOB_TABLE"],
    ["encrypted without cipher", blob(BLOB_RECORD.features), 32, 0x40000105, "RAFS_BLOB_TABLE"],
    ["uncompressed size 2^50", blob(BLOB_RECORD.uncompressedSize), 64, 2n ** 50n, "RAFS_BLOB_TABLE"],
    ["compressed size 2^41", blob(BLOB_RECORD.compressedSize), 64, 2n ** 41n, "RAFS_BLOB_TABLE"],
    ["chunk info of another count", blob(BLOB_RECORD.ciUncompressedSize), 64, 4096, "RAFS_BLOB_TABLE"],
    ["ToC size", blob(BLOB_RECORD.tocSize), 32, 65664, "RAFS_BLOB_TABLE"],
    ["another id than the device slot", blob(BLOB_RECORD.blobId), 8, 0x66, "RAFS_BLOB_TABLE"],
    ["id that is a path", blob(BLOB_RECORD.blobId), 8, 0x2f, "RAFS_BLOB_TABLE"],
    ["id that is no UTF-8", blob(BLOB_RECORD.blobId), 8, 0xff, "RAFS_BLOB_TABLE"],
    ["id that goes on after its end", blob(BLOB_RECORD.blobId) + 3, 8, 0, "RAFS_BLOB_TABLE"],
    ["device without blocks", 1408 + DEVICE_SLOT.blocks, 32, 0, "RAFS_BLOB_TABLE"],
    ["root of unknown format", root(INODE_EXTENDED.format), 16, 0x15, "RAFS_INODE"],
    ["root of layout 3", root(INODE_EXTENDED.format), 16, 7, "RAFS_DIRECTORY"],
    ["root that is a file", root(INODE_EXTENDED.mode), 16, 0o100644, "RAFS_INODE"],
    ["root without type", root(INODE_EXTENDED.mode), 16, 0o755, "RAFS_INODE"],
    ["root without links", root(INODE_EXTENDED.nlink), 32, 0, "RAFS_INODE"],
    ["root of size 0", root(INODE_EXTENDED.size), 64, 0, "RAFS_DIRECTORY"],
    ["root of size 2^60", root(INODE_EXTENDED.size), 64, 2n ** 60n, "RAFS_DIRECTORY"],
    ["root whose xattrs pass the end", root(INODE_EXTENDED.xattrCount), 16, 0xffff, "RAFS_XATTR"],
  ] as [string, number, Width, number | bigint, string][])("%s", (_, at, width, value, code) => {
    expect(codeOf(() => openBootstrap(patched(good6, at, width, value)))).toBe(code);
  });

  test("extra bytes behind a v6 bootstrap do no harm, half a block does", () => {
    const longer = new Uint8Array(good6.length + 4096);
    longer.set(good6);
    expect(openBootstrap(longer).inodeCount).toBe(19);
    expect(codeOf(() => openBootstrap(longer.subarray(0, good6.length + 8)))).toBe("RAFS_TRUNCATED");
  });
});

describe("every rule about a v6 directory has its code", () => {
  const cursor = new RafsV6Cursor(good6);
  cursor.load(cursor.rootNid);
  const block = cursor.blockOffset(0);
  cursor.openBlock(0);
  const list = (bytes: Uint8Array): string => codeOf(() => [...openBootstrap(bytes).walk()]);

  test.each([
    ["first name offset 0", block + DIRENT.nameOffset, 16, 0, "RAFS_DIRECTORY"],
    ["first name offset 13", block + DIRENT.nameOffset, 16, 13, "RAFS_DIRECTORY"],
    ["first name behind the data", block + DIRENT.nameOffset, 16, 12 * 340, "RAFS_DIRECTORY"],
    ["second name before the first", block + 12 + DIRENT.nameOffset, 16, 12, "RAFS_DIRECTORY"],
    ["node 0", block + 24 + DIRENT.nid, 64, 0, "RAFS_RANGE"],
    ["node 2^64 − 1", block + 24 + DIRENT.nid, 64, 2n ** 64n - 1n, "RAFS_RANGE"],
    ["a type of another inode", block + 24 + DIRENT.type, 8, 5, "RAFS_DIRECTORY"],
    ["an unknown type", block + 24 + DIRENT.type, 8, 9, "RAFS_DIRECTORY"],
  ] as [string, number, Width, number | bigint, string][])("%s", (_, at, width, value, code) => {
    expect(list(patched(good6, at, width, value))).toBe(code);
  });

  test.each([
    ["a slash", 0x2f],
    ["a NUL", 0],
    ["a byte that breaks the order", 0x01],
  ])("a name with %s", (_, byte) => {
    cursor.load(cursor.rootNid);
    cursor.openBlock(0);
    cursor.entry(cursor.entryCount - 2);
    expect(list(patched(good6, cursor.entryNameStart, 8, byte))).toBe("RAFS_DIRECTORY");
  });

  test("a directory that is its own grandchild", () => {
    const bootstrap = openBootstrap(good6);
    const child = [...bootstrap.readDir(bootstrap.rootNid)].find(({ type }) => type === "dir");
    const bytes = Uint8Array.from(good6);
    const inside = new RafsV6Cursor(bytes);
    inside.load(inside.rootNid);
    inside.openBlock(0);
    for (let at = 0; at < inside.entryCount; at++) {
      inside.entry(at);
      if (inside.entryNid === child?.nid) view(bytes).setBigUint64(block + at * 12 + DIRENT.nid, BigInt(inside.rootNid), true);
    }
    expect(list(bytes)).toBe("RAFS_DIRECTORY");
  });
});

describe("every rule about a v5 superblock has its code", () => {
  const { inodeTable } = new RafsV5Cursor(good5).superblock;

  test.each([
    ["version 4", SUPERBLOCK_V5.version, 32, 0x400, "RAFS_VERSION"],
    ["superblock size", SUPERBLOCK_V5.superblockSize, 32, 4096, "RAFS_SUPERBLOCK"],
    ["chunk size 3000", SUPERBLOCK_V5.chunkSize, 32, 3000, "RAFS_SUPERBLOCK"],
    ["unknown flag", SUPERBLOCK_V5.flags, 64, 2n ** 40n, "RAFS_UNSUPPORTED"],
    ["more inodes than entries", SUPERBLOCK_V5.inodeCount, 64, 1000, "RAFS_SUPERBLOCK"],
    ["no inode entries", SUPERBLOCK_V5.inodeTableEntries, 32, 0, "RAFS_SUPERBLOCK"],
    ["inode table behind the end", SUPERBLOCK_V5.inodeTableOffset, 64, 2 ** 30, "RAFS_RANGE"],
    ["inode table unaligned", SUPERBLOCK_V5.inodeTableOffset, 64, 8196, "RAFS_SUPERBLOCK"],
    ["tables that overlap", SUPERBLOCK_V5.blobTableOffset, 64, inodeTable.offset, "RAFS_SUPERBLOCK"],
    ["root nowhere", inodeTable.offset, 32, 0, "RAFS_RANGE"],
    ["root behind the end", inodeTable.offset, 32, 2 ** 29 - 1, "RAFS_RANGE"],
  ] as [string, number, Width, number | bigint, string][])("%s", (_, at, width, value, code) => {
    expect(codeOf(() => openBootstrap(patched(good5, at, width, value)))).toBe(code);
  });
});

test("a blob inside of which the bootstrap lies is named by the file, a blob with its meta elsewhere by its record", () => {
  const [record] = openBootstrap(good6).blobs;
  if (record === undefined) throw new Error("the fixture has a blob");
  const features = (bits: number): typeof record => ({ ...record, features: 0x40000001 | bits });
  expect(effectiveBlobId(record, "abc.boot")).toBe(record.id);
  expect(effectiveBlobId(features(0x2), "abc.boot")).toBe("abc");
  expect(effectiveBlobId(features(0x2), undefined)).toBe(record.id);
  expect(effectiveBlobId(features(0x12), "abc.boot")).toBe(record.id);
  const digest = "0123456789abcdef".repeat(4);
  expect(effectiveBlobId({ ...record, features: 1 }, `${digest}.boot`)).toBe(digest);
  expect(effectiveBlobId({ ...record, features: 1 }, "image.boot")).toBe(record.id);
  expect(metaBlobId(record, undefined)).toBe(record.id);
  expect(metaBlobId(features(0x12), "abc.boot")).toBe("abc");
  expect(metaBlobId({ ...features(0x10), metaDigest: new Uint8Array(32).fill(0xab) }, undefined)).toBe("ab".repeat(32));
});

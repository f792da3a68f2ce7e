/** A whole v5 bootstrap from a tree and its blobs. Source: spec/nydus-image.md, section 9.2; spec/rafs.md, section 3 */
import assert from "node:assert/strict";
import { compressors, digesters, inodeFlagsV5, rafsV5Magic, rafsV5Version, superFlags } from "../constants.ts";
import { digestOf } from "../digest.ts";
import { RafsError } from "../errors.ts";
import { bootstrapV5BytesMax } from "../limits.ts";
import { CHUNK_RECORD } from "../records/blob.ts";
import { EXTENDED_BLOB_V5, INODE_V5, SUPERBLOCK_V5 } from "../records/v5.ts";
import { type BootstrapOptions, compressorFlags, digesterFlags } from "./bootstrap.ts";
import { writeChunkRecord } from "./chunk-record.ts";
import { roundUp } from "./placement.ts";
import { type BlobEntry, forEachDirectory, type TreeNode } from "./tree.ts";

const alignment = 8;
const digestBytes = 32;
const xattrSizeBytes = 8;
const pairSizeBytes = 4;
/** Inode numbers are u32 in the inode table's neighbours; paths and xattrs in their own fields are bounded by the sources. */
const nameBytesMax = 256;
const targetBytesMax = 65535;

/** What v5 records of a node and the tree does not hold. */
interface Placed {
  node: TreeNode;
  /** position in the inode table, from 1; differs from the inode number for later names of a hardlinked inode */
  index: number;
  parent: number;
  childIndex: number;
  childCount: number;
  size: number;
  xattrBytes: number;
  digest: Uint8Array;
}

/**
 * Writes the tree. Equal input gives equal bytes. Sizes of directories are computed; `cipher` must be 0.
 * @throws RafsError RAFS_CHUNK (a file has another number of chunks than its size asks for), RAFS_BLOB_TABLE, RAFS_RANGE (larger than 2 GiB), RAFS_UNSUPPORTED
 */
export function writeBootstrapV5(options: BootstrapOptions): Buffer {
  const { root, blobs } = options;
  if (options.cipher !== 0) throw new RafsError("RAFS_UNSUPPORTED", "RAFS v5 has no encryption: write a version 6 bootstrap");
  const placed = placeTree(root, options);
  const order = writingOrder(root, placed);
  computeDigests(order, digesters[options.digester]);

  const inodeTable = SUPERBLOCK_V5.recordSize;
  const prefetchTable = inodeTable + roundUp(4 * placed.size, alignment);
  const prefetch = options.prefetch.map((node) => node.ino);
  const blobTable = prefetchTable + roundUp(4 * prefetch.length, alignment);
  const blobTableBytes = encodeBlobTable(blobs);
  const extendedTable = blobTable + blobTableBytes.length;
  let size = extendedTable + blobs.length * EXTENDED_BLOB_V5.recordSize;
  const offsets: number[] = [];
  for (const entry of order) {
    offsets.push(size);
    size += inodeBytes(entry);
  }
  if (size > bootstrapV5BytesMax) throw new RafsError("RAFS_RANGE", `a bootstrap of ${size} bytes: RAFS v5 holds ${bootstrapV5BytesMax}`);

  const out = Buffer.alloc(size);
  const blobIndex = new Map(blobs.map((blob, index) => [blob, index]));
  for (const [i, entry] of order.entries()) {
    out.writeUInt32LE(offsets[i] / alignment, inodeTable + 4 * (entry.index - 1));
    writeInode(out, offsets[i], entry, options.chunkSize, blobIndex);
  }
  for (const [i, ino] of prefetch.entries()) out.writeUInt32LE(ino, prefetchTable + 4 * i);
  out.set(blobTableBytes, blobTable);
  for (const [i, blob] of blobs.entries()) writeExtendedBlob(out, extendedTable + i * EXTENDED_BLOB_V5.recordSize, blob);
  writeSuperblock(out, options, {
    inodeCount: new Set(order.map(({ node }) => node.ino)).size,
    inodeEntries: placed.size,
    inodeTable,
    prefetchTable,
    prefetchEntries: prefetch.length,
    blobTable,
    blobTableSize: blobTableBytes.length,
    extendedTable,
  });
  return out;
}

/** Numbers as `numberTree` gave them, with the place of each directory's children. */
function placeTree(root: TreeNode, options: BootstrapOptions): Map<TreeNode, Placed> {
  const placed = new Map<TreeNode, Placed>();
  let next = 1;
  const place = (node: TreeNode, parent: number) => {
    const entry: Placed = {
      node,
      index: next++,
      parent,
      childIndex: 0,
      childCount: node.isRegular ? node.chunks.length : 0,
      size: node.size,
      xattrBytes: xattrBytes(node.xattrs),
      digest: new Uint8Array(digestBytes),
    };
    if (Buffer.byteLength(node.name, "latin1") > nameBytesMax || (node.target?.length ?? 0) > targetBytesMax)
      throw new RafsError("RAFS_INODE", `${JSON.stringify(node.name)}: its name or link target is longer than RAFS v5 holds`);
    if (node.isRegular && node.chunks.length !== Math.ceil(node.size / options.chunkSize))
      throw new RafsError("RAFS_CHUNK", `invalid chunk count ${node.chunks.length}: ${JSON.stringify(node.name)} has ${node.size} bytes`);
    placed.set(node, entry);
  };
  place(root, 0);
  forEachDirectory(root, (directory) => {
    const entry = placed.get(directory)!;
    entry.childIndex = next;
    entry.childCount = directory.sorted.length;
    let bytes = 0;
    for (const child of directory.sorted) {
      bytes += child.name.length + 8;
      place(child, directory.ino);
    }
    entry.size = Math.max(4096, roundUp(bytes, 4096));
  });
  assert.equal(placed.size, options.nodeCount, "the tree is numbered");
  return placed;
}

/** Depth first, children by name: not the order of numbers. */
function writingOrder(root: TreeNode, placed: ReadonlyMap<TreeNode, Placed>): Placed[] {
  const order: Placed[] = [];
  const pending = [root];
  for (let node = pending.pop(); node; node = pending.pop()) {
    order.push(placed.get(node)!);
    if (node.isDirectory) for (let i = node.sorted.length - 1; i >= 0; i--) pending.push(node.sorted[i]);
  }
  return order;
}

/** Children before their directory: the reverse of the writing order. */
function computeDigests(order: readonly Placed[], digester: (typeof digesters)[number]): void {
  const digests = new Map<TreeNode, Uint8Array>();
  for (let i = order.length - 1; i >= 0; i--) {
    const { node } = order[i];
    let parts: Uint8Array[] = [];
    if (node.isRegular) parts = node.chunks.map((chunk) => chunk.digest);
    else if (node.isSymlink) parts = [node.target!];
    else if (node.isDirectory) parts = node.sorted.map((child) => digests.get(child)!);
    order[i].digest = digestOf(digester, parts);
    digests.set(node, order[i].digest);
  }
}

/** Bytes of the pairs, without the size in front of them. */
function xattrBytes(xattrs: ReadonlyMap<string, Uint8Array> | undefined): number {
  let bytes = 0;
  for (const [name, value] of xattrs ?? []) bytes += pairSizeBytes + name.length + 1 + value.length;
  return bytes;
}

function alignedXattrBytes({ xattrBytes }: Placed): number {
  return xattrBytes === 0 ? 0 : roundUp(xattrSizeBytes + xattrBytes, alignment);
}

function nameOf(node: TreeNode): string {
  return node.name === "" ? "/" : node.name;
}

function inodeBytes(entry: Placed): number {
  const { node } = entry;
  const name = roundUp(nameOf(node).length, alignment);
  const target = node.isSymlink ? roundUp(node.target!.length, alignment) : 0;
  return (
    INODE_V5.recordSize + name + target + alignedXattrBytes(entry) + (node.isRegular ? node.chunks.length * CHUNK_RECORD.recordSize : 0)
  );
}

function flagsOf(node: TreeNode): number {
  let flags = 0;
  if (node.isSymlink) flags |= inodeFlagsV5.symlink;
  if (node.isNamedHardlink) flags |= inodeFlagsV5.hardlink;
  if (node.xattrs && node.xattrs.size > 0) flags |= inodeFlagsV5.xattr;
  return flags;
}

function writeInode(out: Buffer, start: number, entry: Placed, chunkSize: number, blobIndex: ReadonlyMap<BlobEntry, number>): void {
  const { node } = entry;
  const name = nameOf(node);
  out.set(entry.digest, start + INODE_V5.digest);
  out.writeBigUInt64LE(BigInt(entry.parent), start + INODE_V5.parent);
  out.writeBigUInt64LE(BigInt(node.ino), start + INODE_V5.ino);
  out.writeUInt32LE(node.uid, start + INODE_V5.uid);
  out.writeUInt32LE(node.gid, start + INODE_V5.gid);
  out.writeUInt32LE(node.mode, start + INODE_V5.mode);
  out.writeBigUInt64LE(BigInt(entry.size), start + INODE_V5.size);
  out.writeBigUInt64LE(BigInt(Math.ceil((entry.size + alignedXattrBytes(entry)) / 512)), start + INODE_V5.blocks);
  out.writeBigUInt64LE(BigInt(flagsOf(node)), start + INODE_V5.flags);
  out.writeUInt32LE(node.nlink, start + INODE_V5.nlink);
  out.writeUInt32LE(entry.childIndex, start + INODE_V5.childIndex);
  out.writeUInt32LE(entry.childCount, start + INODE_V5.childCount);
  out.writeUInt16LE(name.length, start + INODE_V5.nameSize);
  out.writeUInt16LE(node.isSymlink ? node.target!.length : 0, start + INODE_V5.symlinkSize);
  out.writeUInt32LE(node.rdev, start + INODE_V5.rdev);
  out.writeUInt32LE(node.mtimeNsec, start + INODE_V5.mtimeNsec);
  out.writeBigInt64LE(BigInt(node.mtime), start + INODE_V5.mtime);
  let at = start + INODE_V5.recordSize;
  out.write(name, at, "latin1");
  at += roundUp(name.length, alignment);
  if (node.isSymlink) {
    out.set(node.target!, at);
    at += roundUp(node.target!.length, alignment);
  }
  if (entry.xattrBytes > 0) {
    writePairs(out, at, node.xattrs!, entry.xattrBytes);
    at += alignedXattrBytes(entry);
  }
  if (!node.isRegular) return;
  for (const [i, chunk] of node.chunks.entries()) {
    const index = blobIndex.get(chunk.blob);
    assert(index !== undefined, "a chunk's blob is in the blob table");
    writeChunkRecord(out, at + i * CHUNK_RECORD.recordSize, chunk, index, i * chunkSize);
  }
}

/** Sorted by full name: the original's order is random, ours is the same for the same input. */
function writePairs(out: Buffer, start: number, xattrs: ReadonlyMap<string, Uint8Array>, bytes: number): void {
  out.writeBigUInt64LE(BigInt(bytes), start);
  let at = start + xattrSizeBytes;
  for (const name of [...xattrs.keys()].sort()) {
    const value = xattrs.get(name)!;
    out.writeUInt32LE(name.length + 1 + value.length, at);
    out.write(name, at + pairSizeBytes, "latin1");
    out.set(value, at + pairSizeBytes + name.length + 1);
    at += pairSizeBytes + name.length + 1 + value.length;
  }
}

/** Prefetch range and id of each blob, with a NUL between ids, padded to 8 bytes. */
function encodeBlobTable(blobs: readonly BlobEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const [i, blob] of blobs.entries()) {
    if (blob.id === "") throw new RafsError("RAFS_BLOB_TABLE", "a blob has an empty id");
    const range = Buffer.alloc(8);
    range.writeUInt32LE(blob.prefetchBytes ?? 0, 4);
    parts.push(range, Buffer.from(i < blobs.length - 1 ? `${blob.id}\0` : blob.id));
  }
  const table = Buffer.concat(parts);
  return Buffer.concat([table, Buffer.alloc(roundUp(table.length, alignment) - table.length)]);
}

function writeExtendedBlob(out: Buffer, at: number, blob: BlobEntry): void {
  out.writeUInt32LE(blob.chunkCount, at + EXTENDED_BLOB_V5.chunkCount);
  out.writeUInt32LE(blob.features, at + EXTENDED_BLOB_V5.features);
  out.writeBigUInt64LE(BigInt(blob.uncompressedSize), at + EXTENDED_BLOB_V5.uncompressedSize);
  out.writeBigUInt64LE(BigInt(blob.compressedSize), at + EXTENDED_BLOB_V5.compressedSize);
}

function writeSuperblock(
  out: Buffer,
  options: BootstrapOptions,
  tables: {
    inodeCount: number;
    inodeEntries: number;
    inodeTable: number;
    prefetchTable: number;
    prefetchEntries: number;
    blobTable: number;
    blobTableSize: number;
    extendedTable: number;
  },
): void {
  assert(compressors[options.compressor] !== undefined && digesters[options.digester] !== undefined, "known algorithms");
  let flags = compressorFlags[options.compressor] | digesterFlags[options.digester];
  if (options.explicitUidGid) flags |= superFlags.explicitUidGid;
  if (options.hasXattr) flags |= superFlags.hasXattr;
  out.writeUInt32LE(rafsV5Magic, SUPERBLOCK_V5.magic);
  out.writeUInt32LE(rafsV5Version, SUPERBLOCK_V5.version);
  out.writeUInt32LE(SUPERBLOCK_V5.recordSize, SUPERBLOCK_V5.superblockSize);
  out.writeUInt32LE(options.chunkSize, SUPERBLOCK_V5.chunkSize);
  out.writeBigUInt64LE(flags, SUPERBLOCK_V5.flags);
  out.writeBigUInt64LE(BigInt(tables.inodeCount), SUPERBLOCK_V5.inodeCount);
  out.writeBigUInt64LE(BigInt(tables.inodeTable), SUPERBLOCK_V5.inodeTableOffset);
  out.writeBigUInt64LE(BigInt(tables.prefetchTable), SUPERBLOCK_V5.prefetchTableOffset);
  out.writeBigUInt64LE(BigInt(tables.blobTable), SUPERBLOCK_V5.blobTableOffset);
  out.writeUInt32LE(tables.inodeEntries, SUPERBLOCK_V5.inodeTableEntries);
  out.writeUInt32LE(tables.prefetchEntries, SUPERBLOCK_V5.prefetchTableEntries);
  out.writeUInt32LE(tables.blobTableSize, SUPERBLOCK_V5.blobTableSize);
  out.writeUInt32LE(options.blobs.length, SUPERBLOCK_V5.extendedBlobTableEntries);
  out.writeBigUInt64LE(BigInt(tables.extendedTable), SUPERBLOCK_V5.extendedBlobTableOffset);
}

/** A whole v6 bootstrap from a tree and its blobs. Source: spec/nydus-image.md, section 9.5; spec/rafs.md, section 2 */
import assert from "node:assert/strict";
import {
  blobFeatures,
  compatRafsV6,
  deviceSlotOffset,
  extendedSuperblockOffset,
  incompatRafsV6,
  inodeSlotSize,
  rafsV6Magic,
  superblockOffset,
  superFlags,
} from "../constants.ts";
import { RafsError } from "../errors.ts";
import { CHUNK_RECORD } from "../records/blob.ts";
import { BLOB_RECORD, DEVICE_SLOT, EXTENDED_SUPERBLOCK, SUPERBLOCK } from "../records/v6.ts";
import { writeChunkRecord } from "./chunk-record.ts";
import { type InodeWriter, writeNode } from "./inodes.ts";
import { inodeBytes, placeTree, roundUp } from "./placement.ts";
import { type BlobEntry, forEachDirectory, type StoredChunk, type TreeNode } from "./tree.ts";
import { xattrAreaBytes } from "./xattrs.ts";

const tableUnit = 4096;
/** Blobs of a flattened device start at multiples of this many bytes. */
const mappedBlobUnit = 512 * 1024;
/** nid of the root, as the original writes it: the first block of the inode area stays unused. */
const rootOffset = 4096;
const blobsMax = 254;

export const compressorFlags = [
  superFlags.compressionNone,
  superFlags.compressionLz4,
  superFlags.compressionGzip,
  superFlags.compressionZstd,
];
export const digesterFlags = [superFlags.hashBlake3, superFlags.hashSha256];

export interface BootstrapOptions {
  /** numbered by `numberTree`; its sizes and link counts are taken as they are */
  root: TreeNode;
  /** number of nodes, as `numberTree` counted them */
  nodeCount: number;
  blobs: readonly BlobEntry[];
  chunkSize: number;
  compressor: number;
  digester: number;
  cipher: number;
  explicitUidGid: boolean;
  hasXattr: boolean;
  /** blobs are tars that stay as they are, addressed in blocks of 512 bytes; version 6 only */
  isTarfs?: boolean | undefined;
  /** nodes of the prefetch table, in its order */
  prefetch: readonly TreeNode[];
}

/**
 * Places and writes the tree. Equal input gives equal bytes.
 * @throws RafsError RAFS_BLOB_TABLE: more than 254 blobs, or an id that is empty or longer than 64 bytes
 */
export function writeBootstrap(options: BootstrapOptions): Buffer {
  const { root, blobs, chunkSize } = options;
  const blockSize = options.isTarfs ? 512 : 4096;
  checkBlobs(blobs);
  placeTree(root, { blockSize, chunkSize });

  const blobTableOffset = roundUp(deviceSlotOffset + DEVICE_SLOT.recordSize * blobs.length, tableUnit);
  const blobTableSize = BLOB_RECORD.recordSize * blobs.length;
  const prefetch = blobs.length > 0 ? options.prefetch : [];
  const shift = blobs.length > 0 ? roundUp(blobTableOffset + blobTableSize + 4 * prefetch.length, tableUnit) : 0;
  const inodesEnd = roundUp(shift + assignNids(root, chunkSize, blockSize), tableUnit);
  const blobIndex = new Map(blobs.map((blob, index) => [blob, index]));
  const table = chunkTable(root, blobIndex);
  const size = roundUp(inodesEnd + table.rows.length * CHUNK_RECORD.recordSize, tableUnit);

  const out = Buffer.alloc(size);
  const writer: InodeWriter = { out, blockSize, chunkSize, shift, blobIndex };
  writeNode(writer, root, root);
  forEachDirectory(root, (directory) => {
    for (const child of directory.sorted) writeNode(writer, child, directory);
  });
  for (const [i, node] of prefetch.entries()) out.writeUInt32LE(node.nid, blobTableOffset + blobTableSize + 4 * i);
  for (const [i, row] of table.rows.entries()) {
    const chunk = table.chunks[row];
    writeChunkRecord(out, inodesEnd + i * CHUNK_RECORD.recordSize, chunk, blobIndex.get(chunk.blob)!, table.fileOffsets[row]);
  }

  const blocks = writeDeviceSlots(out, blobs, size, blockSize);
  for (const [i, blob] of blobs.entries()) writeBlobRecord(out, blobTableOffset + i * BLOB_RECORD.recordSize, blob, i, chunkSize);
  writeSuperblock(out, { inodeCount: options.nodeCount, blocks, metaBlock: shift / blockSize, deviceCount: blobs.length, blockSize });
  writeExtendedSuperblock(out, {
    flags: flagsOf(options),
    blobTableOffset,
    blobTableSize,
    chunkSize,
    chunkTableOffset: inodesEnd,
    chunkTableSize: table.rows.length * CHUNK_RECORD.recordSize,
    prefetchTableOffset: prefetch.length > 0 ? blobTableOffset + blobTableSize : 0,
    prefetchTableSize: 4 * prefetch.length,
  });
  return out;
}

function checkBlobs(blobs: readonly BlobEntry[]): void {
  if (blobs.length > blobsMax)
    throw new RafsError("RAFS_BLOB_TABLE", `${blobs.length} blobs in one image, RAFS v6 holds at most ${blobsMax}`);
  for (const { id } of blobs) {
    const bytes = Buffer.byteLength(id);
    if (bytes === 0) throw new RafsError("RAFS_BLOB_TABLE", "a blob has an empty id");
    if (bytes > 64) throw new RafsError("RAFS_BLOB_TABLE", `blob id ${id} is longer than 64 bytes`);
  }
}

/** Sets every nid; returns where the last inode or its data ends. */
function assignNids(root: TreeNode, chunkSize: number, blockSize: number): number {
  let end = 0;
  const assign = (node: TreeNode) => {
    node.nid = node.offset / inodeSlotSize;
    const inodeEnd = node.offset + inodeBytes + xattrAreaBytes(node.xattrs);
    if (node.isRegular) end = Math.max(end, roundUp(inodeEnd, 8) + 8 * Math.ceil(node.size / chunkSize));
    else if (!node.isDirectory && !node.isSymlink) end = Math.max(end, inodeEnd);
    else if (!node.inline) end = Math.max(end, node.dataOffset + node.size);
    else end = Math.max(end, inodeEnd + (node.size % blockSize), node.dataOffset + node.size - (node.size % blockSize));
  };
  assert.equal(root.offset, rootOffset, "the root is placed first");
  assign(root);
  forEachDirectory(root, (directory) => directory.sorted.forEach(assign));
  return end;
}

/** References to chunks in walk order, and which of them are rows of the table, in its order. Arrays of numbers: there can be millions. */
interface ChunkTable {
  chunks: readonly StoredChunk[];
  fileOffsets: readonly number[];
  rows: Uint32Array;
}

/**
 * One row for each (digest, blob), in that order; of several references the last one in walk order is kept. Chunks of external blobs have
 * no digest: there the index tells them apart.
 */
function chunkTable(root: TreeNode, blobIndex: ReadonlyMap<BlobEntry, number>): ChunkTable {
  const chunks: StoredChunk[] = [];
  const fileOffsets: number[] = [];
  forEachDirectory(root, (directory) => {
    for (const node of directory.sorted) {
      let fileOffset = 0;
      for (const chunk of node.chunks) {
        chunks.push(chunk);
        fileOffsets.push(fileOffset);
        fileOffset += chunk.uncompressedSize;
      }
    }
  });
  const heads = Float64Array.from(chunks, ({ digest }) => digestHead(digest));
  const byKey = (a: number, b: number): number =>
    heads[a] - heads[b] ||
    Buffer.compare(chunks[a].digest, chunks[b].digest) ||
    blobIndex.get(chunks[a].blob)! - blobIndex.get(chunks[b].blob)! ||
    ((chunks[a].blob.features & blobFeatures.external) === 0 ? 0 : chunks[a].index - chunks[b].index);
  const order = Uint32Array.from(chunks, (_, i) => i).sort((a, b) => byKey(a, b) || a - b);
  return { chunks, fileOffsets, rows: order.filter((row, i) => i + 1 === order.length || byKey(row, order[i + 1]) !== 0) };
}

/** The first six bytes as a number: they decide nearly every comparison. */
function digestHead(digest: Uint8Array): number {
  return (digest[0] * 2 ** 16 + digest[1] * 2 ** 8 + digest[2]) * 2 ** 24 + digest[3] * 2 ** 16 + digest[4] * 2 ** 8 + digest[5];
}

function writeDeviceSlots(out: Buffer, blobs: readonly BlobEntry[], bootstrapSize: number, blockSize: number): number {
  let position = bootstrapSize;
  let total = 0;
  for (const [i, blob] of blobs.entries()) {
    const at = deviceSlotOffset + i * DEVICE_SLOT.recordSize;
    const blocks = Math.floor(blob.uncompressedSize / blockSize);
    const mapped = roundUp(position, mappedBlobUnit) / blockSize;
    out.write(blob.id, at + DEVICE_SLOT.blobId);
    out.writeUInt32LE(blocks, at + DEVICE_SLOT.blocks);
    out.writeUInt32LE(mapped, at + DEVICE_SLOT.mappedBlock);
    position = (mapped + blocks) * blockSize;
    total += blocks;
  }
  return total;
}

function writeBlobRecord(out: Buffer, at: number, blob: BlobEntry, index: number, chunkSize: number): void {
  out.write(blob.id, at + BLOB_RECORD.blobId);
  out.writeUInt32LE(index, at + BLOB_RECORD.blobIndex);
  out.writeUInt32LE(chunkSize, at + BLOB_RECORD.chunkSize);
  out.writeUInt32LE(blob.chunkCount, at + BLOB_RECORD.chunkCount);
  out.writeUInt32LE(blob.compressor, at + BLOB_RECORD.compressor);
  out.writeUInt32LE(blob.digester, at + BLOB_RECORD.digester);
  out.writeUInt32LE(blob.features, at + BLOB_RECORD.features);
  out.writeBigUInt64LE(BigInt(blob.compressedSize), at + BLOB_RECORD.compressedSize);
  out.writeBigUInt64LE(BigInt(blob.uncompressedSize), at + BLOB_RECORD.uncompressedSize);
  out.writeUInt32LE(blob.tocSize, at + BLOB_RECORD.tocSize);
  out.writeUInt32LE(blob.ciCompressor, at + BLOB_RECORD.ciCompressor);
  out.writeBigUInt64LE(BigInt(blob.ciOffset), at + BLOB_RECORD.ciOffset);
  out.writeBigUInt64LE(BigInt(blob.ciCompressedSize), at + BLOB_RECORD.ciCompressedSize);
  out.writeBigUInt64LE(BigInt(blob.ciUncompressedSize), at + BLOB_RECORD.ciUncompressedSize);
  out.set(blob.tocDigest, at + BLOB_RECORD.tocDigest);
  out.set(blob.metaDigest, at + BLOB_RECORD.metaDigest);
  if (blob.cipher === 0) out.writeBigUInt64LE(BigInt(blob.metaSize), at + BLOB_RECORD.metaSize);
  else out.set(blob.cipherIv.subarray(0, 16), at + BLOB_RECORD.metaSize);
  out.writeUInt32LE(blob.cipher, at + BLOB_RECORD.cipher);
}

function writeSuperblock(
  out: Buffer,
  values: { inodeCount: number; blocks: number; metaBlock: number; deviceCount: number; blockSize: number },
): void {
  const at = superblockOffset;
  out.writeUInt32LE(rafsV6Magic, at + SUPERBLOCK.magic);
  out.writeUInt32LE(compatRafsV6, at + SUPERBLOCK.featureCompat);
  out[at + SUPERBLOCK.blockBits] = Math.log2(values.blockSize);
  out.writeUInt16LE(rootOffset / inodeSlotSize, at + SUPERBLOCK.rootNid);
  out.writeBigUInt64LE(BigInt(values.inodeCount), at + SUPERBLOCK.inodeCount);
  out.writeUInt32LE(values.blocks, at + SUPERBLOCK.blocks);
  out.writeUInt32LE(values.metaBlock, at + SUPERBLOCK.metaBlock);
  out.writeUInt32LE(incompatRafsV6, at + SUPERBLOCK.featureIncompat);
  out.writeUInt16LE(values.deviceCount, at + SUPERBLOCK.deviceCount);
  out.writeUInt16LE(deviceSlotOffset / DEVICE_SLOT.recordSize, at + SUPERBLOCK.deviceSlot);
}

function flagsOf(options: BootstrapOptions): bigint {
  let flags = compressorFlags[options.compressor] | digesterFlags[options.digester];
  if (options.explicitUidGid) flags |= superFlags.explicitUidGid;
  if (options.hasXattr) flags |= superFlags.hasXattr;
  if (options.isTarfs) flags |= superFlags.tarfsMode;
  if (options.blobs.every(({ features }) => (features & blobFeatures.inlinedChunkDigest) !== 0)) flags |= superFlags.inlinedChunkDigest;
  return flags | (options.cipher === 0 ? superFlags.encryptionNone : superFlags.encryptionAes128Xts);
}

function writeExtendedSuperblock(
  out: Buffer,
  values: {
    flags: bigint;
    blobTableOffset: number;
    blobTableSize: number;
    chunkSize: number;
    chunkTableOffset: number;
    chunkTableSize: number;
    prefetchTableOffset: number;
    prefetchTableSize: number;
  },
): void {
  const at = extendedSuperblockOffset;
  out.writeBigUInt64LE(values.flags, at + EXTENDED_SUPERBLOCK.flags);
  out.writeBigUInt64LE(BigInt(values.blobTableOffset), at + EXTENDED_SUPERBLOCK.blobTableOffset);
  out.writeUInt32LE(values.blobTableSize, at + EXTENDED_SUPERBLOCK.blobTableSize);
  out.writeUInt32LE(values.chunkSize, at + EXTENDED_SUPERBLOCK.chunkSize);
  out.writeBigUInt64LE(BigInt(values.chunkTableOffset), at + EXTENDED_SUPERBLOCK.chunkTableOffset);
  out.writeBigUInt64LE(BigInt(values.chunkTableSize), at + EXTENDED_SUPERBLOCK.chunkTableSize);
  out.writeBigUInt64LE(BigInt(values.prefetchTableOffset), at + EXTENDED_SUPERBLOCK.prefetchTableOffset);
  out.writeUInt32LE(values.prefetchTableSize, at + EXTENDED_SUPERBLOCK.prefetchTableSize);
}

/** Writes placed nodes of a v6 tree: inodes, directory blocks, chunk indexes, link targets. Source: spec/rafs.md, sections 2.6 to 2.9 */
import assert from "node:assert/strict";
import { chunkFormatIndexes, direntTypes, type FileType, inodeLayouts, modeTypeMask, modeTypes } from "../constants.ts";
import { CHUNK_INDEX, DIRENT, INODE_EXTENDED } from "../records/v6.ts";
import { inodeBytes, roundUp } from "./placement.ts";
import type { BlobEntry, TreeNode } from "./tree.ts";
import { writeXattrs, xattrAreaBytes } from "./xattrs.ts";

const typeNumbers = new Map<number, number>(
  (Object.keys(modeTypes) as FileType[]).map((type) => [modeTypes[type], direntTypes.indexOf(type)]),
);

export interface InodeWriter {
  /** the whole bootstrap, zeroed */
  readonly out: Buffer;
  readonly blockSize: number;
  readonly chunkSize: number;
  /** added to every offset that `placeTree` gave */
  readonly shift: number;
  readonly blobIndex: ReadonlyMap<BlobEntry, number>;
}

/** Writes a node and what belongs to it. `parent` is the root itself for the root. */
export function writeNode(writer: InodeWriter, node: TreeNode, parent: TreeNode): void {
  const start = node.offset + writer.shift;
  const xattrBytes = xattrAreaBytes(node.xattrs);
  if (node.xattrs && xattrBytes > 0) writeXattrs(writer.out, start + inodeBytes, node.xattrs);
  const end = start + inodeBytes + xattrBytes;
  if (node.isDirectory) {
    writeInode(writer, node, xattrBytes, node.inline ? inodeLayouts.inline : inodeLayouts.plain, dataBlock(writer, node));
    writeDirectoryData(writer, node, parent, end);
  } else if (node.isSymlink) {
    writeInode(writer, node, xattrBytes, node.inline ? inodeLayouts.inline : inodeLayouts.plain, dataBlock(writer, node));
    assert(node.target?.length === node.size, "a link's size is the length of its target");
    writer.out.set(node.target, node.inline ? end : node.dataOffset + writer.shift);
  } else if (node.isRegular) {
    writeInode(writer, node, xattrBytes, inodeLayouts.chunkBased, chunkFormat(writer, node));
    writeChunkIndex(writer, node, roundUp(end, 8));
  } else {
    writeInode(writer, node, xattrBytes, inodeLayouts.plain, node.rdev);
  }
}

function dataBlock(writer: InodeWriter, node: TreeNode): number {
  return Math.floor((node.dataOffset + writer.shift) / writer.blockSize);
}

function writeInode(writer: InodeWriter, node: TreeNode, xattrBytes: number, layout: number, u: number): void {
  const { out } = writer;
  const at = node.offset + writer.shift;
  out.writeUInt16LE(layout * 2 + 1, at + INODE_EXTENDED.format);
  out.writeUInt16LE(xattrBytes === 0 ? 0 : (xattrBytes - 12) / 4 + 1, at + INODE_EXTENDED.xattrCount);
  out.writeUInt16LE(node.mode, at + INODE_EXTENDED.mode);
  out.writeBigUInt64LE(BigInt(node.size), at + INODE_EXTENDED.size);
  out.writeUInt32LE(u >>> 0, at + INODE_EXTENDED.u);
  out.writeUInt32LE(node.ino, at + INODE_EXTENDED.ino);
  out.writeUInt32LE(node.uid, at + INODE_EXTENDED.uid);
  out.writeUInt32LE(node.gid, at + INODE_EXTENDED.gid);
  out.writeBigInt64LE(BigInt(node.mtime), at + INODE_EXTENDED.mtime);
  out.writeUInt32LE(node.mtimeNsec, at + INODE_EXTENDED.mtimeNsec);
  out.writeUInt32LE(node.nlink, at + INODE_EXTENDED.nlink);
}

/** Full blocks go to the directory's data blocks, an inline rest right behind the inode. */
function writeDirectoryData(writer: InodeWriter, directory: TreeNode, parent: TreeNode, inlineStart: number): void {
  const entries = directory.sorted.map((child) => ({ name: child.name, nid: child.nid, mode: child.mode }));
  insertByName(entries, { name: ".", nid: directory.nid, mode: directory.mode });
  insertByName(entries, { name: "..", nid: parent.nid, mode: parent.mode });
  const tail = directory.size % writer.blockSize;
  let block = 0;
  for (let first = 0; first < entries.length; block++) {
    let last = first;
    let bytes = 0;
    while (last < entries.length && bytes + DIRENT.recordSize + entries[last].name.length <= writer.blockSize) {
      bytes += DIRENT.recordSize + entries[last++].name.length;
    }
    const isInlineTail = directory.inline && (block + 1) * writer.blockSize > directory.size;
    assert(!isInlineTail || bytes === tail, `directory ${directory.name}: tail of ${bytes} bytes, ${tail} were placed`);
    writeEntries(
      writer.out,
      isInlineTail ? inlineStart : directory.dataOffset + writer.shift + block * writer.blockSize,
      entries,
      first,
      last,
    );
    first = last;
  }
  assert.equal(block, Math.ceil(directory.size / writer.blockSize), `directory ${directory.name}: number of blocks`);
}

interface Entry {
  name: string;
  nid: number;
  mode: number;
}

function insertByName(entries: Entry[], entry: Entry): void {
  const at = entries.findIndex(({ name }) => entry.name < name);
  entries.splice(at < 0 ? entries.length : at, 0, entry);
}

function writeEntries(out: Buffer, start: number, entries: readonly Entry[], first: number, last: number): void {
  let at = start;
  let nameAt = (last - first) * DIRENT.recordSize;
  for (let i = first; i < last; i++) {
    const { name, nid, mode } = entries[i];
    out.writeBigUInt64LE(BigInt(nid), at + DIRENT.nid);
    out.writeUInt16LE(nameAt, at + DIRENT.nameOffset);
    out[at + DIRENT.type] = typeNumbers.get(mode & modeTypeMask) ?? 0;
    out.write(name, start + nameAt, "latin1");
    nameAt += name.length;
    at += DIRENT.recordSize;
  }
}

/** The kernel finds chunks by this word alone, so a file that lies in one piece gets a chunk as large as itself. Source: spec/nydus-image.md, 9.5 step 4 */
function chunkFormat(writer: InodeWriter, node: TreeNode): number {
  let contiguous = true;
  for (let i = 1; i < node.chunks.length && contiguous; i++) {
    const previous = node.chunks[i - 1];
    const chunk = node.chunks[i];
    contiguous = chunk.blob === previous.blob && chunk.uncompressedOffset === previous.uncompressedOffset + writer.chunkSize;
  }
  const bits = contiguous && node.size > writer.chunkSize ? Math.ceil(Math.log2(node.size)) : Math.log2(writer.chunkSize);
  return (bits - Math.log2(writer.blockSize)) | chunkFormatIndexes;
}

function writeChunkIndex(writer: InodeWriter, node: TreeNode, start: number): void {
  const { out } = writer;
  let at = start;
  for (const chunk of node.chunks) {
    const blobIndex = writer.blobIndex.get(chunk.blob);
    assert(blobIndex !== undefined, "a chunk's blob is in the blob table");
    out.writeUInt16LE(chunk.index & 0xffff, at + CHUNK_INDEX.chunkIndexLow);
    out[at + CHUNK_INDEX.blobIndexPlus1] = blobIndex + 1;
    out[at + CHUNK_INDEX.chunkIndexHigh] = chunk.index >>> 16;
    out.writeUInt32LE(chunk.uncompressedOffset / writer.blockSize, at + CHUNK_INDEX.block);
    at += CHUNK_INDEX.recordSize;
  }
}

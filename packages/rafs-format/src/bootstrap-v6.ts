import { type BlobRecord, hasFeature } from "./blob-record.ts";
import type { Bootstrap, ChunkRecord, DirectoryEntry, FileChunk, Inode, WalkEntry } from "./bootstrap.ts";
import { type ByteView, bytesOf, byteViewOf, readNumbers } from "./bytes.ts";
import { ChunkRecordIndex, readChunkRecord } from "./chunk-table.ts";
import { direntTypes, type FileType } from "./constants.ts";
import { RafsV6Cursor } from "./cursor-v6.ts";
import { RafsError } from "./errors.ts";
import { FileChunks } from "./file-chunks.ts";
import { fileTypeOf } from "./file-type.ts";
import type { PagedView } from "./paged-view.ts";
import { CHUNK_RECORD } from "./records/blob.ts";
import { resolvePath, type WalkedTree, walkTree } from "./walk.ts";

const dot = new Uint8Array([0x2e]);
const dotDot = new Uint8Array([0x2e, 0x2e]);

/**
 * A v6 bootstrap as objects, for tools; the daemon's readers use `RafsV6Cursor` itself. Both read through the same cursor code, so
 * they refuse the same bytes. Not for concurrent use from inside its own generators' consumers in other threads: one object, one thread.
 */
export class BootstrapV6 extends FileChunks implements Bootstrap, WalkedTree {
  readonly version = 6;
  readonly flags: bigint;
  readonly rootNid: number;
  readonly inodeCount: number;
  readonly byteLength: number;
  readonly blobs: readonly BlobRecord[];
  readonly #cursor: RafsV6Cursor;
  readonly #view: ByteView;
  #prefetchNids: readonly number[] | undefined;
  #records: ChunkRecordIndex | undefined;

  constructor(source: Uint8Array | PagedView) {
    const cursor = new RafsV6Cursor(source);
    super(cursor);
    this.#cursor = cursor;
    this.#view = byteViewOf(source);
    this.byteLength = this.#view.byteLength;
    this.flags = cursor.superblock.flags;
    this.rootNid = cursor.rootNid;
    this.inodeCount = cursor.superblock.inodeCount;
    this.blobs = cursor.blobs;
  }

  get prefetchNids(): readonly number[] {
    this.#prefetchNids ??= readNumbers(this.#view, this.#cursor.superblock.prefetchTable);
    return this.#prefetchNids;
  }

  inode(nid: number): Inode {
    const cursor = this.#cursor;
    cursor.load(nid);
    return {
      nid,
      type: fileTypeOf(cursor.mode),
      mode: cursor.mode,
      uid: cursor.uid,
      gid: cursor.gid,
      size: cursor.size,
      nlink: cursor.nlink,
      ino: cursor.ino,
      mtime: (BigInt(cursor.mtimeHi | 0) << 32n) | BigInt(cursor.mtimeLo),
      mtimeNsec: cursor.mtimeNsec,
      rdev: cursor.rdev,
    };
  }

  lookup(dirNid: number, name: Uint8Array): number | undefined {
    const nid = this.#cursor.find(dirNid, name, 0, name.length);
    return nid === 0 ? undefined : nid;
  }

  *readDir(nid: number): Generator<DirectoryEntry, void> {
    const blocks = this.directoryBlocks(nid);
    // The cursor is shared with whoever runs between two `next` calls, so a block is taken out whole.
    for (let block = 0; block < blocks; block++) yield* this.entriesOf(nid, block);
  }

  directoryBlocks(nid: number): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    if (fileTypeOf(cursor.mode) !== "dir") throw new RafsError("RAFS_DIRECTORY", `inode ${nid} is no directory`);
    return cursor.blockCount;
  }

  entriesOf(nid: number, block: number): DirectoryEntry[] {
    const cursor = this.#cursor;
    const entries: DirectoryEntry[] = [];
    cursor.load(nid);
    cursor.openBlock(block);
    for (let at = 0; at < cursor.entryCount; at++) {
      cursor.entry(at);
      const name = bytesOf(this.#view, cursor.entryNameStart, cursor.entryNameEnd);
      const type = direntTypes[cursor.entryType];
      if (type === undefined || type === "unknown")
        throw new RafsError("RAFS_DIRECTORY", `entry ${at} has unknown type ${cursor.entryType}`);
      if (!isDot(name)) entries.push({ name, nid: cursor.entryNid, type: type as FileType });
    }
    return entries;
  }

  checkParent(nid: number, parent: number): void {
    if (this.lookup(nid, dot) !== nid) throw new RafsError("RAFS_DIRECTORY", `directory ${nid}: "." does not name it`);
    if (this.lookup(nid, dotDot) !== parent)
      throw new RafsError("RAFS_DIRECTORY", `directory ${nid}: ".." does not name its parent ${parent}`);
  }

  readLink(nid: number): Uint8Array {
    const cursor = this.#cursor;
    cursor.load(nid);
    if (fileTypeOf(cursor.mode) !== "symlink") throw new RafsError("RAFS_SYMLINK", `inode ${nid} is no symlink`);
    const target = new Uint8Array(cursor.size);
    for (let block = 0; block < cursor.blockCount; block++) {
      const at = cursor.blockOffset(block);
      target.set(bytesOf(this.#view, at, at + cursor.blockBytes(block)), block * this.blockSize);
    }
    if (target.includes(0)) throw new RafsError("RAFS_SYMLINK", `inode ${nid}: NUL in the target`);
    return target;
  }

  xattrs(nid: number): Map<string, Uint8Array> {
    const cursor = this.#cursor;
    const found = new Map<string, Uint8Array>();
    cursor.load(nid);
    while (cursor.nextXattr()) {
      const suffix = bytesOf(this.#view, cursor.xattrSuffixStart, cursor.xattrSuffixEnd);
      const name = Buffer.concat([cursor.xattrPrefixBytes, suffix]).toString("latin1");
      if (found.has(name) || name.includes("\0"))
        throw new RafsError("RAFS_XATTR", `inode ${nid}: xattr name ${JSON.stringify(name)} twice or with NUL`);
      found.set(name, bytesOf(this.#view, cursor.xattrValueStart, cursor.xattrValueEnd));
    }
    return found;
  }

  walk(): Generator<WalkEntry, void> {
    return walkTree(this);
  }

  resolve(path: string | Uint8Array): number | undefined {
    return resolvePath(this, path);
  }

  chunkRecord(chunk: FileChunk): ChunkRecord | undefined {
    const blob = this.blobs[chunk.blobIndex];
    return blob !== undefined && hasFeature(blob, "tarfs")
      ? tarfsRecord(chunk)
      : this.#index().find(chunk.blobIndex, chunk.chunkIndex, chunk.uncompressedOffset);
  }

  *chunkRecords(): Generator<ChunkRecord, void> {
    const { offset, size } = this.#cursor.superblock.chunkTable;
    for (let at = offset; at < offset + size; at += CHUNK_RECORD.recordSize) yield readChunkRecord(this.#bytes, at);
  }

  chunkDigests(blobIndex: number): (chunkIndex: number) => Uint8Array | undefined {
    const index = this.#index();
    return (chunkIndex) => index.digest(blobIndex, chunkIndex);
  }

  recordedChunks(blobIndex: number): (chunkIndex: number) => ChunkRecord | undefined {
    const index = this.#index();
    return (chunkIndex) => index.find(blobIndex, chunkIndex);
  }

  #index(): ChunkRecordIndex {
    const { offset, size } = this.#cursor.superblock.chunkTable;
    this.#records ??= new ChunkRecordIndex(
      this.#bytes,
      size / CHUNK_RECORD.recordSize,
      (record) => offset + record * CHUNK_RECORD.recordSize,
      this.blobs.map((blob) => blob.chunkCount),
    );
    return this.#records;
  }

  /** The whole bootstrap, for what is found by an index over it: in memory only. */
  get #bytes(): Uint8Array {
    return bytesOf(this.#view, 0, this.byteLength);
  }
}

/** In tarfs mode the table has one record a blob, and chunks are plain pieces of the tar. Source: spec/rafs.md 2.11 */
const tarfsRecord = ({ fileOffset, length, blobIndex, chunkIndex, uncompressedOffset }: FileChunk): ChunkRecord => ({
  digest: new Uint8Array(32),
  blobIndex,
  chunkIndex,
  flags: 0,
  compressedSize: length,
  uncompressedSize: length,
  compressedOffset: uncompressedOffset,
  uncompressedOffset,
  fileOffset,
  crc32c: 0,
});

const isDot = (name: Uint8Array): boolean => name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));

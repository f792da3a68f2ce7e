import type { BlobRecord } from "./blob-record.ts";
import type { Bootstrap, ChunkRecord, DirectoryEntry, FileChunk, Inode, WalkEntry } from "./bootstrap.ts";
import { type ByteView, bytesOf, byteViewOf, readNumbers } from "./bytes.ts";
import { ChunkRecordIndex, readChunkRecord } from "./chunk-table.ts";
import { RafsV5Cursor } from "./cursor-v5.ts";
import { digestOf } from "./digest.ts";
import { RafsError } from "./errors.ts";
import { FileChunks } from "./file-chunks.ts";
import { fileTypeOf } from "./file-type.ts";
import { chunksPerBlobMax } from "./limits.ts";
import type { PagedView } from "./paged-view.ts";
import { CHUNK_RECORD } from "./records/blob.ts";
import { INODE_V5 } from "./records/v5.ts";
import { withoutExtendedTable } from "./superblock-v5.ts";
import { resolvePath, type WalkedTree, walkTree } from "./walk.ts";

/** Children that one read of a directory takes, so that it needs no more than some hundred pages. */
const childrenPerRead = 32;

/** A v5 bootstrap as objects, for tools; the daemon's readers use `RafsV5Cursor` itself. One object, one thread. */
export class BootstrapV5 extends FileChunks implements Bootstrap, WalkedTree {
  readonly version = 5;
  readonly flags: bigint;
  readonly rootNid: number;
  readonly inodeCount: number;
  readonly byteLength: number;
  readonly blobs: readonly BlobRecord[];
  readonly #cursor: RafsV5Cursor;
  readonly #view: ByteView;
  #prefetchNids: readonly number[] | undefined;
  #recordOffsets: Uint32Array | undefined;
  #records: ChunkRecordIndex | undefined;

  constructor(source: Uint8Array | PagedView) {
    const cursor = new RafsV5Cursor(source);
    super(cursor);
    this.#cursor = cursor;
    this.#view = byteViewOf(source);
    this.byteLength = this.#view.byteLength;
    this.flags = cursor.superblock.flags;
    this.rootNid = cursor.rootNid;
    this.inodeCount = cursor.superblock.inodeCount;
    this.blobs = cursor.blobs;
  }

  /** Inode numbers up to the first 0. */
  get prefetchNids(): readonly number[] {
    if (this.#prefetchNids === undefined) {
      const nids = readNumbers(this.#view, this.#cursor.superblock.prefetchTable);
      const end = nids.indexOf(0);
      this.#prefetchNids = end < 0 ? nids : nids.slice(0, end);
    }
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

  /** Fields that `inode` leaves out because they mean nothing to readers: flags, and the device number also of what is no device. */
  recordedFields(nid: number): { flags: number; rdev: number } {
    const cursor = this.#cursor;
    cursor.load(nid);
    const view = this.#view;
    return {
      flags: view.getUint32(cursor.inodeOffset + INODE_V5.flags, true),
      rdev: view.getUint32(cursor.inodeOffset + INODE_V5.rdev, true),
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

  /** In `entriesOf` a block is a piece of the cursor's: the inodes of 256 children may lie in as many pages. */
  directoryBlocks(nid: number): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    if (fileTypeOf(cursor.mode) !== "dir") throw new RafsError("RAFS_DIRECTORY", `inode ${nid} is no directory`);
    return Math.max(1, Math.ceil(cursor.childCount / childrenPerRead));
  }

  entriesOf(nid: number, block: number): DirectoryEntry[] {
    const cursor = this.#cursor;
    const entries: DirectoryEntry[] = [];
    cursor.load(nid);
    const end = Math.min(cursor.childCount, (block + 1) * childrenPerRead);
    for (let child = block * childrenPerRead; child < end; child++) {
      cursor.child(child);
      const name = bytesOf(this.#view, cursor.entryNameStart, cursor.entryNameEnd);
      entries.push({ name, nid: cursor.entryNid, type: fileTypeOf(cursor.entryMode) });
    }
    return entries;
  }

  checkParent(nid: number, parent: number): void {
    const cursor = this.#cursor;
    cursor.load(nid);
    if (nid !== this.rootNid && cursor.parent !== parent)
      throw new RafsError("RAFS_DIRECTORY", `directory ${nid} names another parent than ${parent}: ${cursor.parent}`);
  }

  readLink(nid: number): Uint8Array {
    const cursor = this.#cursor;
    cursor.load(nid);
    if (fileTypeOf(cursor.mode) !== "symlink") throw new RafsError("RAFS_SYMLINK", `inode ${nid} is no symlink`);
    const at = cursor.blockOffset(0);
    const target = bytesOf(this.#view, at, at + cursor.size).slice();
    if (target.includes(0)) throw new RafsError("RAFS_SYMLINK", `inode ${nid}: NUL in the target`);
    return target;
  }

  xattrs(nid: number): Map<string, Uint8Array> {
    const cursor = this.#cursor;
    const found = new Map<string, Uint8Array>();
    cursor.load(nid);
    while (cursor.nextXattr()) {
      const name = Buffer.from(bytesOf(this.#view, cursor.xattrSuffixStart, cursor.xattrSuffixEnd)).toString("latin1");
      if (found.has(name)) throw new RafsError("RAFS_XATTR", `inode ${nid}: xattr name ${JSON.stringify(name)} twice`);
      found.set(name, bytesOf(this.#view, cursor.xattrValueStart, cursor.xattrValueEnd));
    }
    return found;
  }

  /** The inode's own record of chunk `index`. */
  recordOf(nid: number, index: number): ChunkRecord {
    const cursor = this.#cursor;
    cursor.load(nid);
    cursor.chunk(index);
    const record = CHUNK_RECORD.recordSize;
    return readChunkRecord(bytesOf(this.#view, cursor.chunkRecord, cursor.chunkRecord + record), 0);
  }

  walk(): Generator<WalkEntry, void> {
    return walkTree(this);
  }

  resolve(path: string | Uint8Array): number | undefined {
    return resolvePath(this, path);
  }

  chunkRecord(chunk: FileChunk): ChunkRecord | undefined {
    return this.#index().find(chunk.blobIndex, chunk.chunkIndex, chunk.uncompressedOffset);
  }

  *chunkRecords(): Generator<ChunkRecord, void> {
    for (const at of this.#offsets()) yield readChunkRecord(this.#bytes, at);
  }

  chunkDigests(blobIndex: number): (chunkIndex: number) => Uint8Array | undefined {
    const index = this.#index();
    return (chunkIndex) => index.digest(blobIndex, chunkIndex);
  }

  /**
   * Recomputes the digest of an inode from what it holds: chunk digests, link target, or the recorded digests of the children.
   *
   * @throws RafsError RAFS_DIGEST when another one is recorded
   * Source: spec/rafs.md 3.8
   */
  verifyDigest(nid: number): void {
    const cursor = this.#cursor;
    cursor.load(nid);
    const recorded = this.#digestAt(cursor.inodeOffset);
    const parts: Uint8Array[] = [];
    for (let index = 0; index < cursor.chunkCount; index++) {
      cursor.chunk(index);
      parts.push(this.#digestAt(cursor.chunkRecord));
    }
    if (fileTypeOf(cursor.mode) === "symlink") parts.push(this.readLink(nid));
    // `entry` demands that each child names this directory, so children claimed by many directories are not hashed many times.
    for (let block = 0; fileTypeOf(cursor.mode) === "dir" && block < cursor.blockCount; block++) {
      cursor.openBlock(block);
      for (let at = block === 0 ? 2 : 0; at < cursor.entryCount; at++) {
        cursor.entry(at);
        parts.push(this.#digestAt(cursor.entryNameStart - INODE_V5.recordSize));
      }
    }
    if (Buffer.compare(digestOf(cursor.superblock.digester, parts), recorded) !== 0) {
      throw new RafsError("RAFS_DIGEST", `inode ${nid}: its content has another digest than the one recorded`);
    }
  }

  #digestAt(offset: number): Uint8Array {
    return bytesOf(this.#view, offset, offset + 32);
  }

  /** Offsets of all chunk records. A table that names one inode often can't make them more than fit into the file. */
  #offsets(): Uint32Array {
    if (this.#recordOffsets !== undefined) return this.#recordOffsets;
    const cursor = this.#cursor;
    const countMax = Math.floor(this.#bytes.length / CHUNK_RECORD.recordSize);
    const offsets: number[] = [];
    for (let index = 1; index <= cursor.superblock.inodeEntries; index++) {
      // Later names of a hardlinked inode have copies of its records.
      if (!cursor.loadFirstName(index)) continue;
      for (let chunk = 0; chunk < cursor.chunkCount; chunk++) {
        cursor.chunk(chunk);
        offsets.push(cursor.chunkRecord);
      }
      if (offsets.length > countMax) throw new RafsError("RAFS_CHUNK", `more than ${countMax} chunk records: inodes overlap`);
    }
    this.#recordOffsets = Uint32Array.from(offsets);
    return this.#recordOffsets;
  }

  recordedChunks(blobIndex: number): (chunkIndex: number) => ChunkRecord | undefined {
    const index = this.#index();
    return (chunkIndex) => index.find(blobIndex, chunkIndex);
  }

  #index(): ChunkRecordIndex {
    const offsets = this.#offsets();
    const counts = this.blobs.map(({ features, chunkCount }) => (features === withoutExtendedTable ? chunksPerBlobMax : chunkCount));
    this.#records ??= new ChunkRecordIndex(this.#bytes, offsets.length, (record) => offsets[record] as number, counts);
    return this.#records;
  }

  /** The whole bootstrap, for what is found by an index over it: in memory only. */
  get #bytes(): Uint8Array {
    return bytesOf(this.#view, 0, this.byteLength);
  }
}

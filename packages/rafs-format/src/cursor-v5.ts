import type { BlobRecord } from "./blob-record.ts";
import { type ByteView, byteViewOf } from "./bytes.ts";
import { RafsError, type RafsErrorCode } from "./errors.ts";
import { chunksPerBlobMax, nameBytesMax, symlinkBytesMax } from "./limits.ts";
import type { PagedView } from "./paged-view.ts";
import { CHUNK_RECORD } from "./records/blob.ts";
import { INODE_V5 } from "./records/v5.ts";
import { readBlobTableV5, readSuperblockV5, type SuperblockV5, withoutExtendedTable } from "./superblock-v5.ts";

/** Directory entries a block of `openBlock`: v5 has no blocks, so children are counted off. */
const entriesPerBlock = 256;
const noPrefix = new Uint8Array(0);
const dots = new Uint8Array([0x2e, 0x2e]);
const slash = 0x2f;
const flagXattr = 0x4;
const pageSize = 4096;
const pairSize = 4;

/**
 * Reads a v5 bootstrap in place with the methods and fields of `RafsV6Cursor`, so that an engine serves both with the same code.
 * No call allocates. What differs inside:
 *
 * - A nid is an inode number, the index of the inode table where the inode was first named; every name of a hardlinked inode gives
 *   the same nid. `st_ino` is the nid.
 * - A directory has no data. `openBlock(k)` opens children 256·k − 2 …, and the dot entries v5 does not store come first; their
 *   names lie in a buffer of our own, so a reader takes names from `entryBytes`, never from `bytes`.
 * - A symlink is one block. Xattr names have no prefix: `xattrPrefixBytes` is empty and the suffix is the whole name.
 * - `chunk` also sets where the chunk is stored (`chunkRecord` is its offset for `readChunkRecord`). v5 blobs need no alignment:
 *   `chunkBlock × blockSize` is the exact byte offset in the uncompressed blob, and `chunkBlock` may be a fraction.
 *
 * Invariants: after `load` returns, name, symlink target, xattr area and chunk records of the inode lie inside the file. A call that
 * throws leaves the fields undefined. One state machine over shared fields, hence one file.
 *
 * Source: spec/rafs.md 3.2, 3.6, 3.7, 10
 */
export class RafsV5Cursor {
  readonly version = 5;
  readonly superblock: SuperblockV5;
  readonly blobs: readonly BlobRecord[];
  readonly rootNid = 1;
  readonly blockSize = pageSize;
  readonly blockBits = 12;
  readonly chunkSize: number;
  readonly chunkBits: number;
  readonly bytes: Uint8Array;

  // The loaded inode.
  nid = 0;
  mode = 0;
  size = 0;
  uid = 0;
  gid = 0;
  nlink = 0;
  ino = 0;
  mtimeLo = 0;
  mtimeHi = 0;
  mtimeNsec = 0;
  rdev = 0;
  xattrOffset = 0;
  xattrBytes = 0;
  blockCount = 0;
  chunkCount = 0;
  /** nid of the directory that holds the inode; 0 of the root. Of a hardlinked inode that of its first name. */
  parent = 0;
  /** Index of the first child and number of children; 0 of all but directories. */
  childIndex = 0;
  childCount = 0;
  /** Offset of the inode, and so of its 32-byte digest. */
  inodeOffset = 0;

  // The chunk set by `chunk`.
  chunkBlob = 0;
  chunkIndex = 0;
  /** Uncompressed offset in the blob / `blockSize`; a fraction where the blob is not aligned. */
  chunkBlock = 0;
  /** Offset of the chunk record in `bytes`. */
  chunkRecord = 0;
  /** Stored place and flags, for readers without blob meta. */
  chunkCompressedOffset = 0;
  chunkCompressedSize = 0;
  chunkUncompressedSize = 0;
  chunkFlags = 0;

  // The entry set by `entry` and `find`.
  entryCount = 0;
  entryNid = 0;
  entryType = 0;
  /** st_mode of the entry's inode. */
  entryMode = 0;
  entryNameStart = 0;
  entryNameEnd = 0;
  entryBytes: Uint8Array;

  // The xattr set by `nextXattr` and `findXattr`.
  xattrSuffixStart = 0;
  xattrSuffixEnd = 0;
  xattrValueStart = 0;
  xattrValueEnd = 0;
  readonly xattrPrefixBytes = noPrefix;

  readonly #view: ByteView;
  readonly #length: number;
  readonly #entries: number;
  readonly #table: number;
  readonly #blobCount: number;
  readonly #blobChunks: Uint32Array;
  #link = 0;
  #chunkArray = 0;
  #firstEntry = 0;
  #xattrNext = 0;
  // A child looked at by `#peek`, without changing the loaded inode.
  #peekOffset = 0;
  #peekNameEnd = 0;

  /**
   * Reads superblock and blob table (this allocates) and loads the root.
   *
   * @throws RafsError RAFS_TRUNCATED, RAFS_MAGIC, RAFS_VERSION, RAFS_SUPERBLOCK, RAFS_RANGE, RAFS_BLOB_TABLE, RAFS_INODE, RAFS_UNSUPPORTED
   */
  constructor(source: Uint8Array | PagedView) {
    this.bytes = source instanceof Uint8Array ? source : new Uint8Array(0);
    this.entryBytes = this.bytes;
    this.#view = byteViewOf(source);
    this.#length = this.#view.byteLength;
    this.superblock = readSuperblockV5(this.#view);
    this.blobs = readBlobTableV5(this.#view, this.superblock);
    this.chunkSize = this.superblock.chunkSize;
    this.chunkBits = Math.log2(this.chunkSize);
    this.#entries = this.superblock.inodeEntries;
    this.#table = this.superblock.inodeTable.offset;
    this.#blobCount = this.blobs.length;
    this.#blobChunks = Uint32Array.from(this.blobs, ({ features, chunkCount }) =>
      features === withoutExtendedTable ? chunksPerBlobMax : chunkCount,
    );
    this.load(this.rootNid);
    if ((this.mode & 0xf000) !== 0x4000) this.#fail("RAFS_INODE", "the root is no directory, its mode is", this.mode);
  }

  /** @throws RafsError RAFS_INODE, RAFS_RANGE, RAFS_DIRECTORY, RAFS_SYMLINK, RAFS_XATTR, RAFS_CHUNK */
  load(nid: number): void {
    this.nid = nid;
    this.#loadIndex(nid);
    if (this.ino !== nid) this.#fail("RAFS_INODE", "the inode table gives another number:", this.ino);
  }

  /** As `RafsV6Cursor.find`; binary search over the children. */
  find(dirNid: number, name: Uint8Array, start: number, end: number): number {
    this.load(dirNid);
    if ((this.mode & 0xf000) !== 0x4000) this.#fail("RAFS_DIRECTORY", "no directory, its mode is", this.mode);
    if (end > start && end - start <= 2 && name[start] === 0x2e && (end - start === 1 || name[start + 1] === 0x2e)) {
      this.#setDots(end - start - 1);
      return this.entryNid;
    }
    let first = 0;
    let last = this.childCount - 1;
    while (first <= last) {
      const middle = (first + last) >>> 1;
      this.#peek(this.childIndex + middle);
      const order = this.#compare(name, start, end);
      if (order === 0) {
        this.#setPeeked();
        return this.entryNid;
      }
      if (order > 0) first = middle + 1;
      else last = middle - 1;
    }
    return 0;
  }

  /** Offset of the loaded symlink's target; it has one block, directories have none. */
  blockOffset(k: number): number {
    if (k !== 0 || this.#link === 0) this.#fail("RAFS_RANGE", "no such data block:", k);
    return this.#link;
  }

  blockBytes(_k: number): number {
    return this.size;
  }

  /** Opens entries 256·k … of the loaded directory; 0 and 1 are `.` and `..`. */
  openBlock(k: number): void {
    if ((this.mode & 0xf000) !== 0x4000) this.#fail("RAFS_DIRECTORY", "no directory, its mode is", this.mode);
    if (!(k >= 0 && k < this.blockCount)) this.#fail("RAFS_RANGE", "no such block of entries:", k);
    this.#firstEntry = k * entriesPerBlock;
    this.entryCount = Math.min(entriesPerBlock, this.childCount + 2 - this.#firstEntry);
  }

  /**
   * As `RafsV6Cursor.entry`. The child must name this directory as its parent.
   *
   * @throws RafsError RAFS_DIRECTORY, RAFS_RANGE, RAFS_INODE
   */
  entry(i: number): void {
    if (!(i >= 0 && i < this.entryCount)) this.#fail("RAFS_RANGE", "no such directory entry:", i);
    const at = this.#firstEntry + i;
    if (at < 2) {
      this.#setDots(at);
      return;
    }
    this.child(at - 2);
  }

  /** As `entry`, of child `child` of the loaded directory, without a block. */
  child(child: number): void {
    if (!(child >= 0 && child < this.childCount)) this.#fail("RAFS_RANGE", "no such child:", child);
    this.#peek(this.childIndex + child);
    this.#setPeeked();
    const view = this.#view;
    for (let byte = this.entryNameStart; byte < this.entryNameEnd; byte++) {
      const value = view.getUint8(byte);
      if (value === slash || value === 0) this.#fail("RAFS_DIRECTORY", "slash or NUL in the name of child", child);
    }
    if (view.getUint8(this.entryNameStart) === 0x2e) this.#refuseDots(child);
    if (child === 0) return;
    this.#peek(this.childIndex + child - 1);
    if (this.#compareOwn(this.entryNameStart, this.entryNameEnd) <= 0) this.#fail("RAFS_DIRECTORY", "names out of order at child", child);
  }

  /**
   * As `RafsV6Cursor.chunk`, and the stored place of the chunk.
   *
   * @throws RafsError RAFS_CHUNK, RAFS_RANGE
   */
  chunk(i: number): void {
    if (!(i >= 0 && i < this.chunkCount)) this.#fail("RAFS_RANGE", "no such chunk of the file:", i);
    const view = this.#view;
    const at = this.#chunkArray + i * CHUNK_RECORD.recordSize;
    const blob = view.getUint32(at + CHUNK_RECORD.blobIndex, true);
    const index = view.getUint32(at + CHUNK_RECORD.chunkIndex, true);
    if (blob >= this.#blobCount) this.#fail("RAFS_CHUNK", "no such blob:", blob);
    if (index >= (this.#blobChunks[blob] as number)) this.#fail("RAFS_CHUNK", "chunk index passes the blob's chunk count:", index);
    const fileOffset = this.#u64(at + CHUNK_RECORD.fileOffset);
    if (fileOffset !== i * this.chunkSize) this.#fail("RAFS_CHUNK", "file offset of a chunk is", fileOffset);
    const uncompressedSize = view.getUint32(at + CHUNK_RECORD.uncompressedSize, true);
    const needed = Math.min(this.chunkSize, this.size - fileOffset);
    if (uncompressedSize < needed || uncompressedSize > this.chunkSize)
      this.#fail("RAFS_CHUNK", "uncompressed size of a chunk is", uncompressedSize);
    const uncompressedOffset = this.#u64(at + CHUNK_RECORD.uncompressedOffset);
    const compressedOffset = this.#u64(at + CHUNK_RECORD.compressedOffset);
    if (uncompressedOffset > 2 ** 44 || compressedOffset > 2 ** 44)
      this.#fail("RAFS_CHUNK", "offset of a chunk in its blob is", compressedOffset);
    this.chunkRecord = at;
    this.chunkBlob = blob;
    this.chunkIndex = index;
    this.chunkBlock = uncompressedOffset / pageSize;
    this.chunkCompressedOffset = compressedOffset;
    this.chunkCompressedSize = view.getUint32(at + CHUNK_RECORD.compressedSize, true);
    this.chunkUncompressedSize = uncompressedSize;
    this.chunkFlags = view.getUint32(at + CHUNK_RECORD.flags, true);
  }

  rewindXattrs(): void {
    this.#xattrNext = this.xattrOffset;
  }

  /** As `RafsV6Cursor.nextXattr`; a pair without NUL is skipped, as in the original. @throws RafsError RAFS_XATTR */
  nextXattr(): boolean {
    const end = this.xattrOffset + this.xattrBytes;
    while (this.#xattrNext < end) {
      const at = this.#xattrNext + pairSize;
      const size = at > end ? -1 : this.#view.getUint32(this.#xattrNext, true);
      if (size < 0 || at + size > end) this.#fail("RAFS_XATTR", "pair passes the xattr block; its bytes are", size);
      this.#xattrNext = at + size;
      let nul = at;
      while (nul < at + size && this.#view.getUint8(nul) !== 0) nul++;
      if (nul === at + size) continue;
      if (nul === at || nul - at > nameBytesMax) this.#fail("RAFS_XATTR", "length of a name is", nul - at);
      this.xattrSuffixStart = at;
      this.xattrSuffixEnd = nul;
      this.xattrValueStart = nul + 1;
      this.xattrValueEnd = at + size;
      return true;
    }
    return false;
  }

  /** As `RafsV6Cursor.findXattr`. @throws RafsError RAFS_XATTR */
  findXattr(name: Uint8Array, start: number, end: number): boolean {
    this.rewindXattrs();
    while (this.nextXattr()) {
      const length = end - start;
      if (this.xattrSuffixEnd - this.xattrSuffixStart !== length) continue;
      let same = 0;
      while (same < length && name[start + same] === this.#view.getUint8(this.xattrSuffixStart + same)) same++;
      if (same === length) return true;
    }
    return false;
  }

  /**
   * Loads the inode at an index of the table if that is where it was first named.
   *
   * @returns false for a later name of a hardlinked inode
   * @throws RafsError as `load`
   */
  loadFirstName(index: number): boolean {
    this.nid = index;
    this.#loadIndex(index);
    return this.ino === index;
  }

  #loadIndex(index: number): void {
    const at = this.#offsetOf(index);
    const view = this.#view;
    this.inodeOffset = at;
    this.ino = this.#u64(at + INODE_V5.ino);
    this.parent = this.#u64(at + INODE_V5.parent);
    this.mode = view.getUint32(at + INODE_V5.mode, true);
    this.size = this.#u64(at + INODE_V5.size);
    this.uid = view.getUint32(at + INODE_V5.uid, true);
    this.gid = view.getUint32(at + INODE_V5.gid, true);
    this.nlink = view.getUint32(at + INODE_V5.nlink, true);
    this.mtimeLo = view.getUint32(at + INODE_V5.mtime, true);
    this.mtimeHi = view.getUint32(at + INODE_V5.mtime + 4, true);
    this.mtimeNsec = view.getUint32(at + INODE_V5.mtimeNsec, true);
    if (!(this.ino >= 1 && this.ino <= this.#entries)) this.#fail("RAFS_INODE", "inode number outside of the table:", this.ino);
    if (this.nlink === 0) this.#fail("RAFS_INODE", "link count is", 0);
    if (this.mtimeNsec >= 1_000_000_000) this.#fail("RAFS_INODE", "nanoseconds are", this.mtimeNsec);
    if (this.mode > 0xffff) this.#fail("RAFS_INODE", "mode has more than 16 bits:", this.mode);
    const links = view.getUint16(at + INODE_V5.symlinkSize, true);
    const isSymlink = (this.mode & 0xf000) === 0xa000;
    const nameEnd = at + INODE_V5.recordSize + padded(view.getUint16(at + INODE_V5.nameSize, true));
    const count = view.getUint32(at + INODE_V5.childCount, true);
    this.rdev = 0;
    this.blockCount = 0;
    this.chunkCount = 0;
    this.childIndex = 0;
    this.childCount = 0;
    this.entryCount = 0;
    this.#link = 0;
    let end = nameEnd;
    if (isSymlink) {
      if (links === 0 || links > symlinkBytesMax) this.#fail("RAFS_SYMLINK", "symlink target of size", links);
      this.#link = nameEnd;
      this.size = links;
      this.blockCount = 1;
      end = nameEnd + padded(links);
    } else if (links !== 0) this.#fail("RAFS_INODE", "symlink size of an inode that is none:", links);
    end = this.#placeXattrs(at, end);
    switch (this.mode & 0xf000) {
      case 0x8000:
        this.#placeChunks(end, count);
        break;
      case 0x4000:
        this.#placeChildren(view.getUint32(at + INODE_V5.childIndex, true), count);
        break;
      case 0x2000:
      case 0x6000:
        this.rdev = view.getUint32(at + INODE_V5.rdev, true);
        break;
      case 0xa000:
      case 0x1000:
      case 0xc000:
        break;
      default:
        this.#fail("RAFS_INODE", "unknown file type in mode", this.mode);
    }
  }

  /** Offset of the inode at an index of the table, with its fixed part and name inside the file. */
  #offsetOf(index: number): number {
    if (!(index >= 1 && index <= this.#entries)) this.#fail("RAFS_RANGE", "inode outside of the table:", index);
    const word = this.#view.getUint32(this.#table + (index - 1) * 4, true);
    const at = word * 8;
    if (word <= 1024 || word >= 0x2000_0000 || at + INODE_V5.recordSize > this.#length)
      this.#fail("RAFS_RANGE", "inode outside of the file, at", at);
    const nameSize = this.#view.getUint16(at + INODE_V5.nameSize, true);
    if (nameSize === 0 || nameSize > nameBytesMax) this.#fail("RAFS_INODE", "length of a name is", nameSize);
    if (at + INODE_V5.recordSize + padded(nameSize) > this.#length)
      this.#fail("RAFS_RANGE", "name passes the end of the file; its bytes are", nameSize);
    return at;
  }

  #placeXattrs(at: number, end: number): number {
    this.xattrOffset = end;
    this.xattrBytes = 0;
    this.#xattrNext = end;
    if (end > this.#length) this.#fail("RAFS_RANGE", "inode passes the end of the file at", this.#length);
    if ((this.#view.getUint32(at + INODE_V5.flags, true) & flagXattr) === 0) return end;
    if (end + 8 > this.#length) this.#fail("RAFS_XATTR", "xattr block passes the end of the file at", this.#length);
    const size = this.#u64(end);
    if (size > this.#length || end + 8 + padded(size) > this.#length)
      this.#fail("RAFS_XATTR", "xattr block passes the end of the file; its bytes are", size);
    this.xattrOffset = end + 8;
    this.xattrBytes = size;
    this.#xattrNext = end + 8;
    return end + 8 + padded(size);
  }

  #placeChunks(end: number, count: number): void {
    if (count !== Math.ceil(this.size / this.chunkSize)) this.#fail("RAFS_CHUNK", "chunk count does not fit the size of the file:", count);
    if (end + count * CHUNK_RECORD.recordSize > this.#length)
      this.#fail("RAFS_CHUNK", "chunk records pass the end of the file, chunks:", count);
    this.#chunkArray = end;
    this.chunkCount = count;
  }

  #placeChildren(index: number, count: number): void {
    if (count > 0 && !(index > this.ino && index + count - 1 <= this.#entries))
      this.#fail("RAFS_DIRECTORY", "children outside of the table, from", index);
    this.childIndex = index;
    this.childCount = count;
    this.blockCount = Math.ceil((count + 2) / entriesPerBlock);
  }

  #peek(index: number): void {
    this.#peekOffset = this.#offsetOf(index);
    const nameSize = this.#view.getUint16(this.#peekOffset + INODE_V5.nameSize, true);
    this.#peekNameEnd = this.#peekOffset + INODE_V5.recordSize + nameSize;
  }

  #setPeeked(): void {
    const at = this.#peekOffset;
    const parent = this.#u64(at + INODE_V5.parent);
    const ino = this.#u64(at + INODE_V5.ino);
    if (parent !== this.nid) this.#fail("RAFS_DIRECTORY", "a child has another parent:", parent);
    if (!(ino >= 1 && ino <= this.#entries)) this.#fail("RAFS_RANGE", "directory entry names a node outside of the table:", ino);
    this.entryNid = ino;
    this.entryMode = this.#view.getUint32(at + INODE_V5.mode, true);
    this.entryType = entryTypeOf(this.entryMode);
    this.entryNameStart = at + INODE_V5.recordSize;
    this.entryNameEnd = this.#peekNameEnd;
    this.entryBytes = this.bytes;
  }

  #setDots(more: number): void {
    this.entryNid = more === 0 || this.nid === this.rootNid ? this.nid : this.parent;
    if (!(this.entryNid >= 1 && this.entryNid <= this.#entries))
      this.#fail("RAFS_DIRECTORY", "parent outside of the table:", this.entryNid);
    this.entryMode = 0x4000;
    this.entryType = 2;
    this.entryNameStart = 0;
    this.entryNameEnd = more + 1;
    this.entryBytes = dots;
  }

  #refuseDots(child: number): void {
    const length = this.entryNameEnd - this.entryNameStart;
    if (length === 1 || (length === 2 && this.#view.getUint8(this.entryNameStart + 1) === 0x2e))
      this.#fail("RAFS_DIRECTORY", "stored dot entry, child", child);
  }

  /** Order of a wanted name against the peeked child's name. */
  #compare(name: Uint8Array, start: number, end: number): number {
    const view = this.#view;
    const nameEnd = this.#peekNameEnd;
    let at = this.#peekOffset + INODE_V5.recordSize;
    for (let wanted = start; wanted < end; wanted++, at++) {
      if (at === nameEnd) return 1;
      const difference = (name[wanted] as number) - view.getUint8(at);
      if (difference !== 0) return difference;
    }
    return at === nameEnd ? 0 : -1;
  }

  /** As `#compare`, of a name that lies in the bootstrap itself. */
  #compareOwn(start: number, end: number): number {
    const view = this.#view;
    const nameEnd = this.#peekNameEnd;
    let at = this.#peekOffset + INODE_V5.recordSize;
    for (let wanted = start; wanted < end; wanted++, at++) {
      if (at === nameEnd) return 1;
      const difference = view.getUint8(wanted) - view.getUint8(at);
      if (difference !== 0) return difference;
    }
    return at === nameEnd ? 0 : -1;
  }

  #u64(at: number): number {
    const value = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 4294967296;
    if (value > Number.MAX_SAFE_INTEGER) this.#fail("RAFS_RANGE", "64-bit field above 2^53 − 1:", value);
    return value;
  }

  #fail(code: RafsErrorCode, fault: string, value: number): never {
    throw new RafsError(code, `inode ${this.nid}: ${fault} ${value}`);
  }
}

const padded = (size: number): number => Math.ceil(size / 8) * 8;

/** Number of a v6 directory entry type by mode. */
function entryTypeOf(mode: number): number {
  switch (mode & 0xf000) {
    case 0x8000:
      return 1;
    case 0x4000:
      return 2;
    case 0x2000:
      return 3;
    case 0x6000:
      return 4;
    case 0x1000:
      return 5;
    case 0xc000:
      return 6;
    case 0xa000:
      return 7;
    default:
      return 0;
  }
}

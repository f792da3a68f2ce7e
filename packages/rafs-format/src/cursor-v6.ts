import type { BlobRecord } from "./blob-record.ts";
import { type ByteView, byteViewOf } from "./bytes.ts";
import { inodeSlotSize, xattrPrefixes } from "./constants.ts";
import { RafsError, type RafsErrorCode } from "./errors.ts";
import { nameBytesMax, symlinkBytesMax } from "./limits.ts";
import type { PagedView } from "./paged-view.ts";
import { CHUNK_INDEX, DIRENT, INODE_COMPACT, INODE_EXTENDED, XATTR_ENTRY, XATTR_HEADER } from "./records/v6.ts";
import { readBlobTableV6, readSuperblockV6, type SuperblockV6 } from "./superblock-v6.ts";

const layoutPlain = 0;
const layoutInline = 2;
const layoutChunks = 4;
const slash = 0x2f;

/** Full prefixes as bytes, by index; empty where the index is unknown. */
const prefixBytes: readonly Uint8Array[] = xattrPrefixes.map((prefix) => new TextEncoder().encode(prefix ?? ""));

/**
 * Reads a v6 bootstrap in place, one thing at a time, into plain fields: `load` an inode, `openBlock` of a directory, `entry` of
 * that block, `chunk` of a file. No call allocates. Every byte comes from a registry: each offset is checked before it is used, and
 * what the format forbids is a RafsError. This file stays whole because it is one state machine over shared fields.
 *
 * Invariants: after `load` returns, all data blocks of a directory or symlink, the xattr area and the chunk index array of the
 * loaded inode lie inside the file, so later calls only check their own index. A call that throws leaves the fields undefined.
 *
 * Source: spec/rafs.md 2.6 – 2.10, 10
 */
export class RafsV6Cursor {
  readonly version = 6;
  readonly superblock: SuperblockV6;
  readonly blobs: readonly BlobRecord[];
  readonly rootNid: number;
  readonly blockSize: number;
  readonly chunkSize: number;
  /** log2 of `blockSize` and `chunkSize`. */
  readonly blockBits: number;
  readonly chunkBits: number;
  /** The bytes all offsets below count in; empty when the bootstrap is read in pages. */
  readonly bytes: Uint8Array;

  // The loaded inode.
  nid = 0;
  mode = 0;
  /** At most 2^53 − 1. */
  size = 0;
  uid = 0;
  gid = 0;
  nlink = 0;
  /** The builder's number, equal for hardlinks; `st_ino` is the nid. */
  ino = 0;
  /** Seconds since 1970 as the two halves of a signed 64-bit number. */
  mtimeLo = 0;
  mtimeHi = 0;
  mtimeNsec = 0;
  /** Device number of char and block devices, 0 for all else. */
  rdev = 0;
  /** 0 plain, 2 inline, 4 chunk based. */
  layout = 0;
  u = 0;
  /** Offset of what follows inode and xattrs: the inline tail. */
  tail = 0;
  /** Xattr area; 0 bytes = no xattrs. */
  xattrOffset = 0;
  xattrBytes = 0;
  /** Data blocks of a directory or symlink; 0 for all else. */
  blockCount = 0;
  /** Chunks of a regular file; 0 for all else. */
  chunkCount = 0;

  // The chunk set by `chunk`.
  chunkBlob = 0;
  chunkIndex = 0;
  /** Uncompressed offset in the blob / `blockSize`. */
  chunkBlock = 0;

  // The directory block opened by `openBlock`, and the entry set by `entry` and `find`.
  entryCount = 0;
  entryNid = 0;
  /** Number of a directory entry type: 1 regular, 2 directory, 3 char, 4 block, 5 fifo, 6 socket, 7 symlink, 0 unknown. */
  entryType = 0;
  /** The name is [entryNameStart, entryNameEnd) of `entryBytes`. */
  entryNameStart = 0;
  entryNameEnd = 0;
  readonly entryBytes: Uint8Array;

  // The xattr set by `nextXattr` and `findXattr`; the full name is prefix then suffix.
  xattrPrefix = 0;
  xattrSuffixStart = 0;
  xattrSuffixEnd = 0;
  xattrValueStart = 0;
  xattrValueEnd = 0;

  readonly #view: ByteView;
  readonly #length: number;
  readonly #metaOffset: number;
  readonly #nidMax: number;
  readonly #blobCount: number;
  readonly #blobChunks: Uint32Array;
  readonly #blobBlocks: Float64Array;
  #chunkArray = 0;
  #block = 0;
  #blockBytes = 0;
  #xattrNext = 0;

  /**
   * Reads superblock and blob table (this allocates) and loads the root.
   *
   * @param source  the whole bootstrap, or pages of one: then any call may throw `PageMissing` and be repeated
   * @throws RafsError RAFS_TRUNCATED, RAFS_MAGIC, RAFS_SUPERBLOCK, RAFS_RANGE, RAFS_BLOB_TABLE, RAFS_INODE, RAFS_UNSUPPORTED
   */
  constructor(source: Uint8Array | PagedView) {
    this.bytes = source instanceof Uint8Array ? source : new Uint8Array(0);
    this.entryBytes = this.bytes;
    this.#view = byteViewOf(source);
    this.#length = this.#view.byteLength;
    this.superblock = readSuperblockV6(this.#view);
    this.blobs = readBlobTableV6(this.#view, this.superblock);
    this.rootNid = this.superblock.rootNid;
    this.blockBits = this.superblock.blockBits;
    this.blockSize = 2 ** this.blockBits;
    this.chunkSize = this.superblock.chunkSize;
    this.chunkBits = Math.log2(this.chunkSize);
    this.#metaOffset = this.superblock.metaOffset;
    this.#nidMax = Math.floor((this.#length - this.#metaOffset) / inodeSlotSize) - 1;
    this.#blobCount = this.blobs.length;
    this.#blobChunks = Uint32Array.from(this.blobs, (blob) => blob.chunkCount);
    this.#blobBlocks = Float64Array.from(this.blobs, (blob) => Math.ceil(blob.uncompressedSize / this.blockSize));
    this.load(this.rootNid);
    if ((this.mode & 0xf000) !== 0x4000) this.#fail("RAFS_INODE", "the root is no directory, its mode is", this.mode);
  }

  /**
   * Decodes inode `nid` into the fields and checks where its data lies.
   *
   * @throws RafsError RAFS_INODE (format, mode, nlink, size), RAFS_RANGE (outside the file), RAFS_DIRECTORY, RAFS_SYMLINK, RAFS_CHUNK
   */
  load(nid: number): void {
    if (!(nid >= 1 && nid <= this.#nidMax)) this.#fail("RAFS_RANGE", "node number outside of the file:", nid);
    const view = this.#view;
    const at = this.#metaOffset + nid * inodeSlotSize;
    const format = view.getUint16(at + INODE_EXTENDED.format, true);
    const xattrCount = view.getUint16(at + INODE_EXTENDED.xattrCount, true);
    this.nid = nid;
    this.layout = (format >> 1) & 7;
    this.mode = view.getUint16(at + INODE_EXTENDED.mode, true);
    this.u = view.getUint32(at + INODE_EXTENDED.u, true);
    this.ino = view.getUint32(at + INODE_EXTENDED.ino, true);
    if ((format & 0xfff0) !== 0) this.#fail("RAFS_INODE", "unknown format bits", format);
    let end = at;
    if ((format & 1) !== 0) {
      end = at + INODE_EXTENDED.recordSize;
      if (end > this.#length) this.#fail("RAFS_RANGE", "inode passes the end of the file at", this.#length);
      this.size = view.getUint32(at + INODE_EXTENDED.size, true) + view.getUint32(at + INODE_EXTENDED.size + 4, true) * 4294967296;
      this.uid = view.getUint32(at + INODE_EXTENDED.uid, true);
      this.gid = view.getUint32(at + INODE_EXTENDED.gid, true);
      this.mtimeLo = view.getUint32(at + INODE_EXTENDED.mtime, true);
      this.mtimeHi = view.getUint32(at + INODE_EXTENDED.mtime + 4, true);
      this.mtimeNsec = view.getUint32(at + INODE_EXTENDED.mtimeNsec, true);
      this.nlink = view.getUint32(at + INODE_EXTENDED.nlink, true);
    } else {
      end = at + INODE_COMPACT.recordSize;
      this.size = view.getUint32(at + INODE_COMPACT.size, true);
      this.uid = view.getUint16(at + INODE_COMPACT.uid, true);
      this.gid = view.getUint16(at + INODE_COMPACT.gid, true);
      this.mtimeLo = 0;
      this.mtimeHi = 0;
      this.mtimeNsec = 0;
      this.nlink = view.getUint16(at + INODE_COMPACT.nlink, true);
    }
    if (this.nlink === 0) this.#fail("RAFS_INODE", "link count is", 0);
    if (this.mtimeNsec >= 1_000_000_000) this.#fail("RAFS_INODE", "nanoseconds are", this.mtimeNsec);
    this.xattrOffset = end;
    this.xattrBytes = xattrCount === 0 ? 0 : XATTR_HEADER.recordSize + (xattrCount - 1) * 4;
    this.tail = end + this.xattrBytes;
    if (this.tail > this.#length) this.#fail("RAFS_XATTR", "xattr area passes the end of the file; its bytes are", this.xattrBytes);
    this.blockCount = 0;
    this.chunkCount = 0;
    this.entryCount = 0;
    this.rdev = 0;
    this.#xattrNext = this.xattrBytes === 0 ? this.tail : end + XATTR_HEADER.recordSize;
    switch (this.mode & 0xf000) {
      case 0x8000:
        this.#placeChunks(at);
        break;
      case 0x4000:
        if (this.size === 0) this.#fail("RAFS_DIRECTORY", "directory of size", 0);
        this.#placeBlocks("RAFS_DIRECTORY");
        break;
      case 0xa000:
        if (this.size === 0 || this.size > symlinkBytesMax) this.#fail("RAFS_SYMLINK", "symlink target of size", this.size);
        this.#placeBlocks("RAFS_SYMLINK");
        break;
      case 0x2000:
      case 0x6000:
        this.rdev = this.u;
        break;
      case 0x1000:
      case 0xc000:
        break;
      default:
        this.#fail("RAFS_INODE", "unknown file type in mode", this.mode);
    }
  }

  /**
   * Looks up a name in directory `dirNid`, which it loads; `entryNid` and `entryType` then hold the entry.
   *
   * @param name  holds the name in bytes [start, end); neither NUL nor slash
   * @returns the nid, 0 when the directory has no such name
   * @throws RafsError as `load`, RAFS_DIRECTORY
   */
  find(dirNid: number, name: Uint8Array, start: number, end: number): number {
    this.load(dirNid);
    if ((this.mode & 0xf000) !== 0x4000) this.#fail("RAFS_DIRECTORY", "no directory, its mode is", this.mode);
    let low = 0;
    let high = this.blockCount - 1;
    while (low < high) {
      // The last block whose first name is not above the wanted one.
      const middle = (low + high + 1) >>> 1;
      this.#openUnordered(middle);
      if (this.#compare(0, name, start, end) >= 0) low = middle;
      else high = middle - 1;
    }
    this.#openUnordered(low);
    let first = 0;
    let last = this.entryCount - 1;
    while (first <= last) {
      const middle = (first + last) >>> 1;
      const order = this.#compare(middle, name, start, end);
      if (order === 0) {
        this.#setEntry(middle);
        return this.entryNid;
      }
      if (order > 0) first = middle + 1;
      else last = middle - 1;
    }
    return 0;
  }

  /** File offset of data block `k` of the loaded directory or symlink. The block is inside the file for `blockBytes(k)` bytes. */
  blockOffset(k: number): number {
    if (!(k >= 0 && k < this.blockCount)) this.#fail("RAFS_RANGE", "no such data block:", k);
    return this.layout === layoutInline && k === this.blockCount - 1 ? this.tail : (this.u + k) * this.blockSize;
  }

  /** Bytes of data block `k`: `blockSize`, less in the last one. */
  blockBytes(k: number): number {
    return k === this.blockCount - 1 ? this.size - k * this.blockSize : this.blockSize;
  }

  /**
   * Opens block `k` of the loaded directory for `entry`; `entryCount` says how many it has. The first name is checked to stand
   * after the last name of the block before.
   *
   * @throws RafsError RAFS_DIRECTORY, RAFS_RANGE
   */
  openBlock(k: number): void {
    if ((this.mode & 0xf000) !== 0x4000) this.#fail("RAFS_DIRECTORY", "no directory, its mode is", this.mode);
    if (k > 0) {
      this.#openUnordered(k - 1);
      const start = this.#nameStart(this.entryCount - 1);
      const end = this.#nameEnd(this.entryCount - 1);
      this.#openUnordered(k);
      if (this.#compareOwn(0, start, end) >= 0) this.#fail("RAFS_DIRECTORY", "names out of order at the start of block", k);
    } else this.#openUnordered(k);
  }

  /**
   * Sets the fields `entry…` to entry `i` of the opened block. The name is checked: 1 to 255 bytes, no slash, no NUL, above its
   * predecessor in byte order.
   *
   * @throws RafsError RAFS_DIRECTORY, RAFS_RANGE (a nid outside of the file)
   */
  entry(i: number): void {
    if (!(i >= 0 && i < this.entryCount)) this.#fail("RAFS_RANGE", "no such directory entry:", i);
    this.#setEntry(i);
    const view = this.#view;
    const end = this.entryNameEnd;
    for (let at = this.entryNameStart; at < end; at++) {
      const byte = view.getUint8(at);
      if (byte === slash || byte === 0) this.#fail("RAFS_DIRECTORY", "slash or NUL in the name of entry", i);
    }
    if (i > 0 && this.#compareOwn(i - 1, this.entryNameStart, end) <= 0) this.#fail("RAFS_DIRECTORY", "names out of order at entry", i);
  }

  /**
   * Sets `chunkBlob`, `chunkIndex`, `chunkBlock` to entry `i` of the loaded regular file. Chunk `i` holds file bytes
   * [i × chunkSize, min(size, (i + 1) × chunkSize)).
   *
   * @throws RafsError RAFS_CHUNK (blob or chunk that the image does not have), RAFS_RANGE
   */
  chunk(i: number): void {
    if (!(i >= 0 && i < this.chunkCount)) this.#fail("RAFS_RANGE", "no such chunk of the file:", i);
    const view = this.#view;
    const at = this.#chunkArray + i * CHUNK_INDEX.recordSize;
    const word = view.getUint32(at, true);
    const blob = ((word >>> 16) & 0xff) - 1;
    const index = (word & 0xffff) | ((word >>> 24) << 16);
    const block = view.getUint32(at + CHUNK_INDEX.block, true);
    if (!(blob >= 0 && blob < this.#blobCount)) this.#fail("RAFS_CHUNK", "no such blob:", blob);
    if (index >= (this.#blobChunks[blob] as number)) this.#fail("RAFS_CHUNK", "chunk index passes the blob's chunk count:", index);
    if (block >= (this.#blobBlocks[blob] as number)) this.#fail("RAFS_CHUNK", "block address passes the end of the blob:", block);
    this.chunkBlob = blob;
    this.chunkIndex = index;
    this.chunkBlock = block;
  }

  /** Starts again with the first xattr of the loaded inode; `load` does the same. */
  rewindXattrs(): void {
    this.#xattrNext = this.xattrBytes === 0 ? this.tail : this.xattrOffset + XATTR_HEADER.recordSize;
  }

  /**
   * Sets the fields `xattr…` to the next xattr of the loaded inode.
   *
   * @returns false when there is none left
   * @throws RafsError RAFS_XATTR
   */
  nextXattr(): boolean {
    const at = this.#xattrNext;
    const remaining = this.tail - at;
    if (remaining <= 0) return false;
    const view = this.#view;
    const nameLength = view.getUint8(at + XATTR_ENTRY.nameLength);
    const prefix = view.getUint8(at + XATTR_ENTRY.prefix);
    const valueSize = view.getUint16(at + XATTR_ENTRY.valueSize, true);
    const bytes = XATTR_ENTRY.recordSize + nameLength + valueSize;
    if (bytes > remaining) this.#fail("RAFS_XATTR", "entry passes the xattr area; its bytes are", bytes);
    const known = prefix < prefixBytes.length ? (prefixBytes[prefix] as Uint8Array).length : 0;
    if (known === 0) this.#fail("RAFS_XATTR", "unknown name prefix", prefix);
    if (known + nameLength > nameBytesMax) this.#fail("RAFS_XATTR", "name longer than 255 bytes:", known + nameLength);
    // 2 and 3 are whole names; all others need a suffix.
    if ((nameLength === 0) !== (prefix === 2 || prefix === 3)) this.#fail("RAFS_XATTR", "bad suffix length for its prefix:", nameLength);
    this.xattrPrefix = prefix;
    this.xattrSuffixStart = at + XATTR_ENTRY.recordSize;
    this.xattrSuffixEnd = this.xattrSuffixStart + nameLength;
    this.xattrValueStart = this.xattrSuffixEnd;
    this.xattrValueEnd = this.xattrValueStart + valueSize;
    this.#xattrNext = at + ((bytes + 3) & ~3);
    return true;
  }

  /** Bytes of the prefix of the current xattr (`user.`, …); shared, not to be changed. */
  get xattrPrefixBytes(): Uint8Array {
    return prefixBytes[this.xattrPrefix] as Uint8Array;
  }

  /**
   * Finds an xattr of the loaded inode by its full name, [start, end) of `name`; its value is then [xattrValueStart, xattrValueEnd).
   *
   * @throws RafsError RAFS_XATTR
   */
  findXattr(name: Uint8Array, start: number, end: number): boolean {
    this.rewindXattrs();
    while (this.nextXattr()) {
      const prefix = prefixBytes[this.xattrPrefix] as Uint8Array;
      const suffixAt = start + prefix.length;
      if (suffixAt + this.xattrSuffixEnd - this.xattrSuffixStart !== end) continue;
      let same = 0;
      while (same < prefix.length && prefix[same] === name[start + same]) same++;
      if (same < prefix.length) continue;
      let at = this.xattrSuffixStart;
      while (at < this.xattrSuffixEnd && this.#view.getUint8(at) === name[suffixAt + at - this.xattrSuffixStart]) at++;
      if (at === this.xattrSuffixEnd) return true;
    }
    return false;
  }

  #placeBlocks(code: RafsErrorCode): void {
    const size = this.size;
    if (size > this.#length) this.#fail(code, "size passes the whole file:", size);
    const count = Math.ceil(size / this.blockSize);
    const inTail = size % this.blockSize;
    if (this.layout === layoutInline) {
      if (inTail === 0) this.#fail(code, "inline data of whole blocks, size", size);
      if (this.tail + inTail > this.#length) this.#fail("RAFS_RANGE", "inline data passes the end of the file, size", size);
      if (count > 1 && (this.u + count - 1) * this.blockSize > this.#length)
        this.#fail("RAFS_RANGE", "data passes the end of the file, block", this.u);
    } else if (this.layout === layoutPlain) {
      if (this.u * this.blockSize + size > this.#length) this.#fail("RAFS_RANGE", "data passes the end of the file, block", this.u);
    } else this.#fail(code, "data layout must be plain or inline, it is", this.layout);
    this.blockCount = count;
  }

  #placeChunks(at: number): void {
    if (this.size > Number.MAX_SAFE_INTEGER) this.#fail("RAFS_INODE", "file size above 2^53 − 1:", this.size);
    if (this.size === 0) return;
    if (this.layout !== layoutChunks) this.#fail("RAFS_INODE", "data layout of a file must be chunk based, it is", this.layout);
    const inode = this.tail - at;
    this.#chunkArray = at + ((inode + 7) & ~7);
    const count = Math.ceil(this.size / this.chunkSize);
    if (this.#chunkArray + count * CHUNK_INDEX.recordSize > this.#length)
      this.#fail("RAFS_CHUNK", "chunk index passes the end of the file, chunks:", count);
    this.chunkCount = count;
  }

  /** Opens a block without comparing it with the one before. */
  #openUnordered(k: number): void {
    const block = this.blockOffset(k);
    const bytes = this.blockBytes(k);
    if (bytes < DIRENT.recordSize) this.#fail("RAFS_DIRECTORY", "no room for an entry in block", k);
    const first = this.#view.getUint16(block + DIRENT.nameOffset, true);
    const count = Math.floor(first / DIRENT.recordSize);
    if (count === 0 || count * DIRENT.recordSize !== first || first >= bytes)
      this.#fail("RAFS_DIRECTORY", "bad offset of the first name:", first);
    this.#block = block;
    this.#blockBytes = bytes;
    this.entryCount = count;
  }

  #nameStart(i: number): number {
    const offset = this.#view.getUint16(this.#block + i * DIRENT.recordSize + DIRENT.nameOffset, true);
    if (offset < this.entryCount * DIRENT.recordSize || offset >= this.#blockBytes)
      this.#fail("RAFS_DIRECTORY", "name offset outside of the block:", offset);
    return this.#block + offset;
  }

  /** End of name `i`: where the next one begins; of the last one at the first NUL or the end of the data. */
  #nameEnd(i: number): number {
    if (i + 1 < this.entryCount) return this.#nameStart(i + 1);
    const blockEnd = this.#block + this.#blockBytes;
    const start = this.#nameStart(i);
    const limit = Math.min(blockEnd, start + nameBytesMax + 1);
    let end = start;
    while (end < limit && this.#view.getUint8(end) !== 0) end++;
    return end;
  }

  #setEntry(i: number): void {
    const view = this.#view;
    const at = this.#block + i * DIRENT.recordSize;
    const nid = view.getUint32(at + DIRENT.nid, true) + view.getUint32(at + DIRENT.nid + 4, true) * 4294967296;
    if (!(nid >= 1 && nid <= this.#nidMax)) this.#fail("RAFS_RANGE", "directory entry names a node outside of the file:", nid);
    const start = this.#nameStart(i);
    const end = this.#nameEnd(i);
    if (end <= start || end - start > nameBytesMax) this.#fail("RAFS_DIRECTORY", "length of a name is", end - start);
    this.entryNid = nid;
    this.entryType = view.getUint8(at + DIRENT.type);
    this.entryNameStart = start;
    this.entryNameEnd = end;
  }

  /** Order of a wanted name against the name of entry `i`: above 0 when the wanted one comes later. */
  #compare(i: number, name: Uint8Array, start: number, end: number): number {
    const view = this.#view;
    let at = this.#nameStart(i);
    const nameEnd = this.#nameEnd(i);
    if (nameEnd < at) this.#fail("RAFS_DIRECTORY", "name offsets descend at entry", i);
    for (let wanted = start; wanted < end; wanted++, at++) {
      if (at === nameEnd) return 1;
      const difference = (name[wanted] as number) - view.getUint8(at);
      if (difference !== 0) return difference;
    }
    return at === nameEnd ? 0 : -1;
  }

  /** As `#compare`, of a name that lies in the bootstrap itself. */
  #compareOwn(i: number, start: number, end: number): number {
    const view = this.#view;
    let at = this.#nameStart(i);
    const nameEnd = this.#nameEnd(i);
    if (nameEnd < at) this.#fail("RAFS_DIRECTORY", "name offsets descend at entry", i);
    for (let wanted = start; wanted < end; wanted++, at++) {
      if (at === nameEnd) return 1;
      const difference = view.getUint8(wanted) - view.getUint8(at);
      if (difference !== 0) return difference;
    }
    return at === nameEnd ? 0 : -1;
  }

  #fail(code: RafsErrorCode, fault: string, value: number): never {
    throw new RafsError(code, `inode ${this.nid}: ${fault} ${value}`);
  }
}

import { addressOf, rawWrite } from "@nydus-ts/linux";
import { FilePipe } from "./file-pipe.ts";
import { replyBytesMax } from "./limits.ts";
import type { FuseRequest } from "./request.ts";
import { ATTR, ATTR_OUT, DIRENT, ENTRY, OUT_HEADER, STATFS_OUT, XATTR_OUT } from "./structs.ts";

/** Attributes of one node as plain fields; a file system fills one such object again and again. */
export class Attributes {
  /** Inode number shown to users, below 2^53. */
  ino = 0;
  size = 0;
  mode = 0;
  nlink = 1;
  uid = 0;
  gid = 0;
  rdev = 0;
  /** Halves of the signed 64-bit seconds; atime and ctime are shown equal. */
  mtimeLo = 0;
  mtimeHi = 0;
  mtimeNsec = 0;
}

/** A reply in a buffer that lives as long as its worker. Methods write after the header and set `length`, the bytes of the payload. */
export class FuseReply {
  readonly bytes: Uint8Array;
  readonly address: number;
  readonly view: DataView;
  readonly attributes = new Attributes();
  /** Payload bytes, header not counted. */
  length = 0;
  // Directory listing under construction: where it ends, how far it may go.
  #end = 0;
  #limit = 0;
  #plus = false;
  #pipe: FilePipe | undefined;
  /** The payload is in the pipe. */
  #piped = false;

  constructor(bytes: Uint8Array = new Uint8Array(replyBytesMax)) {
    this.bytes = bytes;
    this.address = addressOf(bytes);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Start of the payload in `bytes`. */
  get payloadStart(): number {
    return OUT_HEADER.size;
  }

  /** Bytes a payload may have. */
  get payloadMax(): number {
    return this.bytes.length - OUT_HEADER.size;
  }

  /** LOOKUP: the node and its attributes (from `attributes`). `entrySeconds`: how long the kernel may keep the name. */
  entry(nodeLo: number, nodeHi: number, entrySeconds: number, attrSeconds: number): void {
    this.#putEntry(OUT_HEADER.size, nodeLo, nodeHi, entrySeconds, attrSeconds);
    this.length = ENTRY.size;
  }

  /** LOOKUP: no such name, which the kernel may remember for `seconds`. */
  negativeEntry(seconds: number): void {
    this.bytes.fill(0, OUT_HEADER.size, OUT_HEADER.size + ENTRY.size);
    this.view.setUint32(OUT_HEADER.size + ENTRY.entryValid, seconds, true);
    this.length = ENTRY.size;
  }

  /** GETATTR, from `attributes`. */
  attr(attrSeconds: number): void {
    this.#putU64(ATTR_OUT.attrValid, attrSeconds);
    this.#putU64(ATTR_OUT.attrValidNsec, 0);
    this.#putAttr(ATTR_OUT.attr);
    this.length = ATTR_OUT.size;
  }

  /** Copies bytes as the whole payload (READLINK, xattr values). */
  data(source: Uint8Array, start: number, end: number): void {
    this.length = 0;
    this.append(source, start, end);
  }

  /** As `data`, for many bytes: the copy is native, and allocates nothing but the caller's view. */
  copy(source: Uint8Array): void {
    this.bytes.set(source, OUT_HEADER.size);
    this.length = source.length;
  }

  /** Copies bytes to the end of the payload. */
  append(source: Uint8Array, start: number, end: number): void {
    const bytes = this.bytes;
    let to = OUT_HEADER.size + this.length;
    for (let from = start; from < end; from++) bytes[to++] = source[from] as number;
    this.length += end - start;
  }

  /**
   * Begins a payload of `length` bytes that the kernel takes from `ranges` ranges of files, without a copy in between; `addFile` brings them.
   * False: it must go through the buffer.
   */
  beginFiles(request: FuseRequest, length: number, ranges: number): boolean {
    this.#pipe ??= new FilePipe();
    this.#putHeader(OUT_HEADER.size + length, request.uniqueLo, request.uniqueHi, 0);
    this.#piped = this.#pipe.begin(this.address, OUT_HEADER.size, length, ranges);
    this.length = length;
    return this.#piped;
  }

  /** Adds a range of a file. False: not all of it could be had; the payload must be made anew, through the buffer. */
  addFile(fd: number, offset: number, length: number): boolean {
    this.#piped = this.#pipe?.add(fd, offset, length) ?? false;
    return this.#piped;
  }

  /** GETXATTR and LISTXATTR with room 0: how many bytes there are. */
  xattrSize(size: number): void {
    this.view.setUint32(XATTR_OUT.length, size, true);
    this.view.setUint32(XATTR_OUT.padding, 0, true);
    this.length = XATTR_OUT.size;
  }

  statfs(stats: {
    readonly blocks: number;
    readonly blocksFree: number;
    readonly blocksAvailable: number;
    readonly files: number;
    readonly filesFree: number;
    readonly blockSize: number;
    readonly nameMax: number;
  }): void {
    this.bytes.fill(0, OUT_HEADER.size, OUT_HEADER.size + STATFS_OUT.size);
    this.#putU64(STATFS_OUT.blocks, stats.blocks);
    this.#putU64(STATFS_OUT.blocksFree, stats.blocksFree);
    this.#putU64(STATFS_OUT.blocksAvailable, stats.blocksAvailable);
    this.#putU64(STATFS_OUT.files, stats.files);
    this.#putU64(STATFS_OUT.filesFree, stats.filesFree);
    this.view.setUint32(STATFS_OUT.blockSize, stats.blockSize, true);
    this.view.setUint32(STATFS_OUT.nameMax, stats.nameMax, true);
    this.view.setUint32(STATFS_OUT.fragmentSize, stats.blockSize, true);
    this.length = STATFS_OUT.size;
  }

  /** Begins a listing of at most `size` bytes, with (`plus`) or without attributes of the entries. */
  beginListing(size: number, plus: boolean): void {
    this.#end = OUT_HEADER.size;
    this.#limit = OUT_HEADER.size + Math.min(size, this.payloadMax);
    this.#plus = plus;
    this.length = 0;
  }

  /** Whether an entry with a name of `nameBytes` still fits. */
  hasRoom(nameBytes: number): boolean {
    return this.#end + (((this.#plus ? ENTRY.size : 0) + DIRENT.size + nameBytes + 7) & ~7) <= this.#limit;
  }

  /**
   * Adds an entry that fits (`hasRoom`). In a plus listing with a node other than 0, `attributes` go with it; with node 0 the kernel
   * only learns the name.
   *
   * @param next  cookie of the entry after this one
   */
  listingEntry(
    ino: number,
    next: number,
    type: number,
    names: Uint8Array,
    nameStart: number,
    nameEnd: number,
    nodeLo: number,
    nodeHi: number,
    attrSeconds: number,
  ): void {
    const bytes = this.bytes;
    const view = this.view;
    let at = this.#end;
    if (this.#plus) {
      if (nodeLo === 0 && nodeHi === 0) bytes.fill(0, at, at + ENTRY.size);
      else this.#putEntry(at, nodeLo, nodeHi, attrSeconds, attrSeconds);
      at += ENTRY.size;
    }
    this.#putU64(at + DIRENT.ino, ino);
    this.#putU64(at + DIRENT.next, next);
    view.setUint32(at + DIRENT.nameLength, nameEnd - nameStart, true);
    view.setUint32(at + DIRENT.type, type, true);
    let to = at + DIRENT.size;
    for (let from = nameStart; from < nameEnd; from++) bytes[to++] = names[from] as number;
    while ((to & 7) !== 0) bytes[to++] = 0;
    this.#end = to;
    this.length = to - OUT_HEADER.size;
  }

  #putEntry(at: number, nodeLo: number, nodeHi: number, entrySeconds: number, attrSeconds: number): void {
    const view = this.view;
    view.setUint32(at + ENTRY.node, nodeLo, true);
    view.setUint32(at + ENTRY.node + 4, nodeHi, true);
    this.#putU64(at + ENTRY.generation, 0);
    this.#putU64(at + ENTRY.entryValid, entrySeconds);
    this.#putU64(at + ENTRY.attrValid, attrSeconds);
    this.#putU64(at + ENTRY.entryValidNsec, 0);
    this.#putAttr(at + ENTRY.attr);
  }

  #putAttr(at: number): void {
    const view = this.view;
    const attributes = this.attributes;
    this.#putU64(at + ATTR.ino, attributes.ino);
    this.#putU64(at + ATTR.bytes, attributes.size);
    this.#putU64(at + ATTR.blocks, Math.ceil(attributes.size / 512));
    for (let time = at + ATTR.atime; time <= at + ATTR.ctime; time += 8) {
      view.setUint32(time, attributes.mtimeLo, true);
      view.setUint32(time + 4, attributes.mtimeHi, true);
    }
    view.setUint32(at + ATTR.atimeNsec, attributes.mtimeNsec, true);
    view.setUint32(at + ATTR.mtimeNsec, attributes.mtimeNsec, true);
    view.setUint32(at + ATTR.ctimeNsec, attributes.mtimeNsec, true);
    view.setUint32(at + ATTR.mode, attributes.mode, true);
    view.setUint32(at + ATTR.nlink, attributes.nlink, true);
    view.setUint32(at + ATTR.uid, attributes.uid, true);
    view.setUint32(at + ATTR.gid, attributes.gid, true);
    view.setUint32(at + ATTR.rdev, attributes.rdev, true);
    view.setUint32(at + ATTR.blockSize, 4096, true);
    view.setUint32(at + ATTR.flags, 0, true);
  }

  #putU64(at: number, value: number): void {
    this.view.setUint32(at, value >>> 0, true);
    this.view.setUint32(at + 4, Math.floor(value / 4294967296), true);
  }

  /**
   * Writes the reply to a request: the payload when `errno` is 0, only the header otherwise. It must go to the descriptor (the same
   * clone) that read the request. Returns what write(2) returned: −1 with ENOENT means the request was given up meanwhile.
   */
  send(device: number, uniqueLo: number, uniqueHi: number, errno: number): number {
    const pipe = this.#piped ? this.#pipe : undefined;
    this.#piped = false;
    if (pipe !== undefined && errno === 0) return pipe.send(device);
    pipe?.close();
    const length = OUT_HEADER.size + (errno === 0 ? this.length : 0);
    this.#putHeader(length, uniqueLo, uniqueHi, errno);
    return rawWrite(device, this.address, length);
  }

  #putHeader(length: number, uniqueLo: number, uniqueHi: number, errno: number): void {
    const view = this.view;
    view.setUint32(OUT_HEADER.length, length, true);
    view.setInt32(OUT_HEADER.error, -errno, true);
    view.setUint32(OUT_HEADER.unique, uniqueLo, true);
    view.setUint32(OUT_HEADER.unique + 4, uniqueHi, true);
  }

  /** Gives back the descriptors that `beginFiles` opened. Twice is harmless. */
  close(): void {
    this.#pipe?.close();
  }
}

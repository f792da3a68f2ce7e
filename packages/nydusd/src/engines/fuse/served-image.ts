import {
  answered,
  EINVAL,
  EIO,
  EISDIR,
  ENODATA,
  ENOTDIR,
  ERANGE,
  type FuseReply,
  type FuseRequest,
  foreverSeconds,
  handedOver,
} from "@nydus-ts/fuse";
import { rawPread, statfs, viewMemory } from "@nydus-ts/linux";
import { Counters, operation } from "./counters.ts";
import { type ImageCursor, openCursor } from "./image-cursor.ts";
import { type BlobView, type ImageView, type Miss, pieceNumbers, type ReadOn } from "./messages.ts";
import { restOfFile } from "./rest-of-file.ts";

const typeMask = 0o170000;
const typeDirectory = 0o040000;
const typeRegular = 0o100000;
const typeSymlink = 0o120000;

/** DT_* by the number of a RAFS directory entry type. */
const direntTypes = Uint8Array.of(0, 8, 4, 2, 6, 1, 12, 10);

/** A listing's cookie is block × this + entry; no block has that many entries. */
const entriesPerBlockMax = 2 ** 21;

/** Numbers shown to users: the images of one mount share a device number, so their inode numbers must not meet. A nid is below 2^40. */
const inoPerImage = 2 ** 40;

/** A layout word that says: the blob's chunk table has not been read yet. */
const layoutUnknown = 0xffff_ffff;
const layoutUnit = 4096;

/** Chunk pieces of one read: 1 MiB of the smallest chunks, and one more when it starts inside of one. */
const piecesMax = 258;

/**
 * A read that takes longer is taken for one of the disk. Not less: a thread that only waited for its processor would bring stand-ins, which
 * cost most on a busy machine (tar of small files there: 15 % slower with 200 µs).
 */
const slowReadUs = 1000;
const slowReadUsPerByte = 1 / 1024;

/** Replies from this size on go without a copy in between. Measured: equal at 16 KiB, a quarter less processor time of the daemon at 64 KiB. */
const pipedBytesMin = 32 * 1024;

export interface ServedImageOptions {
  /** Section of the counters this worker writes. */
  readonly section: number;
  readonly device: number;
  readonly handOver: (miss: Miss) => void;
  readonly slowRead: () => void;
  readonly readOn: (readOn: ReadOn) => void;
}

/**
 * One image in one worker: requests on its nodes. Metadata comes from the mapped bootstrap, data from the cache files of its blobs; what
 * a cache lacks is handed to the main thread. Nothing is allocated on the path of a request that is answered here.
 *
 * A bootstrap is hostile: before bytes of a cache file are handed out, the chunk's place and length are compared with the blob's own
 * verified chunk table, so that no bootstrap can point at bytes that its chunk does not have. Source: spec/nydusd.md 9
 */
export class ServedImage {
  readonly index: number;
  readonly #view: ImageView;
  readonly #cursor: ImageCursor;
  /** For the attributes of directory entries, while #cursor stays at the directory. */
  readonly #entryCursor: ImageCursor;
  readonly #counters: Counters;
  readonly #options: ServedImageOptions;
  // The pieces of the read in progress: see Miss.pieces.
  readonly #pieces = new Float64Array(piecesMax * pieceNumbers);
  #pieceCount = 0;

  /** @throws RafsError when the bootstrap is damaged */
  constructor(view: ImageView, options: ServedImageOptions) {
    this.index = view.index;
    this.#view = view;
    const bytes = viewMemory(view.address, view.length);
    this.#cursor = openCursor(bytes);
    this.#entryCursor = openCursor(bytes);
    this.#counters = new Counters(view.counters, options.section);
    this.#options = options;
  }

  get rootNid(): number {
    return this.#cursor.rootNid;
  }

  /** Inode number shown for a node of this image. */
  inoOf(nid: number): number {
    return this.index * inoPerImage + nid;
  }

  lookup(nid: number, request: FuseRequest, reply: FuseReply): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    if ((cursor.mode & typeMask) !== typeDirectory) return this.#counters.count(operation.lookup, ENOTDIR);
    const child = cursor.find(nid, request.bytes, request.nameStart, request.nameEnd);
    if (child === 0) reply.negativeEntry(foreverSeconds);
    else this.entry(child, reply, foreverSeconds);
    return this.#counters.count(operation.lookup, answered);
  }

  /** A LOOKUP reply for a node. */
  entry(nid: number, reply: FuseReply, entrySeconds: number): void {
    this.#cursor.load(nid);
    this.#setAttributes(this.#cursor, reply);
    reply.entry(lowOf(nid), this.#highOf(nid), entrySeconds, foreverSeconds);
  }

  getattr(nid: number, reply: FuseReply): number {
    this.#cursor.load(nid);
    this.#setAttributes(this.#cursor, reply);
    reply.attr(foreverSeconds);
    return this.#counters.count(operation.getattr, answered);
  }

  readlink(nid: number, reply: FuseReply): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    if ((cursor.mode & typeMask) !== typeSymlink) return this.#counters.count(operation.readlink, EINVAL);
    if (cursor.size >= 4096) return this.#counters.count(operation.readlink, EIO); // the kernel takes one byte less than a page
    for (let block = 0; block < cursor.blockCount; block++) {
      const start = cursor.blockOffset(block);
      reply.append(cursor.bytes, start, start + cursor.blockBytes(block));
    }
    return this.#counters.count(operation.readlink, answered);
  }

  list(nid: number, request: FuseRequest, reply: FuseReply, plus: boolean): number {
    const cursor = this.#cursor;
    const counted = plus ? operation.readdirplus : operation.readdir;
    cursor.load(nid);
    if ((cursor.mode & typeMask) !== typeDirectory) return this.#counters.count(counted, ENOTDIR);
    const offset = request.offset;
    let block = Math.floor(offset / entriesPerBlockMax);
    let index = offset % entriesPerBlockMax;
    reply.beginListing(request.size, plus);
    for (; block < cursor.blockCount; block++, index = 0) {
      cursor.openBlock(block);
      for (; index < cursor.entryCount; index++) {
        cursor.entry(index);
        if (!reply.hasRoom(cursor.entryNameEnd - cursor.entryNameStart)) return this.#counters.count(counted, answered);
        const last = index + 1 === cursor.entryCount;
        const next = last ? (block + 1) * entriesPerBlockMax : block * entriesPerBlockMax + index + 1;
        this.#addEntry(reply, plus, next);
      }
    }
    return this.#counters.count(counted, answered);
  }

  #addEntry(reply: FuseReply, plus: boolean, next: number): void {
    const cursor = this.#cursor;
    const nid = cursor.entryNid;
    const start = cursor.entryNameStart;
    const end = cursor.entryNameEnd;
    let type = direntTypes[cursor.entryType] ?? 0;
    let known = plus && !isDot(cursor.entryBytes, start, end);
    if (known) {
      try {
        this.#entryCursor.load(nid);
        this.#setAttributes(this.#entryCursor, reply);
        type = (this.#entryCursor.mode & typeMask) >>> 12;
      } catch {
        known = false; // a damaged inode spoils its own lookup, not the listing of its directory
      }
    }
    const high = known ? this.#highOf(nid) : 0;
    reply.listingEntry(this.inoOf(nid), next, type, cursor.entryBytes, start, end, known ? lowOf(nid) : 0, high, foreverSeconds);
  }

  getxattr(nid: number, request: FuseRequest, reply: FuseReply): number {
    const errno = this.#getxattr(nid, request, reply);
    return this.#counters.count(operation.getxattr, errno);
  }

  // ENODATA, not ENOSYS, for an image without attributes: the kernel would stop asking for all images of the mount.
  #getxattr(nid: number, request: FuseRequest, reply: FuseReply): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    if (!this.#view.xattr || cursor.xattrBytes === 0) return ENODATA;
    if (!cursor.findXattr(request.bytes, request.xattrNameStart, request.nameEnd)) return ENODATA;
    const size = cursor.xattrValueEnd - cursor.xattrValueStart;
    if (request.xattrRoom === 0) reply.xattrSize(size);
    else if (size > request.xattrRoom) return ERANGE;
    else reply.data(cursor.bytes, cursor.xattrValueStart, cursor.xattrValueEnd);
    return answered;
  }

  listxattr(nid: number, request: FuseRequest, reply: FuseReply): number {
    const errno = this.#listxattr(nid, request, reply);
    return this.#counters.count(operation.listxattr, errno);
  }

  #listxattr(nid: number, request: FuseRequest, reply: FuseReply): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    let size = 0;
    if (this.#view.xattr)
      while (cursor.nextXattr()) size += cursor.xattrPrefixBytes.length + cursor.xattrSuffixEnd - cursor.xattrSuffixStart + 1;
    const room = request.xattrRoom;
    if (room === 0) {
      reply.xattrSize(size);
      return answered;
    }
    if (size > room || size > reply.payloadMax) return ERANGE;
    if (size === 0) return answered;
    cursor.rewindXattrs();
    while (cursor.nextXattr()) {
      reply.append(cursor.xattrPrefixBytes, 0, cursor.xattrPrefixBytes.length);
      reply.append(cursor.bytes, cursor.xattrSuffixStart, cursor.xattrSuffixEnd);
      reply.append(zero, 0, 1);
    }
    return answered;
  }

  /** The disk that holds the cache, so that capacity and free space mean something to who watches it. */
  statfs(reply: FuseReply): number {
    const blob = this.#view.blobs[0];
    if (blob === undefined) reply.statfs(emptyStats);
    else {
      const stats = statfs(blob.dataFd);
      const scale = stats.blockSize / 4096;
      reply.statfs({
        blocks: Math.floor(stats.blocks * scale),
        blocksFree: Math.floor(stats.blocksFree * scale),
        blocksAvailable: Math.floor(stats.blocksAvailable * scale),
        files: stats.files,
        filesFree: stats.filesFree,
        blockSize: 4096,
        nameMax: 255,
      });
    }
    return this.#counters.count(operation.statfs, answered);
  }

  read(nid: number, request: FuseRequest, reply: FuseReply): number {
    const began = performance.now();
    const result = this.#read(nid, request, reply);
    if (result === answered) {
      const tookUs = (performance.now() - began) * 1000;
      this.#counters.countRead(reply.length, tookUs);
      if (tookUs > slowReadUs + reply.length * slowReadUsPerByte) this.#options.slowRead();
    } else if (result !== handedOver) this.#counters.countFailedRead();
    return result;
  }

  #read(nid: number, request: FuseRequest, reply: FuseReply): number {
    const cursor = this.#cursor;
    cursor.load(nid);
    const type = cursor.mode & typeMask;
    if (type !== typeRegular) return type === typeDirectory ? EISDIR : EINVAL;
    const offset = request.offset;
    if (offset >= cursor.size) return answered;
    const length = Math.min(request.size, cursor.size - offset);
    if (length > reply.payloadMax) return EINVAL;
    const state = this.#locate(offset, length);
    if (state === "damaged") return EIO;
    if (state === "absent") return this.#miss(request, offset, length);
    return this.#answer(request, reply, length);
  }

  /** Finds the pieces of a file range and whether all of them can be read here and now. */
  #locate(offset: number, length: number): "ready" | "absent" | "damaged" {
    const cursor = this.#cursor;
    const pieces = this.#pieces;
    let state: "ready" | "absent" = "ready";
    let count = 0;
    let remaining = length;
    let at = offset;
    while (remaining > 0) {
      if (count === piecesMax) return "damaged";
      const chunk = Math.floor(at / cursor.chunkSize);
      const within = at - chunk * cursor.chunkSize;
      const wanted = Math.min(remaining, cursor.chunkSize - within);
      cursor.chunk(chunk);
      const start = cursor.chunkBlock * cursor.blockSize;
      const blob = this.#view.blobs[cursor.chunkBlob];
      if (blob === undefined) return "damaged";
      const verdict = judgeChunk(blob, cursor.chunkIndex, start, within + wanted);
      if (verdict === "damaged") return "damaged";
      if (verdict === "absent") state = "absent";
      else if (!blob.direct && touch(blob, cursor.chunkIndex))
        this.#options.readOn({ index: this.index, blob: cursor.chunkBlob, chunk: cursor.chunkIndex });
      const piece = count * pieceNumbers;
      pieces[piece] = cursor.chunkBlob;
      pieces[piece + 1] = cursor.chunkIndex;
      pieces[piece + 2] = start;
      pieces[piece + 3] = within;
      pieces[piece + 4] = wanted;
      count++;
      at += wanted;
      remaining -= wanted;
    }
    this.#pieceCount = count;
    return state;
  }

  /** Large replies take their pages from the cache files by themselves; small ones, and what that fails for, go through the buffer. */
  #answer(request: FuseRequest, reply: FuseReply, length: number): number {
    if (length >= pipedBytesMin && reply.beginFiles(request, length, this.#pieceCount) && this.#move(reply, false)) return answered;
    reply.length = length;
    return this.#move(reply, true) ? answered : EIO;
  }

  #move(reply: FuseReply, copy: boolean): boolean {
    const pieces = this.#pieces;
    let to = reply.address + reply.payloadStart;
    for (let piece = 0; piece < this.#pieceCount; ) {
      // Neighbours in the same cache file are one read.
      const first = piece * pieceNumbers;
      const blob = pieces[first] as number;
      const start = (pieces[first + 2] as number) + (pieces[first + 3] as number);
      let bytes = pieces[first + 4] as number;
      for (piece++; piece < this.#pieceCount; piece++) {
        const at = piece * pieceNumbers;
        if (pieces[at] !== blob || (pieces[at + 2] as number) + (pieces[at + 3] as number) !== start + bytes) break;
        bytes += pieces[at + 4] as number;
      }
      const { dataFd } = this.#view.blobs[blob] as BlobView;
      if (copy ? rawPread(dataFd, to, bytes, start) !== bytes : !reply.addFile(dataFd, start, bytes)) return false;
      to += bytes;
    }
    return true;
  }

  #miss(request: FuseRequest, fileOffset: number, length: number): number {
    this.#options.handOver({
      uniqueLo: request.uniqueLo,
      uniqueHi: request.uniqueHi,
      nodeLo: request.nodeLo,
      nodeHi: request.nodeHi,
      pid: request.pid,
      index: this.index,
      device: this.#options.device,
      fileOffset,
      length,
      pieces: Array.from(this.#pieces.subarray(0, this.#pieceCount * pieceNumbers)),
      rest: restOfFile(this.#cursor, this.#view.blobs),
      sinceMs: Date.now(),
    });
    return handedOver;
  }

  #setAttributes(cursor: ImageCursor, reply: FuseReply): void {
    const { attributes } = reply;
    const { owner } = this.#view;
    attributes.ino = this.inoOf(cursor.nid);
    attributes.size = cursor.size;
    attributes.mode = cursor.mode;
    attributes.nlink = cursor.nlink;
    attributes.uid = owner === undefined ? cursor.uid : owner.uid;
    attributes.gid = owner === undefined ? cursor.gid : owner.gid;
    attributes.rdev = cursor.rdev;
    attributes.mtimeLo = cursor.mtimeLo;
    attributes.mtimeHi = cursor.mtimeHi;
    attributes.mtimeNsec = cursor.mtimeNsec;
  }

  #highOf(nid: number): number {
    return ((this.index << 24) | Math.floor(nid / 4294967296)) >>> 0;
  }
}

const zero = Uint8Array.of(0);
const emptyStats = { blocks: 0, blocksFree: 0, blocksAvailable: 0, files: 0, filesFree: 0, blockSize: 4096, nameMax: 255 };
const lowOf = (nid: number): number => nid >>> 0;

function isDot(bytes: Uint8Array, start: number, end: number): boolean {
  const length = end - start;
  return length <= 2 && bytes[start] === 0x2e && (length === 1 || bytes[start + 1] === 0x2e);
}

/**
 * Whether the first `needed` bytes of a chunk, which the bootstrap says lies at byte `start` of the blob, may be read from the cache.
 * `absent` also when the blob's chunk table is not known yet, so that place and length can not be judged.
 */
export function judgeChunk(blob: BlobView, chunk: number, start: number, needed: number): "ready" | "absent" | "damaged" {
  if (blob.direct) return "ready";
  if (chunk >= blob.chunkCount) return "damaged";
  const place = blob.layout[2 * chunk] as number;
  if (place === layoutUnknown) return "absent";
  // The word is the block: v5 blobs are not aligned, and their places were compared with what is recorded when the image was mounted.
  if (place !== Math.floor(start / layoutUnit) || needed > (blob.layout[2 * chunk + 1] as number)) return "damaged";
  return ((blob.ready[chunk >> 5] as number) & (1 << (chunk & 31))) !== 0 ? "ready" : "absent";
}

/** The first read of a chunk; later ones only look. @returns whether it is to be reported */
function touch(blob: BlobView, chunk: number): boolean {
  const bit = 1 << (chunk & 31);
  if (((blob.touched[chunk >> 5] as number) & bit) !== 0 || (Atomics.or(blob.touched, chunk >> 5, bit) & bit) !== 0) return false;
  return ((blob.asked[chunk >> 5] as number) & bit) !== 0;
}

import type { BlobRecord } from "../blob-record.ts";
import type { ChunkRecord } from "../bootstrap.ts";
import { blobFeatures, type Compressor, ciphers, compressors, type Digester, digesters } from "../constants.ts";
import { RafsError } from "../errors.ts";
import { depthMax, nameBytesMax, symlinkBytesMax } from "../limits.ts";
import { components, printable } from "../walk.ts";
import { blobEntry } from "./blob-entry.ts";
import { writeBootstrap } from "./bootstrap.ts";
import { writeBootstrapV5 } from "./bootstrap-v5.ts";
import { type BlobEntry, newBlobEntry, numberTree, type StoredChunk, TreeNode } from "./tree.ts";

/** One name of an image to be built. An `Inode` that was read fits in: `{ path, ...inode, xattrs, chunks }`. */
export interface BuildEntry {
  /** Absolute; bytes where it is not UTF-8. `/` first, a directory before what lies in it. */
  readonly path: string | Uint8Array;
  /** st_mode with the type bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, signed. */
  readonly mtime: number | bigint;
  readonly mtimeNsec: number;
  /** Of a regular file; of others it follows from what they are. */
  readonly size: number;
  /** Of char and block devices. */
  readonly rdev?: number;
  /** Of a symlink. */
  readonly target?: Uint8Array;
  /** By full name, its bytes as latin1. */
  readonly xattrs?: ReadonlyMap<string, Uint8Array>;
  /** Of a regular file: one for each `chunkSize` bytes, in order. */
  readonly chunks?: readonly ChunkRecord[];
  /** Path of an earlier entry: this one is another name of its inode, and only `path` is taken from it. */
  readonly linkTo?: string | Uint8Array;
}

/** A blob as the image's table shall name it; what is left out is 0, "none" or that of the image. */
export type BuildBlob = Pick<BlobRecord, "id" | "chunkCount" | "compressedSize" | "uncompressedSize"> & Partial<BlobRecord>;

export interface BuildOptions {
  readonly version: 5 | 6;
  readonly chunkSize: number;
  readonly compressor: Compressor;
  readonly digester: Digester;
  /** Chunks name them by index. */
  readonly blobs: readonly BuildBlob[];
  /** Paths of what is to be read first. */
  readonly prefetch: readonly (string | Uint8Array)[];
}

/**
 * Writes a bootstrap from entries as they come. Memory is about 500 bytes a name and the bootstrap; equal entries and options give
 * equal bytes.
 *
 * @throws RafsError RAFS_DIRECTORY (a path twice, before its directory, too deep, or no path of the format), RAFS_INODE, RAFS_SYMLINK,
 *   RAFS_XATTR, RAFS_CHUNK, RAFS_BLOB_TABLE; what the iterator throws
 */
export async function buildBootstrap(
  entries: AsyncIterable<BuildEntry> | Iterable<BuildEntry>,
  options: BuildOptions,
): Promise<Uint8Array> {
  const builder = new TreeBuilder(options);
  for await (const entry of entries) builder.add(entry);
  return builder.write();
}

class TreeBuilder {
  readonly #options: BuildOptions;
  readonly #blobs: readonly BlobEntry[];
  readonly #chunks = new Map<string, StoredChunk>();
  #root: TreeNode | undefined;
  #hasXattr = false;

  constructor(options: BuildOptions) {
    this.#options = options;
    this.#blobs = options.blobs.map((blob) => this.#blob(blob));
  }

  add(entry: BuildEntry): void {
    const names = [...components(entry.path)];
    const name = names.pop();
    if (name === undefined) {
      if (this.#root !== undefined) throw refused("RAFS_DIRECTORY", entry, "the root comes twice");
      this.#root = this.#node("", entry);
      if (!this.#root.isDirectory) throw refused("RAFS_DIRECTORY", entry, "the root is no directory");
      return;
    }
    const text = latin1(name);
    if (name.length > nameBytesMax || name.includes(0) || text === "." || text === "..")
      throw refused("RAFS_DIRECTORY", entry, `its name must have 1 to ${nameBytesMax} bytes, no NUL, and be no dot entry`);
    if (names.length >= depthMax) throw refused("RAFS_DIRECTORY", entry, `more than ${depthMax} levels`);
    const children = this.#find(names)?.children;
    if (children === undefined) throw refused("RAFS_DIRECTORY", entry, "its directory has not come before it");
    if (children.has(text)) throw refused("RAFS_DIRECTORY", entry, "the path comes twice");
    children.set(text, entry.linkTo === undefined ? this.#node(text, entry) : this.#link(text, entry, entry.linkTo));
  }

  write(): Uint8Array {
    if (this.#root === undefined) throw new RafsError("RAFS_DIRECTORY", "no entry is the root, /");
    const { version, chunkSize, compressor, digester } = this.#options;
    const prefetch = this.#options.prefetch.map((path) => {
      const node = this.#find(components(path));
      if (node === undefined) throw new RafsError("RAFS_DIRECTORY", `${printable(Buffer.from(path))} is to be prefetched and not there`);
      return node;
    });
    const options = {
      root: this.#root,
      nodeCount: numberTree(this.#root).length,
      blobs: this.#blobs,
      chunkSize,
      compressor: compressors.indexOf(compressor),
      digester: digesters.indexOf(digester),
      cipher: Math.max(0, ...this.#blobs.map(({ cipher }) => cipher)),
      explicitUidGid: true,
      hasXattr: this.#hasXattr,
      prefetch,
    };
    return version === 5 ? writeBootstrapV5(options) : writeBootstrap(options);
  }

  #node(name: string, entry: BuildEntry): TreeNode {
    const { mode, uid, gid, mtimeNsec, target } = entry;
    const mtime = Number(entry.mtime);
    const inRange = Number.isSafeInteger(mtime) && isUint(mtimeNsec, 999_999_999) && isUint(uid, 2 ** 32 - 1) && isUint(gid, 2 ** 32 - 1);
    if (!inRange || !isUint(mode, 0xffff) || !isUint(entry.size, Number.MAX_SAFE_INTEGER))
      throw refused("RAFS_INODE", entry, "mode, owner, time or size is out of range");
    const node = new TreeNode(name, { mode, uid, gid, size: 0, mtime, mtimeNsec, rdev: 0 });
    if (node.isRegular) this.#addChunks(node, entry);
    else if (node.isSymlink) {
      if (target === undefined || target.length === 0 || target.length > symlinkBytesMax || target.includes(0))
        throw refused("RAFS_SYMLINK", entry, `its target must have 1 to ${symlinkBytesMax} bytes and no NUL`);
      node.target = target;
      node.size = target.length;
    } else if (node.isDevice) node.rdev = entry.rdev ?? 0;
    if (entry.xattrs !== undefined && entry.xattrs.size > 0) {
      node.xattrs = new Map(entry.xattrs);
      this.#hasXattr = true;
    }
    return node;
  }

  #addChunks(node: TreeNode, entry: BuildEntry): void {
    const chunks = entry.chunks ?? [];
    const count = Math.ceil(entry.size / this.#options.chunkSize);
    if (chunks.length !== count) throw refused("RAFS_CHUNK", entry, `${entry.size} bytes are ${count} chunks, it has ${chunks.length}`);
    node.size = entry.size;
    node.chunks = chunks.map((record) => this.#chunk(record, entry));
  }

  /** Records of one chunk become one object. */
  #chunk(record: ChunkRecord, entry: BuildEntry): StoredChunk {
    const key = `${record.blobIndex}:${record.chunkIndex}:${record.uncompressedOffset}`;
    const known = this.#chunks.get(key);
    if (known !== undefined) return known;
    const blob = this.#blobs[record.blobIndex];
    if (blob === undefined || record.chunkIndex >= blob.chunkCount)
      throw refused("RAFS_CHUNK", entry, `chunk ${record.chunkIndex} of blob ${record.blobIndex} is none of the image`);
    if (this.#options.version === 6 && record.uncompressedOffset % 4096 !== 0)
      throw refused("RAFS_CHUNK", entry, `a chunk at ${record.uncompressedOffset}: v6 needs multiples of 4096`);
    const stored = { ...record, blob, index: record.chunkIndex, crc32: record.crc32c };
    this.#chunks.set(key, stored);
    return stored;
  }

  #link(name: string, entry: BuildEntry, to: string | Uint8Array): TreeNode {
    const first = this.#find(components(to));
    if (first === undefined || first.isDirectory)
      throw refused("RAFS_DIRECTORY", entry, "it links to a directory, or to what has not come");
    first.link ??= { hardlink: true };
    const node = new TreeNode(name, first);
    Object.assign(node, { link: first.link, target: first.target, xattrs: first.xattrs, chunks: first.chunks });
    first.isNamedHardlink = true;
    node.isNamedHardlink = true;
    return node;
  }

  #find(names: Iterable<Uint8Array>): TreeNode | undefined {
    let node = this.#root;
    for (const name of names) node = node?.children?.get(latin1(name));
    return node;
  }

  #blob(given: BuildBlob): BlobEntry {
    const { chunkSize, compressor, digester, version } = this.#options;
    const features = version === 6 ? blobFeatures.aligned : 0;
    const fresh = newBlobEntry({ id: given.id, chunkSize, compressor: 0, digester: 0, features });
    const known = { compressor, digester, ciCompressor: "none", cipher: ciphers[0], tocDigest: undefined, metaDigest: undefined } as const;
    const unknown = { cipherKey: undefined, cipherIv: undefined, prefetchSize: 0, index: 0 };
    return blobEntry({ ...fresh, ...known, ...unknown, ...given });
  }
}

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");

const isUint = (value: number, max: number): boolean => Number.isSafeInteger(value) && value >= 0 && value <= max;

function refused(code: "RAFS_DIRECTORY" | "RAFS_INODE" | "RAFS_SYMLINK" | "RAFS_CHUNK", { path }: BuildEntry, why: string): RafsError {
  return new RafsError(code, `${printable(Buffer.from(path))}: ${why}`);
}

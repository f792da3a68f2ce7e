import { modeTypeMask, modeTypes } from "../constants.ts";

/**
 * The tree a bootstrap is written from. Names, xattr names and link targets are byte strings: a `string` here holds one byte per
 * code unit (latin1), so that `<` on names is the byte order which the format demands, and nothing is lost for names that are not UTF-8.
 */

/** A blob as a row of the blob table. Field meanings: spec/rafs.md, section 2.5. Its index is its position in the list it is written from. */
export interface BlobEntry {
  id: string;
  chunkSize: number;
  chunkCount: number;
  compressor: number;
  digester: number;
  features: number;
  compressedSize: number;
  uncompressedSize: number;
  ciCompressor: number;
  ciOffset: number;
  ciCompressedSize: number;
  ciUncompressedSize: number;
  tocSize: number;
  tocDigest: Uint8Array;
  metaDigest: Uint8Array;
  metaSize: number;
  cipher: number;
  cipherIv: Uint8Array;
  /** stored bytes at the start of the blob that belong to files on the prefetch list; only v5 records it */
  prefetchBytes?: number;
}

/** The record of a blob to which nothing was written yet: sizes, counts and digests are zero, it is not encrypted. */
export function newBlobEntry(given: Pick<BlobEntry, "id" | "chunkSize" | "compressor" | "digester" | "features">): BlobEntry {
  return {
    ...given,
    chunkCount: 0,
    compressedSize: 0,
    uncompressedSize: 0,
    ciCompressor: 0,
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
    tocSize: 0,
    tocDigest: new Uint8Array(32),
    metaDigest: new Uint8Array(32),
    metaSize: 0,
    cipher: 0,
    cipherIv: new Uint8Array(16),
  };
}

/** Several small chunks that are stored as one item. Source: spec/rafs.md, section 5.4 */
export interface Batch {
  /** its number within the blob */
  index: number;
  storedOffset: number;
  storedSize: number;
  /** bytes of its members, back to back */
  plainSize: number;
}

/** A chunk of a blob. Files that share it hold the same object, so what the ordered writer fills in later is seen by all of them. */
export interface StoredChunk {
  readonly digest: Uint8Array;
  blob: BlobEntry;
  index: number;
  flags: number;
  compressedOffset: number;
  compressedSize: number;
  uncompressedOffset: number;
  uncompressedSize: number;
  crc32: number;
  /** where the chunk lies, if it is not stored alone; its own stored offset and size are then 0 */
  place?: { batch: Batch; offset: number } | undefined;
}

/** Names of one inode share a link: that is what makes them hardlinks. */
export interface HardlinkIdentity {
  readonly hardlink: true;
}

/** What a source knows about an inode. */
export interface NodeAttributes {
  mode: number;
  uid: number;
  gid: number;
  size: number;
  /** seconds, may be negative */
  mtime: number;
  mtimeNsec: number;
  /** low 32 bits of the Linux dev_t; what is no device has 0, or what the source says, which only v5 records */
  rdev: number;
}

/** Of nodes that are no directories: one list for millions of them. */
const noNodes: readonly TreeNode[] = [];

/** One name in the tree. `ino`, `nlink` and the placement fields are set by `numberTree` and `placeTree`, anew for every bootstrap. */
export class TreeNode {
  name: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  mtimeNsec: number;
  rdev: number;
  /** target of a symbolic link */
  target: Uint8Array | undefined = undefined;
  xattrs: Map<string, Uint8Array> | undefined = undefined;
  chunks: StoredChunk[] = [];
  readonly children: Map<string, TreeNode> | undefined;
  link: HardlinkIdentity | undefined = undefined;
  /** an archive said that this name is a hardlink, or that another is one of it; only v5 records it */
  isNamedHardlink = false;
  /** a directory that the source did not name, made because something lies in it: a layer below knows better what it looks like */
  implicit = false;

  /** builder's inode number: position in numbering order, or that of the first name of a hardlinked inode */
  ino = 0;
  nlink = 1;
  sorted: readonly TreeNode[] = noNodes;
  offset = 0;
  dataOffset = 0;
  inline = false;
  /** offset of the bootstrap's inode area; together with `offset` it gives the nid */
  nid = 0;

  constructor(name: string, attributes: NodeAttributes) {
    this.name = name;
    this.mode = attributes.mode;
    this.uid = attributes.uid;
    this.gid = attributes.gid;
    this.size = attributes.size;
    this.mtime = attributes.mtime;
    this.mtimeNsec = attributes.mtimeNsec;
    this.rdev = attributes.rdev;
    this.children = this.isDirectory ? new Map() : undefined;
  }

  get isDirectory(): boolean {
    return (this.mode & modeTypeMask) === modeTypes.dir;
  }
  get isRegular(): boolean {
    return (this.mode & modeTypeMask) === modeTypes.file;
  }
  get isSymlink(): boolean {
    return (this.mode & modeTypeMask) === modeTypes.symlink;
  }
  get isDevice(): boolean {
    const type = this.mode & modeTypeMask;
    return type === modeTypes.char || type === modeTypes.block;
  }
}

/** Calls `visit` for every directory: a directory before its subdirectories, these in byte order, depth first. Needs `numberTree` first. */
export function forEachDirectory(root: TreeNode, visit: (directory: TreeNode, parent: TreeNode) => void): void {
  const pending: Array<[TreeNode, TreeNode]> = [[root, root]];
  for (let next = pending.pop(); next; next = pending.pop()) {
    const [directory, parent] = next;
    visit(directory, parent);
    for (let i = directory.sorted.length - 1; i >= 0; i--) {
      const child = directory.sorted[i];
      if (child.isDirectory) pending.push([child, directory]);
    }
  }
}

function byName(a: TreeNode, b: TreeNode): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

/**
 * Numbers the tree: siblings get consecutive numbers, then each subdirectory in turn, depth first. Link counts come from the names inside
 * the tree, never from the source. Returns all nodes in numbering order, the root first.
 * Source: spec/nydus-image.md, section 9.1
 */
export function numberTree(root: TreeNode): TreeNode[] {
  const names = new Map<HardlinkIdentity, TreeNode[]>();
  const order: TreeNode[] = [root];
  root.ino = 1;
  const pending: TreeNode[] = [root];
  for (let directory = pending.pop(); directory; directory = pending.pop()) {
    directory.sorted = [...directory.children!.values()].sort(byName);
    const subdirectories: TreeNode[] = [];
    for (const child of directory.sorted) {
      order.push(child);
      child.ino = order.length;
      child.nlink = 1;
      if (child.isDirectory) subdirectories.push(child);
      else if (child.link) joinLink(names, child);
    }
    directory.nlink = 2 + subdirectories.length;
    for (let i = subdirectories.length - 1; i >= 0; i--) pending.push(subdirectories[i]);
  }
  return order;
}

function joinLink(names: Map<HardlinkIdentity, TreeNode[]>, node: TreeNode): void {
  const same = names.get(node.link!);
  if (!same) {
    names.set(node.link!, [node]);
    return;
  }
  same.push(node);
  node.ino = same[0].ino;
  for (const name of same) name.nlink = same.length;
}

/**
 * Where inodes and directory data lie in a v6 bootstrap. Inodes that end in a short tail keep it beside them in one block ("inline"),
 * and the free end of a block is remembered and used again, first come first served. Source: spec/nydus-image.md, sections 9.3 and 9.4.
 */
import { inodeSlotSize } from "../constants.ts";
import { DIRENT, INODE_EXTENDED } from "../records/v6.ts";
import { forEachDirectory, type TreeNode } from "./tree.ts";
import { xattrAreaBytes } from "./xattrs.ts";

const slotBytes = inodeSlotSize;
/** Every inode is written in its extended form. Source: section 9.6 */
export const inodeBytes = INODE_EXTENDED.recordSize;

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** Bytes of a directory's entries, the two dot entries included, none of them crossing a block. The subject must be numbered. */
export function directoryBytes(directory: TreeNode, blockSize: number): number {
  let size = 0;
  for (const name of entryNames(directory)) {
    const bytes = DIRENT.recordSize + name.length;
    if ((size % blockSize) + bytes > blockSize) size = roundUp(size, blockSize);
    size += bytes;
  }
  return size;
}

/** Names of a directory in byte order, `.` and `..` at their sorted places. */
function* entryNames(directory: TreeNode): Iterable<string> {
  const dots = [".", ".."];
  for (const child of directory.sorted) {
    while (dots.length > 0 && dots[0] < child.name) yield dots.shift()!;
    yield child.name;
  }
  yield* dots;
}

class BlockAllocator {
  readonly blockSize: number;
  end: number;
  /** queue k holds blocks with k free slots at their end */
  readonly #free: Array<{ blocks: number[]; head: number }>;

  constructor(blockSize: number) {
    this.blockSize = blockSize;
    this.end = 4096;
    this.#free = Array.from({ length: blockSize / slotBytes + 1 }, () => ({ blocks: [], head: 0 }));
  }

  /** Remembers what is free between `offset` and the end of its block. */
  remember(offset: number): void {
    const used = offset % this.blockSize;
    if (used !== 0) this.#free[Math.floor((this.blockSize - used) / slotBytes)].blocks.push(offset - used);
  }

  take(bytes: number): number | undefined {
    if (bytes >= this.blockSize) return undefined;
    const slots = Math.ceil(bytes / slotBytes);
    for (let k = slots; k < this.blockSize / slotBytes; k++) {
      const queue = this.#free[k];
      if (queue.head === queue.blocks.length) continue;
      const offset = queue.blocks[queue.head++] + this.blockSize - slotBytes * k;
      if (queue.head === queue.blocks.length) {
        queue.blocks = [];
        queue.head = 0;
      }
      this.remember(offset + slotBytes * slots);
      return offset;
    }
    return undefined;
  }

  append(bytes: number): number {
    const offset = this.end;
    this.end += bytes;
    return offset;
  }

  align(unit: number): void {
    this.end = roundUp(this.end, unit);
  }
}

/**
 * Gives every node its `offset` (and `dataOffset`, `inline` where it has data of its own) in a bootstrap whose inode area starts at
 * offset 0; the first block of it stays unused, so the root lands at 4096. Sets the size of directories.
 * The tree must be numbered.
 */
export function placeTree(root: TreeNode, options: { blockSize: number; chunkSize: number }): void {
  const space = new BlockAllocator(options.blockSize);
  const links = new Map<unknown, TreeNode>();
  forEachDirectory(root, (directory) => {
    directory.size = directoryBytes(directory, options.blockSize);
    placeWithTail(space, directory);
    for (const child of directory.sorted) {
      if (child.isDirectory) continue;
      if (child.isSymlink) placeWithTail(space, child);
      else if (child.isRegular) placeRegular(space, child, links, options.chunkSize);
      else {
        child.offset = space.append(inodeBytes + xattrAreaBytes(child.xattrs));
        space.align(slotBytes);
      }
    }
  });
}

function placeRegular(space: BlockAllocator, node: TreeNode, links: Map<unknown, TreeNode>, chunkSize: number): void {
  const first = node.link && links.get(node.link);
  if (first) {
    node.offset = first.offset;
  } else {
    if (node.link) links.set(node.link, node);
    const bytes = roundUp(inodeBytes + xattrAreaBytes(node.xattrs), 8) + 8 * Math.ceil(node.size / chunkSize);
    node.offset = space.take(bytes) ?? space.append(bytes);
  }
  space.align(slotBytes);
}

function placeWithTail(space: BlockAllocator, node: TreeNode): void {
  const { blockSize } = space;
  const inode = inodeBytes + xattrAreaBytes(node.xattrs);
  const tail = node.size % blockSize;
  node.inline = tail !== 0 && inode + tail <= blockSize;
  if (node.inline) {
    const taken = space.take(inode + tail);
    if (taken === undefined) {
      if (blockSize - (space.end % blockSize) < inode + tail) {
        space.remember(space.end);
        space.align(blockSize);
      }
      node.offset = space.append(inode + tail);
    } else {
      node.offset = taken;
    }
    if (node.size !== tail) {
      space.remember(space.end);
      space.align(blockSize);
    }
    node.dataOffset = space.append(node.size - tail);
  } else {
    node.offset = space.take(inode) ?? space.append(inode);
    space.remember(space.end);
    space.align(blockSize);
    node.dataOffset = space.append(node.size);
    space.align(blockSize);
  }
  space.align(slotBytes);
}

import { answered, ENOENT, type FuseReply, type FuseRequest } from "@nydus-ts/fuse";
import type { PseudoNode } from "./virtual-tree.ts";

interface Directory {
  readonly node: PseudoNode;
  readonly nameBytes: Uint8Array;
  readonly children: Directory[];
}

const directoryMode = 0o040777;
const directoryType = 4; // DT_DIR

/**
 * A worker's side of the virtual tree. Nothing here may be remembered by the kernel (timeouts of 0): images come and go, and a name
 * that was absent may be mounted the next moment.
 */
export class PseudoDirectories {
  readonly #byIno = new Map<number, Directory>();

  /** Takes the tree as it is now. */
  replace(nodes: readonly PseudoNode[]): void {
    this.#byIno.clear();
    for (const node of nodes) this.#byIno.set(node.ino, { node, nameBytes: Buffer.from(node.name), children: [] });
    for (const directory of this.#byIno.values()) this.#byIno.get(directory.node.parent)?.children.push(directory);
  }

  /** Index of the image mounted at a directory; 0 for none. */
  imageAt(ino: number): number {
    return this.#byIno.get(ino)?.node.image ?? 0;
  }

  /** The child of that name, or undefined. @throws nothing; an unknown parent has no children */
  child(parent: number, name: Uint8Array, start: number, end: number): PseudoNode | undefined {
    const children = this.#byIno.get(parent)?.children ?? [];
    return children.find(({ nameBytes }) => equals(nameBytes, name, start, end))?.node;
  }

  setAttributes(ino: number, reply: FuseReply): number {
    const directory = this.#byIno.get(ino);
    if (directory === undefined) return ENOENT;
    const { attributes } = reply;
    attributes.ino = ino;
    attributes.size = 0;
    attributes.mode = directoryMode;
    attributes.nlink = 2 + directory.children.length;
    attributes.uid = 0;
    attributes.gid = 0;
    attributes.rdev = 0;
    attributes.mtimeLo = directory.node.changedSeconds;
    attributes.mtimeHi = 0;
    attributes.mtimeNsec = 0;
    return answered;
  }

  /** READDIR and READDIRPLUS: names only; the kernel looks the entries up when it needs them. `inoOf` gives the number shown for a child. */
  list(ino: number, request: FuseRequest, reply: FuseReply, plus: boolean, inoOf: (child: PseudoNode) => number): number {
    const directory = this.#byIno.get(ino);
    if (directory === undefined) return ENOENT;
    reply.beginListing(request.size, plus);
    for (let next = request.offset; next < directory.children.length; next++) {
      const { node, nameBytes } = directory.children[next] as Directory;
      if (!reply.hasRoom(nameBytes.length)) break;
      reply.listingEntry(inoOf(node), next + 1, directoryType, nameBytes, 0, nameBytes.length, 0, 0, 0);
    }
    return answered;
  }
}

function equals(a: Uint8Array, b: Uint8Array, start: number, end: number): boolean {
  if (a.length !== end - start) return false;
  for (let at = 0; at < a.length; at++) if (a[at] !== b[start + at]) return false;
  return true;
}

import type { Bootstrap, DirectoryEntry, WalkEntry } from "./bootstrap.ts";
import { RafsError } from "./errors.ts";
import { depthMax, walkDirectoriesMax } from "./limits.ts";

/** What a walk reads. Each call can be repeated. */
export interface WalkedTree extends Pick<Bootstrap, "inode" | "rootNid"> {
  /** Blocks of entries that a directory has; 0 of all else is a RAFS_DIRECTORY. */
  directoryBlocks(nid: number): number;
  /** Entries of one block in stored order, without `.` and `..`. */
  entriesOf(nid: number, block: number): DirectoryEntry[];
  /** @throws RafsError RAFS_DIRECTORY unless directory `nid` names `parent` as the directory that holds it (the root: itself) */
  checkParent(nid: number, parent: number): void;
}

interface Level {
  readonly nid: number;
  readonly path: Uint8Array;
  readonly blocks: number;
  /** Directories met here so far: two names of one are found by this, two parents of one by `checkParent`. */
  readonly directories: Set<number>;
  block: number;
  entries: readonly DirectoryEntry[];
  at: number;
}

/**
 * A walk as `Bootstrap.walk` says, one name a call. Each directory names its parent, so none can be reached through two of them, and
 * a walk ends after at most as many names as fit into the file. It holds the directories on the path and one block of each, whatever
 * the size of the image.
 *
 * `next` changes nothing before all that it reads is there: a call that threw can be made again.
 */
export class TreeWalk {
  readonly #tree: WalkedTree;
  readonly #levels: Level[] = [];
  #started = false;
  /** A directory that was given out and is entered by the next call. */
  #entering: { readonly nid: number; readonly parent: number; readonly path: Uint8Array } | undefined;
  /** Sum of `directories` over all levels. */
  #remembered = 0;

  constructor(tree: WalkedTree) {
    this.#tree = tree;
  }

  /** @throws RafsError RAFS_DIRECTORY, RAFS_INODE, … what the format forbids, where it is met */
  next(): WalkEntry | undefined {
    if (!this.#started) return this.#start();
    if (this.#entering !== undefined) this.#enter(this.#entering);
    for (let level = this.#levels.at(-1); level !== undefined; level = this.#levels.at(-1)) {
      const entry = level.entries[level.at];
      if (entry !== undefined) return this.#give(level, entry);
      if (level.block + 1 < level.blocks) {
        level.entries = this.#tree.entriesOf(level.nid, level.block + 1);
        level.block++;
        level.at = 0;
        continue;
      }
      this.#remembered -= level.directories.size;
      this.#levels.pop();
    }
    return undefined;
  }

  #start(): WalkEntry {
    const nid = this.#tree.rootNid;
    const path = new Uint8Array([0x2f]);
    const inode = this.#tree.inode(nid);
    this.#started = true;
    this.#entering = { nid, parent: nid, path };
    return { path, nid, inode };
  }

  #enter({ nid, parent, path }: { nid: number; parent: number; path: Uint8Array }): void {
    if (this.#levels.length >= depthMax) throw new RafsError("RAFS_DIRECTORY", `more than ${depthMax} levels at ${printable(path)}`);
    this.#tree.checkParent(nid, parent);
    const blocks = this.#tree.directoryBlocks(nid);
    const entries = this.#tree.entriesOf(nid, 0);
    this.#levels.push({ nid, path, blocks, directories: new Set(), block: 0, entries, at: 0 });
    this.#entering = undefined;
  }

  #give(level: Level, { name, nid, type }: DirectoryEntry): WalkEntry {
    const path = joinPath(level.path, name);
    const inode = this.#tree.inode(nid);
    if (inode.type !== type) throw new RafsError("RAFS_DIRECTORY", `${printable(path)} is listed as ${type}, its inode is a ${inode.type}`);
    if (inode.type === "dir") {
      if (level.directories.has(nid) || nid === this.#tree.rootNid)
        throw new RafsError("RAFS_DIRECTORY", `directory ${nid} is reached a second time, at ${printable(path)}`);
      if (this.#remembered >= walkDirectoriesMax)
        throw new RafsError("RAFS_DIRECTORY", `more than ${walkDirectoriesMax} directories beside those on the path ${printable(path)}`);
      level.directories.add(nid);
      this.#remembered++;
      this.#entering = { nid, parent: level.nid, path };
    }
    level.at++;
    return { path, nid, inode };
  }
}

/** Walks a tree whose bytes are all in memory. */
export function* walkTree(tree: WalkedTree): Generator<WalkEntry, void> {
  const walk = new TreeWalk(tree);
  for (let entry = walk.next(); entry !== undefined; entry = walk.next()) yield entry;
}

/** nid of an absolute path, component by component. */
export function resolvePath(bootstrap: Pick<Bootstrap, "inode" | "lookup" | "rootNid">, path: string | Uint8Array): number | undefined {
  let nid = bootstrap.rootNid;
  for (const name of components(path)) {
    const child = bootstrap.inode(nid).type === "dir" ? bootstrap.lookup(nid, name) : undefined;
    if (child === undefined) return undefined;
    nid = child;
  }
  return nid;
}

/** Names of an absolute path; empty ones don't count. */
export function* components(path: string | Uint8Array): Generator<Uint8Array, void> {
  const bytes = typeof path === "string" ? Buffer.from(path) : path;
  for (let start = 0; start < bytes.length; ) {
    const slash = bytes.indexOf(0x2f, start);
    const end = slash < 0 ? bytes.length : slash;
    if (end > start) yield bytes.subarray(start, end);
    start = end + 1;
  }
}

function joinPath(parent: Uint8Array, name: Uint8Array): Uint8Array {
  const atRoot = parent.length === 1;
  const path = new Uint8Array((atRoot ? 0 : parent.length) + 1 + name.length);
  if (!atRoot) path.set(parent);
  path[path.length - name.length - 1] = 0x2f;
  path.set(name, path.length - name.length);
  return path;
}

/** A path for messages: JSON text, at most 200 bytes of it. */
export function printable(path: Uint8Array): string {
  const text = Buffer.from(path.subarray(0, 200)).toString("utf8");
  return JSON.stringify(path.length > 200 ? text + "…" : text);
}

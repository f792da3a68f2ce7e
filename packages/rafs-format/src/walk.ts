import type { Bootstrap, DirectoryEntry, WalkEntry } from "./bootstrap.ts";
import { RafsError } from "./errors.ts";
import { depthMax } from "./limits.ts";

interface Level {
  readonly path: Uint8Array;
  readonly entries: Iterator<DirectoryEntry>;
}

/**
 * Walks a bootstrap as `Bootstrap.walk` says. Each directory is entered once, so the walk ends after at most as many names as fit
 * into the file, whatever the image says.
 *
 * @param enter  checks a directory before it is read (dot entries of v6)
 */
export function* walkTree(
  bootstrap: Pick<Bootstrap, "inode" | "readDir" | "rootNid">,
  enter: (nid: number, parent: number) => void,
): Generator<WalkEntry, void> {
  const entered = new Set<number>();
  const levels: Level[] = [];
  const open = (nid: number, parent: number, path: Uint8Array): void => {
    if (entered.has(nid)) throw new RafsError("RAFS_DIRECTORY", `directory ${nid} is reached a second time, at ${printable(path)}`);
    if (levels.length >= depthMax) throw new RafsError("RAFS_DIRECTORY", `more than ${depthMax} levels at ${printable(path)}`);
    entered.add(nid);
    enter(nid, parent);
    levels.push({ path, entries: bootstrap.readDir(nid) });
  };
  const root = bootstrap.rootNid;
  const rootPath = Buffer.from("/");
  yield { path: rootPath, nid: root, inode: bootstrap.inode(root) };
  open(root, root, rootPath);
  const nids = [root];
  for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
    const next = level.entries.next();
    if (next.done === true) {
      levels.pop();
      nids.pop();
      continue;
    }
    const { name, nid, type } = next.value;
    const path = joinPath(level.path, name);
    const inode = bootstrap.inode(nid);
    if (inode.type !== type) throw new RafsError("RAFS_DIRECTORY", `${printable(path)} is listed as ${type}, its inode is a ${inode.type}`);
    yield { path, nid, inode };
    if (inode.type === "dir") {
      open(nid, nids.at(-1) as number, path);
      nids.push(nid);
    }
  }
}

/** nid of an absolute path, component by component. */
export function resolvePath(bootstrap: Pick<Bootstrap, "inode" | "lookup" | "rootNid">, path: string | Uint8Array): number | undefined {
  const bytes = typeof path === "string" ? Buffer.from(path) : path;
  let nid = bootstrap.rootNid;
  let start = 0;
  while (start < bytes.length) {
    const slash = bytes.indexOf(0x2f, start);
    const end = slash < 0 ? bytes.length : slash;
    if (end > start) {
      if (bootstrap.inode(nid).type !== "dir") return undefined;
      const child = bootstrap.lookup(nid, bytes.subarray(start, end));
      if (child === undefined) return undefined;
      nid = child;
    }
    start = end + 1;
  }
  return nid;
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

/** A directory tree as the source of an image. Source: spec/nydus-image.md, section 6.1 */
import { lstatSync, readdirSync, readlinkSync } from "node:fs";
import { type HardlinkIdentity, splitXattrName, TreeNode } from "@nydus-ts/rafs-format/writer";
import { BuilderError, describeFailure } from "../errors.ts";
import { linkTargetBytesMax, pathDepthMax } from "../limits.ts";
import { type WhiteoutSpec, whiteoutOf } from "../whiteouts.ts";

/** Reads all xattrs of a path without following links; a file system without xattrs has none. The builder makes no system calls of its own. */
export type XattrReader = (path: Buffer) => Map<string, Uint8Array>;

export interface DirectoryOptions {
  path: string;
  readXattrs: XattrReader;
  explicitUidGid: boolean;
  /** names that are whiteouts under this rule are left out: there is no lower layer they could act on */
  dropWhiteouts: WhiteoutSpec;
}

export interface DirectoryTree {
  root: TreeNode;
  entryCount: number;
}

/** Told of every regular file with data, in the order of `numberTree`; the scan waits for it. A path has one byte per code unit. */
export type FileVisitor = (node: TreeNode, path: string) => Promise<void> | undefined | void;

/**
 * Scans without following links. File data is not read.
 * @throws BuilderError BUILD_SOURCE, BUILD_XATTR, BUILD_LIMIT; what `visit` throws, as BUILD_SOURCE if it is no BuilderError
 */
export async function scanDirectory(options: DirectoryOptions, visit: FileVisitor): Promise<DirectoryTree> {
  const scan = new DirectoryScan(options, visit);
  return await describeFailure("BUILD_SOURCE", `can not read ${options.path}`, async () => await scan.run());
}

class DirectoryScan {
  readonly #options: DirectoryOptions;
  readonly #visit: FileVisitor;
  readonly #links = new Map<string, HardlinkIdentity>();
  #entryCount = 0;

  constructor(options: DirectoryOptions, visit: FileVisitor) {
    this.#options = options;
    this.#visit = visit;
  }

  async run(): Promise<DirectoryTree> {
    const top = Buffer.from(this.#options.path.replace(/\/+$/, "") || "/").toString("latin1");
    const root = this.#node("", top);
    // The directory's own time is the time of unpacking it, which says nothing about the image. Source: 6.1
    root.mtime = 0;
    root.mtimeNsec = 0;
    const pending: Array<{ node: TreeNode; path: string; depth: number }> = [{ node: root, path: top, depth: 0 }];
    for (let next = pending.pop(); next; next = pending.pop()) {
      const { node: directory, path, depth } = next;
      if (depth > pathDepthMax)
        throw new BuilderError("BUILD_LIMIT", `${printable(path)} is nested deeper than ${pathDepthMax} directories`);
      const names = readdirSync(Buffer.from(path, "latin1"), { encoding: "latin1" }).sort();
      const subdirectories: typeof pending = [];
      for (const name of names) {
        const childPath = `${path}/${name}`;
        const child = this.#node(name, childPath);
        this.#entryCount++;
        const whiteout = whiteoutOf(child, this.#options.dropWhiteouts);
        if (whiteout && whiteout.kind !== "opaque") continue;
        directory.children!.set(name, child);
        if (child.isDirectory) subdirectories.push({ node: child, path: childPath, depth: depth + 1 });
        else if (child.isRegular && child.size > 0) await this.#visit(child, childPath);
      }
      pending.push(...subdirectories.reverse());
    }
    return { root, entryCount: this.#entryCount };
  }

  #node(name: string, path: string): TreeNode {
    const bytes = Buffer.from(path, "latin1");
    const found = lstatSync(bytes, { bigint: true });
    const owned = this.#options.explicitUidGid;
    const node = new TreeNode(name, {
      mode: Number(found.mode),
      uid: owned ? Number(found.uid) : 0,
      gid: owned ? Number(found.gid) : 0,
      size: found.isDirectory() ? 0 : Number(found.size),
      mtime: Math.floor(Number(found.mtimeNs / 1_000_000_000n) - (found.mtimeNs < 0n && found.mtimeNs % 1_000_000_000n !== 0n ? 1 : 0)),
      mtimeNsec: Number(((found.mtimeNs % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n),
      rdev: Number(found.rdev & 0xffffffffn),
    });
    if (node.isSymlink) {
      node.target = readlinkSync(bytes, { encoding: "buffer" });
      node.size = node.target.length;
      if (node.size > linkTargetBytesMax)
        throw new BuilderError("BUILD_LIMIT", `the link ${printable(path)} points to more than ${linkTargetBytesMax} bytes`);
    }
    if (!node.isDirectory && found.nlink > 1n) node.link = this.#linkOf(`${found.dev}:${found.ino}`);
    const xattrs = this.#options.readXattrs(bytes);
    if (xattrs.size > 0) {
      checkXattrs(xattrs, path);
      node.xattrs = xattrs;
    }
    return node;
  }

  #linkOf(key: string): HardlinkIdentity {
    let link = this.#links.get(key);
    if (!link) {
      link = { hardlink: true };
      this.#links.set(key, link);
    }
    return link;
  }
}

/** @throws BuilderError BUILD_XATTR naming the file */
export function checkXattrs(xattrs: ReadonlyMap<string, Uint8Array>, path: string): void {
  for (const [name, value] of xattrs) {
    const split = splitXattrName(name);
    if (!split) {
      throw new BuilderError(
        "BUILD_XATTR",
        `${printable(path)} has the xattr ${printable(name)}: RAFS stores only user., trusted., security. and POSIX ACLs`,
      );
    }
    if (split.suffix.length > 255 || value.length > 65535) {
      throw new BuilderError(
        "BUILD_XATTR",
        `the xattr ${printable(name)} of ${printable(path)} is too big: at most 255 bytes of name and 65535 of value`,
      );
    }
  }
}

/** A path for messages: UTF-8 where it is, escaped where a terminal could be hurt. */
export function printable(path: string): string {
  return JSON.stringify(Buffer.from(path, "latin1").toString()).slice(1, -1);
}

/** A tar stream as the source of an image: data of each file is stored as it comes by. Source: spec/nydus-image.md, section 6.3 */
import { modeTypes } from "@nydus-ts/rafs-format";
import { TreeNode } from "@nydus-ts/rafs-format/writer";
import { BuilderError } from "../errors.ts";
import { followedPathBytesMax, linksFollowedMax, linkTargetBytesMax, nameBytesMax, pathDepthMax } from "../limits.ts";
import type { TarInput } from "./byte-stream.ts";
import { type ChunkSink, roomForChunks } from "./chunk-sink.ts";
import { checkXattrs, printable } from "./directory.ts";
import { FileInput } from "./file-input.ts";
import { readTar, type TarKind, type TarMember } from "./tar-reader.ts";

export interface TarOptions {
  /** the archive, plain; it is closed */
  input: TarInput;
  explicitUidGid: boolean;
  chunkSize: number;
}

/** What a member is, without its data. */
export type MemberHeader = Omit<TarMember, "read">;

export interface TarTree {
  root: TreeNode;
  entryCount: number;
}

const typeOfKind = {
  file: modeTypes.file,
  hardlink: modeTypes.file,
  symlink: modeTypes.symlink,
  char: modeTypes.char,
  block: modeTypes.block,
  directory: modeTypes.dir,
  fifo: modeTypes.fifo,
} as const satisfies Record<TarKind, number>;

/** What the original records as device number of all that is no device; only v5 has a place for it. Source: spec/nydus-image.md, section 6.3 */
const noDevice = 0xffffffff;

/** Files that eStargz adds to a layer for its own use. */
const skipped = new Set(["stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"]);

/**
 * Reads the archive to its end, storing file data in stream order. Whiteouts stay in the tree as ordinary files: merging acts on them.
 * @throws BuilderError BUILD_TAR, BUILD_XATTR, BUILD_LIMIT, BUILD_UNSUPPORTED
 */
export async function readTarTree(options: TarOptions, sink: ChunkSink): Promise<TarTree> {
  const tree = new TarTreeBuilder(options);
  try {
    for await (const member of readTar(options.input)) {
      const node = tree.add(member);
      if (!node || member.kind !== "file") continue;
      const place = options.input instanceof FileInput && node.size > 0 ? options.input.next(node.size) : undefined;
      if (place && sink.addFile) await sink.addFile(place, node);
      else await storeMember(member, node, options.chunkSize, sink);
    }
    await sink.settle?.();
  } finally {
    await options.input.close();
  }
  return { root: tree.root, entryCount: tree.entryCount };
}

async function storeMember(member: TarMember, node: TreeNode, chunkSize: number, sink: ChunkSink): Promise<void> {
  const { size } = node;
  const chunks = roomForChunks(node, chunkSize);
  for (let offset = 0; offset < size; offset += chunkSize) {
    const data = await sink.allocate(Math.min(chunkSize, size - offset));
    await member.read(data);
    await sink.add(data, { chunks, index: offset / chunkSize, isWholeFile: size <= chunkSize });
  }
}

/** False for members that are not part of an image. @throws BuilderError BUILD_LIMIT, BUILD_TAR: no image can hold the name */
export function isPartOfImage(name: string): boolean {
  return isNamed(components(name), name);
}

function isNamed(names: readonly string[], name: string): boolean {
  if (names.length === 1 && skipped.has(names[0])) return false;
  // Such a member stands for nothing that could be named: containerd ignores it.
  return names.length > 0 || !name.split("/").includes("..");
}

/** A tree from the members of an archive, in their order: the later one wins, parents that are not named are made. */
export class TarTreeBuilder {
  root = implicitDirectory("");
  entryCount = 0;
  readonly #options: { explicitUidGid: boolean };

  constructor(options: { explicitUidGid: boolean }) {
    this.#options = options;
  }

  /** Puts a member into the tree; undefined for members that are not part of the image. */
  add(member: MemberHeader): TreeNode | undefined {
    const names = components(member.name);
    if (!isNamed(names, member.name)) return undefined;
    this.entryCount++;
    const name = names.pop();
    if (name === undefined) {
      if (member.kind !== "directory") throw new BuilderError("BUILD_TAR", `the root of the tar is a ${member.kind}`);
      this.root = replaceDirectory(this.root, this.#node("", member));
      return this.root;
    }
    const parent = this.#directory(names, member.name);
    const node = member.kind === "hardlink" ? this.#hardlink(name, member) : this.#node(name, member);
    const old = parent.children!.get(name);
    parent.children!.set(name, old ? replaceDirectory(old, node) : node);
    return node;
  }

  eachFile(visit: (node: TreeNode) => void): void {
    const pending = [this.root];
    for (let directory = pending.pop(); directory; directory = pending.pop()) {
      for (const child of directory.children!.values()) {
        if (child.isDirectory) pending.push(child);
        else if (child.isRegular) visit(child);
      }
    }
  }

  #node(name: string, member: MemberHeader): TreeNode {
    const isDevice = member.kind === "char" || member.kind === "block";
    const node = new TreeNode(name, {
      mode: typeOfKind[member.kind] | member.mode,
      uid: this.#owner(member.uid, "uid", member.name),
      gid: this.#owner(member.gid, "gid", member.name),
      size: member.kind === "file" ? member.size : 0,
      mtime: member.mtime,
      mtimeNsec: member.mtimeNsec,
      rdev: isDevice || member.kind === "fifo" ? makeDevice(member.deviceMajor, member.deviceMinor) : noDevice,
    });
    if (member.size < 0) throw new BuilderError("BUILD_TAR", `${printable(member.name)} has a negative size`);
    if (member.kind === "symlink") {
      if (member.linkName.length === 0 || member.linkName.length > linkTargetBytesMax) {
        throw new BuilderError(
          "BUILD_LIMIT",
          `the link ${printable(member.name)} has a target of ${member.linkName.length} bytes; 1 to ${linkTargetBytesMax} can be stored`,
        );
      }
      if (member.linkName.includes("\0"))
        throw new BuilderError("BUILD_TAR", `the target of the link ${printable(member.name)} contains a NUL byte`);
      node.target = Buffer.from(member.linkName, "latin1");
      node.size = node.target.length;
    }
    if (member.xattrs) {
      checkXattrs(member.xattrs, member.name);
      node.xattrs = member.xattrs;
    }
    return node;
  }

  #owner(id: number, what: string, name: string): number {
    if (!this.#options.explicitUidGid) return 0;
    if (id < 0 || id > 0xffffffff)
      throw new BuilderError("BUILD_LIMIT", `${printable(name)} has the ${what} ${id}, which has more than 32 bits`);
    return id;
  }

  #hardlink(name: string, member: MemberHeader): TreeNode {
    const target = this.#find(member.linkName);
    if (!target)
      throw new BuilderError("BUILD_TAR", `tarball: unknown target ${printable(member.linkName)} for hardlink ${printable(member.name)}`);
    if (target.isDirectory)
      throw new BuilderError(
        "BUILD_TAR",
        `tarball: target ${printable(member.linkName)} for hardlink ${printable(member.name)} is a directory`,
      );
    const node = this.#node(name, { ...member, kind: "file", size: target.size, xattrs: undefined });
    node.mode = (target.isRegular ? node.mode & 0o7777 : 0) | (target.isRegular ? modeTypes.file : target.mode);
    node.rdev = target.rdev;
    node.target = target.target;
    node.xattrs = target.xattrs;
    node.chunks = target.chunks;
    target.isNamedHardlink = true;
    node.isNamedHardlink = true;
    target.link ??= { hardlink: true };
    node.link = target.link;
    return node;
  }

  /** What a hard link links to. Links on the way are followed; a symbolic link at the end is itself the target, as in containerd. */
  #find(path: string): TreeNode | undefined {
    const names = components(path);
    const last = names.pop();
    let node: TreeNode | undefined = this.root;
    for (const name of this.#followLinks(names, path)) node = node?.children?.get(name);
    return last === undefined ? node : node?.children?.get(last);
  }

  /** The directory of a path, made with its parents where the archive does not say. */
  #directory(names: readonly string[], path: string): TreeNode {
    if (names.length > pathDepthMax)
      throw new BuilderError("BUILD_LIMIT", `${printable(path)} is nested deeper than ${pathDepthMax} directories`);
    let directory = this.root;
    for (const name of names) {
      let child = directory.children!.get(name);
      if (child?.isSymlink) return this.#directory(this.#followLinks(names, path), path);
      if (child === undefined) {
        child = implicitDirectory(name);
        directory.children!.set(name, child);
      } else if (!child.isDirectory)
        throw new BuilderError("BUILD_TAR", `${printable(path)} lies below ${printable(name)}, which is no directory`);
      directory = child;
    }
    return directory;
  }

  /**
   * Names from the root without symbolic links on their way. A link leads where it leads inside the image, `..` of its target taken as it is
   * written, and may lead to what is not there yet: so containerd puts the members of a layer (continuity, fs.RootPath). A link of a lower
   * layer is not known here; a directory hides it, as with containerd's overlayfs, where each layer is unpacked by itself.
   */
  #followLinks(names: readonly string[], path: string): readonly string[] {
    let left = names;
    for (let links = 0; links <= linksFollowedMax; links++) {
      const at = this.#firstLink(left);
      if (at === undefined) return left;
      const target = Buffer.from(at.node.target!).toString("latin1");
      const before = target.startsWith("/") ? [] : left.slice(0, at.index);
      const next = [...before, target, ...left.slice(at.index + 1)].join("/");
      if (next.length > followedPathBytesMax)
        throw new BuilderError(
          "BUILD_LIMIT",
          `${printable(path)} leads through symbolic links to a path of more than ${followedPathBytesMax} bytes`,
        );
      left = components(next);
    }
    throw new BuilderError("BUILD_TAR", `${printable(path)} leads through more than ${linksFollowedMax} symbolic links`);
  }

  #firstLink(names: readonly string[]): { index: number; node: TreeNode } | undefined {
    let node: TreeNode | undefined = this.root;
    for (let index = 0; index < names.length && node !== undefined; index++) {
      node = node.children?.get(names[index]!);
      if (node?.isSymlink) return { index, node };
    }
    return undefined;
  }
}

function implicitDirectory(name: string): TreeNode {
  const directory = new TreeNode(name, { mode: modeTypes.dir | 0o755, uid: 0, gid: 0, size: 0, mtime: 0, mtimeNsec: 0, rdev: noDevice });
  directory.implicit = true;
  return directory;
}

/** The later entry wins; if both are directories the children stay. */
function replaceDirectory(old: TreeNode, node: TreeNode): TreeNode {
  if (old.children && node.children) for (const [name, child] of old.children) node.children.set(name, child);
  return node;
}

/**
 * Names of a path from the root of the image; `.` and empty ones mean nothing. `..` takes the name before it away and never leads above the
 * root, as in containerd, which cleans a path before it joins it to the root (core/archive/tar.go, applyNaive).
 */
function components(path: string): string[] {
  const names: string[] = [];
  for (const name of path.split("/")) {
    if (name.length > nameBytesMax)
      throw new BuilderError("BUILD_LIMIT", `a name in ${printable(path)} is longer than ${nameBytesMax} bytes`);
    if (name.includes("\0")) throw new BuilderError("BUILD_TAR", `a name in ${printable(path)} contains a NUL byte`);
    if (name === "..") names.pop();
    else if (name !== "" && name !== ".") names.push(name);
  }
  return names;
}

/** Low 32 bits of the Linux dev_t. Source: makedev(3) */
function makeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

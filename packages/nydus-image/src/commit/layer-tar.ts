/** What a container wrote, as the tar of an OCI layer. Sources: spec/nydusify.md, section 9, steps 8 and 9; Linux, Documentation/filesystems/overlayfs.rst */
import { type BigIntStats, createReadStream, lstatSync, readdirSync, readlinkSync } from "node:fs";
import { NydusImageError } from "../errors.ts";
import { encodeTarEntry, type TarEntry, tarEnd, tarPadding } from "../tar-writer.ts";
import { readXattrs } from "../xattrs.ts";

/** All paths are of one byte per code unit, absolute, without a slash at the end. */
export interface UpperOptions {
  upper: string;
  /** root of the container as it sees it, for what the upper directory only points to */
  merged: string;
  /** paths that are left as they were */
  excluded: readonly string[];
  /** paths that come whole, in layers of their own: what the image has there goes */
  replaced: readonly string[];
}

/** Deletions and opaque directories become OCI's whiteouts; order and bytes follow from the directory alone. */
export async function* upperTar(options: UpperOptions): AsyncGenerator<Buffer> {
  const walk = new Walk();
  yield* walk.overlay(options, "");
  for (const path of options.replaced) yield whiteout(path);
  yield tarEnd;
}

/** Everything at a path of the container, whatever is mounted there. */
export async function* pathTar(merged: string, path: string): AsyncGenerator<Buffer> {
  refuseLinks(merged, path);
  const walk = new Walk();
  // Directories above it are the image's; a tar that does not name them leaves them alone.
  yield* walk.plain(`${merged}${path}`, path);
  yield tarEnd;
}

/** A link of the container's would be followed on this machine. Nothing changes while it stands still. */
function refuseLinks(merged: string, path: string): void {
  const names = path.split("/").slice(1);
  for (let i = 1; i <= names.length; i++) {
    const part = `/${names.slice(0, i).join("/")}`;
    let found: BigIntStats;
    try {
      found = stat(`${merged}${part}`);
    } catch (cause) {
      throw new NydusImageError("IMAGE_ARGUMENT", `--with-path ${printable(path)}: ${printable(part)} is not there in the container`, {
        cause,
      });
    }
    if (found.isSymbolicLink())
      throw new NydusImageError(
        "IMAGE_ARGUMENT",
        `--with-path ${printable(path)}: ${printable(part)} is a link; give the path that it points to`,
      );
  }
}

const overlayXattr = /^(?:trusted|user)\.overlay\./;

class Walk {
  /** first names of inodes with several */
  readonly #first = new Map<string, string>();

  async *overlay(options: UpperOptions, path: string): AsyncGenerator<Buffer> {
    const { upper, merged, excluded, replaced } = options;
    for (const name of namesIn(`${upper}${path}`)) {
      const own = `${path}/${name}`;
      if (excluded.includes(own) || replaced.includes(own)) continue;
      const source = `${upper}${own}`;
      const found = stat(source);
      const xattrs = readXattrs(bytes(source));
      const marked = (what: string) =>
        [...xattrs].find(([key]) => key === `trusted.overlay.${what}` || key === `user.overlay.${what}`)?.[1];
      if ((found.isCharacterDevice() && found.rdev === 0n) || (found.isFile() && marked("whiteout"))) {
        yield whiteout(own);
      } else if (!found.isDirectory()) {
        // Of a file whose data stayed below, the upper directory has a stub.
        yield* this.#entry(own, marked("metacopy") ? `${merged}${own}` : source, found, xattrs);
      } else {
        yield* this.#entry(own, source, found, xattrs);
        const isMoved = marked("redirect") !== undefined;
        if (isMoved || Buffer.from(marked("opaque") ?? []).toString() === "y") yield whiteout(`${own}/.wh..opq`);
        // A directory that was moved holds what lies elsewhere below: the container's own view has all of it.
        if (isMoved) for (const child of namesIn(`${merged}${own}`)) yield* this.plain(`${merged}${own}/${child}`, `${own}/${child}`);
        else yield* this.overlay(options, own);
      }
    }
  }

  async *plain(source: string, path: string): AsyncGenerator<Buffer> {
    const found = stat(source);
    yield* this.#entry(path, source, found, readXattrs(bytes(source)));
    if (found.isDirectory()) for (const name of namesIn(source)) yield* this.plain(`${source}/${name}`, `${path}/${name}`);
  }

  async *#entry(path: string, source: string, found: BigIntStats, xattrs: ReadonlyMap<string, Uint8Array>): AsyncGenerator<Buffer> {
    const type = typeOf(found);
    if (type === undefined) return; // a socket is of no use without the process that made it
    const key = `${found.dev}:${found.ino}`;
    const first = !found.isDirectory() && found.nlink > 1n ? this.#first.get(key) : undefined;
    if (first === undefined) this.#first.set(key, path);
    const size = type === "0" && first === undefined ? Number(found.size) : 0;
    yield encodeTarEntry({
      name: path.slice(1),
      type: first === undefined ? type : "1",
      mode: Number(found.mode) & 0o7777,
      uid: Number(found.uid),
      gid: Number(found.gid),
      mtime: found.mtimeNs / 1_000_000_000n,
      size,
      linkName: first ?? (type === "2" ? readlinkSync(bytes(source), { encoding: "buffer" }).toString("latin1") : ""),
      rdev: Number(found.rdev & 0xffffffffn),
      xattrs: new Map([...xattrs].filter(([name]) => !overlayXattr.test(name))),
    });
    if (size === 0) return;
    let left = size;
    for await (const piece of createReadStream(bytes(source), { end: size - 1, highWaterMark: 1024 * 1024 })) {
      left -= (piece as Buffer).length;
      yield piece as Buffer;
    }
    if (left > 0) throw new NydusImageError("IMAGE_SOURCE", `${printable(path)} of the container became shorter while it was read`);
    yield tarPadding(size);
  }
}

/** `.wh.NAME` beside what is taken away; `.wh..wh..opq` in a directory of which nothing below counts. */
function whiteout(path: string): Buffer {
  const slash = path.lastIndexOf("/");
  const name = `${path.slice(1, slash + 1)}.wh.${path.slice(slash + 1)}`;
  return encodeTarEntry({ name, type: "0", mode: 0, uid: 0, gid: 0, mtime: 0n, size: 0, linkName: "", rdev: 0, xattrs: new Map() });
}

function typeOf(found: BigIntStats): TarEntry["type"] | undefined {
  if (found.isFile()) return "0";
  if (found.isSymbolicLink()) return "2";
  if (found.isCharacterDevice()) return "3";
  if (found.isBlockDevice()) return "4";
  if (found.isDirectory()) return "5";
  return found.isFIFO() ? "6" : undefined;
}

const bytes = (path: string): Buffer => Buffer.from(path, "latin1");
const stat = (path: string): BigIntStats => lstatSync(bytes(path), { bigint: true });
const namesIn = (path: string): string[] =>
  readdirSync(bytes(path), { encoding: "buffer" })
    .map((name) => name.toString("latin1"))
    .sort();
const printable = (path: string): string => JSON.stringify(Buffer.from(path, "latin1").toString());

/** Extended attributes of a v6 inode, stored behind it. Source: spec/rafs.md, section 2.10 */
import { RafsError } from "../errors.ts";

const headerBytes = 12;
const entryBytes = 4;

/** EROFS name prefixes. Source: Linux fs/erofs/erofs_fs.h, EROFS_XATTR_INDEX_*. The two ACL names are whole names: nothing follows them. */
const prefixes = [
  { index: 1, prefix: "user.", whole: false },
  { index: 2, prefix: "system.posix_acl_access", whole: true },
  { index: 3, prefix: "system.posix_acl_default", whole: true },
  { index: 4, prefix: "trusted.", whole: false },
  { index: 6, prefix: "security.", whole: false },
] as const;

/** Prefix number and rest of an xattr name, or undefined if RAFS has no way to store that name. */
export function splitXattrName(name: string): { index: number; suffix: string } | undefined {
  for (const { index, prefix, whole } of prefixes) {
    if (whole ? name === prefix : name.startsWith(prefix)) return { index, suffix: name.slice(prefix.length) };
  }
  return undefined;
}

/** Bytes of the xattr area of an inode: 0 without xattrs. */
export function xattrAreaBytes(xattrs: ReadonlyMap<string, Uint8Array> | undefined): number {
  if (!xattrs || xattrs.size === 0) return 0;
  let bytes = headerBytes;
  for (const [name, value] of xattrs) bytes += entrySpace(suffixOf(name).suffix.length, value.length);
  return bytes;
}

function entrySpace(suffixBytes: number, valueBytes: number): number {
  return (entryBytes + suffixBytes + valueBytes + 3) & ~3;
}

function suffixOf(name: string): { index: number; suffix: string } {
  const split = splitXattrName(name);
  if (!split)
    throw new RafsError(
      "RAFS_XATTR",
      `xattr name ${JSON.stringify(name)} can not be stored: RAFS knows user., trusted., security. and the two POSIX ACL names`,
    );
  return split;
}

/** Writes the area at `offset`, sorted by full name: the original's order is random, ours is the same for the same input. */
export function writeXattrs(out: Buffer, offset: number, xattrs: ReadonlyMap<string, Uint8Array>): void {
  let at = offset + headerBytes;
  for (const name of [...xattrs.keys()].sort()) {
    const { index, suffix } = suffixOf(name);
    const value = xattrs.get(name)!;
    if (suffix.length > 255 || value.length > 65535) {
      throw new RafsError(
        "RAFS_XATTR",
        `xattr ${JSON.stringify(name)} is too big: at most 255 bytes of name and 65535 bytes of value can be stored`,
      );
    }
    out[at] = suffix.length;
    out[at + 1] = index;
    out.writeUInt16LE(value.length, at + 2);
    out.write(suffix, at + entryBytes, "latin1");
    out.set(value, at + entryBytes + suffix.length);
    at += entrySpace(suffix.length, value.length);
  }
}

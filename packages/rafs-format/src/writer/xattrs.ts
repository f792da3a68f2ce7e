/** Extended attributes of a v6 inode, stored behind it. Source: spec/rafs.md, section 2.10 */
import { xattrPrefixes } from "../constants.ts";
import { RafsError } from "../errors.ts";
import { XATTR_ENTRY, XATTR_HEADER } from "../records/v6.ts";

/** The ACL prefixes are whole names: nothing follows them. */
const wholeNames = new Set(["system.posix_acl_access", "system.posix_acl_default"]);

/** Prefix number and rest of an xattr name, or undefined if RAFS has no way to store that name. */
export function splitXattrName(name: string): { index: number; suffix: string } | undefined {
  for (const [index, prefix] of xattrPrefixes.entries()) {
    if (prefix === undefined) continue;
    if (wholeNames.has(prefix) ? name === prefix : name.startsWith(prefix)) return { index, suffix: name.slice(prefix.length) };
  }
  return undefined;
}

/**
 * Bytes of the xattr area of an inode: 0 without xattrs.
 * @throws RafsError RAFS_XATTR: a name or value that the format can not hold
 */
export function xattrAreaBytes(xattrs: ReadonlyMap<string, Uint8Array> | undefined): number {
  if (!xattrs || xattrs.size === 0) return 0;
  let bytes = XATTR_HEADER.recordSize;
  for (const [name, value] of xattrs) bytes += entryBytes(storedName(name, value).suffix.length, value.length);
  return bytes;
}

function entryBytes(suffixBytes: number, valueBytes: number): number {
  return (XATTR_ENTRY.recordSize + suffixBytes + valueBytes + 3) & ~3;
}

function storedName(name: string, value: Uint8Array): { index: number; suffix: string } {
  const split = splitXattrName(name);
  if (!split) {
    throw new RafsError(
      "RAFS_XATTR",
      `xattr ${JSON.stringify(name)}: RAFS stores only user., trusted., security. and the two POSIX ACL names`,
    );
  }
  if (split.suffix.length > 255 || value.length > 65535) {
    throw new RafsError("RAFS_XATTR", `xattr ${JSON.stringify(name)}: at most 255 bytes of name and 65535 bytes of value can be stored`);
  }
  return split;
}

/** Writes the area at `offset`, sorted by full name: the original's order is random, ours is the same for the same input. */
export function writeXattrs(out: Buffer, offset: number, xattrs: ReadonlyMap<string, Uint8Array>): void {
  let at = offset + XATTR_HEADER.recordSize;
  for (const name of [...xattrs.keys()].sort()) {
    const value = xattrs.get(name)!;
    const { index, suffix } = storedName(name, value);
    out[at + XATTR_ENTRY.nameLength] = suffix.length;
    out[at + XATTR_ENTRY.prefix] = index;
    out.writeUInt16LE(value.length, at + XATTR_ENTRY.valueSize);
    out.write(suffix, at + XATTR_ENTRY.recordSize, "latin1");
    out.set(value, at + XATTR_ENTRY.recordSize + suffix.length);
    at += entryBytes(suffix.length, value.length);
  }
}

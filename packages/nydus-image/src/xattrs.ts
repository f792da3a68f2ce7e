import { lgetxattr, llistxattr } from "@nydus-ts/linux";

/** All xattrs of a path, links not followed; names are one byte per code unit. */
export function readXattrs(path: Buffer): Map<string, Uint8Array> {
  const xattrs = new Map<string, Uint8Array>();
  for (const name of llistxattr(path)) {
    const value = lgetxattr(path, name);
    if (value !== undefined) xattrs.set(name.toString("latin1"), value);
  }
  return xattrs;
}

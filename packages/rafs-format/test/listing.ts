import { jsonBytes, type ListingEntry } from "@nydus-ts/testkit";
import type { Bootstrap } from "../src/index.ts";

/** The tree in the form of golden listings, without content. */
export function listBootstrap(bootstrap: Bootstrap): ListingEntry[] {
  return Array.from(bootstrap.walk(), ({ path, nid, inode }) => ({
    path: jsonBytes(path),
    type: inode.type,
    mode: (inode.mode & 0o7777).toString(8).padStart(4, "0"),
    uid: inode.uid,
    gid: inode.gid,
    mtime: Number(inode.mtime),
    nsec: inode.mtimeNsec,
    size: inode.size,
    nlink: inode.nlink,
    rdev: inode.rdev,
    ...(inode.type === "symlink" ? { target: jsonBytes(bootstrap.readLink(nid)) } : {}),
    xattrs: Object.fromEntries(
      Array.from(bootstrap.xattrs(nid), ([name, value]) => [Buffer.from(name, "latin1").toString(), Buffer.from(value).toString("base64")]),
    ),
  }));
}

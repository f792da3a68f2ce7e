import { type RafsV6Cursor, openCursor as openEitherCursor } from "@nydus-ts/rafs-format";

/**
 * What serving needs of a bootstrap reader, whatever the version: fields set by `load`, `find`, `entry`, `chunk` and `nextXattr`, no
 * allocation per call, RafsError for what the format forbids. `chunkBlock × blockSize` is the chunk's byte offset in the cache file.
 */
export type ImageCursor = Pick<
  RafsV6Cursor,
  | "bytes"
  | "rootNid"
  | "blockSize"
  | "chunkSize"
  | "nid"
  | "mode"
  | "size"
  | "uid"
  | "gid"
  | "nlink"
  | "rdev"
  | "mtimeLo"
  | "mtimeHi"
  | "mtimeNsec"
  | "blockCount"
  | "chunkCount"
  | "chunkBlob"
  | "chunkIndex"
  | "chunkBlock"
  | "entryCount"
  | "entryNid"
  | "entryType"
  | "entryBytes"
  | "entryNameStart"
  | "entryNameEnd"
  | "xattrBytes"
  | "xattrPrefixBytes"
  | "xattrSuffixStart"
  | "xattrSuffixEnd"
  | "xattrValueStart"
  | "xattrValueEnd"
  | "load"
  | "find"
  | "blockOffset"
  | "blockBytes"
  | "openBlock"
  | "entry"
  | "chunk"
  | "rewindXattrs"
  | "nextXattr"
  | "findXattr"
>;

/** A cursor with what the mount itself needs to know. */
export interface OpenedCursor extends ImageCursor {
  readonly superblock: { readonly flags: bigint };
  readonly blobs: readonly { readonly id: string }[];
}

/** Opens a bootstrap of any version this build serves. @throws RafsError */
export function openCursor(bytes: Uint8Array): OpenedCursor {
  return openEitherCursor(bytes);
}

export type RafsErrorCode =
  | "RAFS_MAGIC"
  | "RAFS_VERSION"
  | "RAFS_TRUNCATED"
  | "RAFS_RANGE"
  | "RAFS_SUPERBLOCK"
  | "RAFS_BLOB_TABLE"
  | "RAFS_INODE"
  | "RAFS_DIRECTORY"
  | "RAFS_SYMLINK"
  | "RAFS_XATTR"
  | "RAFS_CHUNK"
  | "RAFS_DIGEST"
  | "RAFS_META"
  | "RAFS_TOC"
  | "RAFS_TAR_HEADER"
  | "RAFS_CACHE_FILE"
  | "RAFS_SOURCE"
  | "RAFS_UNSUPPORTED";

/** Bytes of an image are not what the format allows. The message names the record, its place, what was found and what is allowed. */
export class RafsError extends Error {
  override readonly name = "RafsError";
  readonly code: RafsErrorCode;

  constructor(code: RafsErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

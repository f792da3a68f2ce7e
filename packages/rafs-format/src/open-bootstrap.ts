import type { Bootstrap } from "./bootstrap.ts";
import { BootstrapV6 } from "./bootstrap-v6.ts";

/**
 * Opens a bootstrap of either version by its magic. Reads superblock, blob table, prefetch table and root at once, all else when it
 * is asked for, in place: `bytes` must not change while the bootstrap is used.
 *
 * @throws RafsError RAFS_MAGIC (no bootstrap; perhaps a blob with one inside, see `findInlinedBootstrap`), RAFS_VERSION, RAFS_TRUNCATED,
 *   RAFS_SUPERBLOCK, RAFS_RANGE, RAFS_BLOB_TABLE, RAFS_INODE, RAFS_UNSUPPORTED
 */
export function openBootstrap(bytes: Uint8Array): Bootstrap {
  return new BootstrapV6(bytes);
}

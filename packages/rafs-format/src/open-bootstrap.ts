import type { Bootstrap } from "./bootstrap.ts";
import { BootstrapV5 } from "./bootstrap-v5.ts";
import { BootstrapV6 } from "./bootstrap-v6.ts";
import { RafsV5Cursor } from "./cursor-v5.ts";
import { RafsV6Cursor } from "./cursor-v6.ts";
import { isBootstrapV5 } from "./superblock-v5.ts";

/**
 * Opens a bootstrap of either version by its magic. Reads superblock, blob table, prefetch table and root at once, all else when it
 * is asked for, in place: `bytes` must not change while the bootstrap is used.
 *
 * @throws RafsError RAFS_MAGIC (no bootstrap; perhaps a blob with one inside, see `findInlinedBootstrap`), RAFS_VERSION, RAFS_TRUNCATED,
 *   RAFS_SUPERBLOCK, RAFS_RANGE, RAFS_BLOB_TABLE, RAFS_INODE, RAFS_UNSUPPORTED
 */
export function openBootstrap(bytes: Uint8Array): Bootstrap {
  return isBootstrapV5(bytes) ? new BootstrapV5(bytes) : new BootstrapV6(bytes);
}

/** Opens the reader that never allocates, for either version. @throws RafsError as `openBootstrap` */
export function openCursor(bytes: Uint8Array): RafsV5Cursor | RafsV6Cursor {
  return isBootstrapV5(bytes) ? new RafsV5Cursor(bytes) : new RafsV6Cursor(bytes);
}

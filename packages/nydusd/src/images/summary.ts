import type { ConfigV2 } from "../config/index.ts";
import type { ImageSource } from "./source.ts";

const forever = { secs: 2 ** 32, nanos: 0 };

/** Superblock summary for `GET /api/v1/daemon/backend`; keys and order of spec/nydusd.md 4.4, fields foreign to the version are 0. */
export function superblockSummary({ bootstrap }: ImageSource, config: ConfigV2): Record<string, unknown> {
  const v6 = bootstrap.version === 6;
  return {
    magic: v6 ? 0xe0f5e1e2 : 0x52414653,
    version: v6 ? 0x600 : 0x500,
    sb_size: v6 ? 1024 : 8192,
    root_inode: bootstrap.inode(bootstrap.rootNid).ino,
    chunk_size: bootstrap.chunkSize,
    batch_size: config.rafs?.batch_size ?? 0,
    inodes_count: bootstrap.inodeCount,
    flags: { bits: Number(bootstrap.flags) },
    inode_table_entries: 0,
    inode_table_offset: 0,
    blob_table_size: v6 ? bootstrap.blobs.length * 256 : 0,
    blob_table_offset: 0,
    extended_blob_table_offset: 0,
    extended_blob_table_entries: v6 ? 0 : bootstrap.blobs.length,
    blob_device_table_count: v6 ? bootstrap.blobs.length : 0,
    blob_device_table_offset: 0,
    prefetch_table_offset: 0,
    prefetch_table_entries: bootstrap.prefetchNids.length,
    attr_timeout: forever,
    entry_timeout: forever,
    is_chunk_dict: false,
    meta_blkaddr: 0,
    root_nid: v6 ? bootstrap.rootNid : 0,
    chunk_table_offset: 0,
    chunk_table_size: 0,
  };
}

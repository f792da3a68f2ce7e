import { struct } from "./struct.ts";

// Structures of the FUSE protocol 7.41, from include/uapi/linux/fuse.h. A request is IN_HEADER and the structure of its opcode, a reply
// OUT_HEADER and its structure: the offsets here count from the start of the buffer, header included.

export const IN_HEADER = struct("fuse_in_header", 40, 0, [
  ["length", 0, "u32"],
  ["opcode", 4, "u32"],
  ["unique", 8, "u64"],
  ["node", 16, "u64"],
  ["uid", 24, "u32"],
  ["gid", 28, "u32"],
  ["pid", 32, "u32"],
  ["extensionLength", 36, "u16"],
  ["padding", 38, "u16"],
]);
const input = IN_HEADER.size;

export const INIT_IN = struct("fuse_init_in", 64, input, [
  ["major", 0, "u32"],
  ["minor", 4, "u32"],
  ["readAheadMax", 8, "u32"],
  ["flags", 12, "u32"],
  ["flags2", 16, "u32"],
  ["unused", 20, 44],
]);

export const READ_IN = struct("fuse_read_in", 40, input, [
  ["handle", 0, "u64"],
  ["offset", 8, "u64"],
  ["length", 16, "u32"],
  ["readFlags", 20, "u32"],
  ["lockOwner", 24, "u64"],
  ["flags", 32, "u32"],
  ["padding", 36, "u32"],
]);

export const XATTR_IN = struct("fuse_getxattr_in", 8, input, [
  ["length", 0, "u32"],
  ["padding", 4, "u32"],
]);

export const INTERRUPT_IN = struct("fuse_interrupt_in", 8, input, [["unique", 0, "u64"]]);

export const OUT_HEADER = struct("fuse_out_header", 16, 0, [
  ["length", 0, "u32"],
  ["error", 4, "u32"], // 0 or a negative errno; in a notification its positive code
  ["unique", 8, "u64"], // 0 in a notification
]);
const output = OUT_HEADER.size;

export const INIT_OUT = struct("fuse_init_out", 64, output, [
  ["major", 0, "u32"],
  ["minor", 4, "u32"],
  ["readAheadMax", 8, "u32"],
  ["flags", 12, "u32"],
  ["backgroundMax", 16, "u16"],
  ["congestionThreshold", 18, "u16"],
  ["writeMax", 20, "u32"],
  ["timeGranularityNs", 24, "u32"],
  ["pagesMax", 28, "u16"],
  ["mapAlignment", 30, "u16"],
  ["flags2", 32, "u32"],
  ["stackDepthMax", 36, "u32"],
  ["requestTimeout", 40, "u16"],
  ["unused", 42, 22],
]);

/** fuse_attr; offsets from its own start. */
export const ATTR = struct("fuse_attr", 88, 0, [
  ["ino", 0, "u64"],
  ["bytes", 8, "u64"], // `size` in the kernel's text
  ["blocks", 16, "u64"],
  ["atime", 24, "u64"],
  ["mtime", 32, "u64"],
  ["ctime", 40, "u64"],
  ["atimeNsec", 48, "u32"],
  ["mtimeNsec", 52, "u32"],
  ["ctimeNsec", 56, "u32"],
  ["mode", 60, "u32"],
  ["nlink", 64, "u32"],
  ["uid", 68, "u32"],
  ["gid", 72, "u32"],
  ["rdev", 76, "u32"],
  ["blockSize", 80, "u32"],
  ["flags", 84, "u32"],
]);

/** fuse_entry_out; offsets from its own start. */
export const ENTRY = struct("fuse_entry_out", 128, 0, [
  ["node", 0, "u64"],
  ["generation", 8, "u64"],
  ["entryValid", 16, "u64"],
  ["attrValid", 24, "u64"],
  ["entryValidNsec", 32, "u32"],
  ["attrValidNsec", 36, "u32"],
  ["attr", 40, 88],
]);

export const ATTR_OUT = struct("fuse_attr_out", 104, output, [
  ["attrValid", 0, "u64"],
  ["attrValidNsec", 8, "u32"],
  ["dummy", 12, "u32"],
  ["attr", 16, 88],
]);

/** fuse_dirent without its name; offsets from its own start. The name follows, padded to 8 bytes. */
export const DIRENT = struct("fuse_dirent", 24, 0, [
  ["ino", 0, "u64"],
  ["next", 8, "u64"], // `off`: where to go on after this entry
  ["nameLength", 16, "u32"],
  ["type", 20, "u32"],
]);

export const STATFS_OUT = struct("fuse_statfs_out", 80, output, [
  ["blocks", 0, "u64"],
  ["blocksFree", 8, "u64"],
  ["blocksAvailable", 16, "u64"],
  ["files", 24, "u64"],
  ["filesFree", 32, "u64"],
  ["blockSize", 40, "u32"],
  ["nameMax", 44, "u32"],
  ["fragmentSize", 48, "u32"],
  ["padding", 52, "u32"],
  ["spare", 56, 24],
]);

export const XATTR_OUT = struct("fuse_getxattr_out", 8, output, [
  ["length", 0, "u32"],
  ["padding", 4, "u32"],
]);

export const NOTIFY_INVAL_INODE = struct("fuse_notify_inval_inode_out", 24, output, [
  ["node", 0, "u64"],
  ["offset", 8, "u64"],
  ["length", 16, "u64"],
]);

export const NOTIFY_INVAL_ENTRY = struct("fuse_notify_inval_entry_out", 16, output, [
  ["parent", 0, "u64"],
  ["nameLength", 8, "u32"],
  ["flags", 12, "u32"],
]);

/** Codes of notifications: enum fuse_notify_code. */
export const notifyCodes = { invalInode: 2, invalEntry: 3, resend: 7 } as const;

/** Bits of INIT's flags; from `initExtended` on bit 32 and up stand in flags2. */
export const initFlags = {
  asyncRead: 1n << 0n,
  bigWrites: 1n << 5n,
  doReadDirPlus: 1n << 13n,
  readDirPlusAuto: 1n << 14n,
  asyncDio: 1n << 15n,
  noOpen: 1n << 17n,
  parallelDirOps: 1n << 18n,
  maxPages: 1n << 22n,
  cacheSymlinks: 1n << 23n,
  noOpenDir: 1n << 24n,
  explicitInvalData: 1n << 25n,
  initExtended: 1n << 30n,
  hasResend: 1n << 39n,
} as const;

/** ioctl that makes a fresh descriptor a clone of a session's. */
export const FUSE_DEV_IOC_CLONE = 0x8004e500;

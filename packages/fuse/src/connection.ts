import { closeSync, constants, openSync, realpathSync, statSync, write, writeFileSync } from "node:fs";
import { findMount, ioctl, MNT_DETACH, MS_NOATIME, MS_NODEV, MS_NOSUID, MS_RDONLY, mount, setNonblocking, umount2 } from "@nydus-ts/linux";
import { readBytesMax } from "./limits.ts";
import { FUSE_DEV_IOC_CLONE, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, notifyCodes, OUT_HEADER } from "./structs.ts";

export interface MountFuseOptions {
  readonly mountpoint: string;
  /** First column of the mount table. */
  readonly source: string;
  readonly readOnly: boolean;
}

/** A mounted session: its descriptor, where it is mounted, and the number of the connection. */
export interface FuseMount {
  /** `/dev/fuse`, non-blocking, close-on-exec; the caller closes it. */
  readonly device: number;
  /** As the mount table names it. */
  readonly mountpoint: string;
  /** Name of the folder in /sys/fs/fuse/connections. */
  readonly connectionId: number;
}

/**
 * Opens `/dev/fuse` and mounts it; the kernel then sends INIT. Nobody may touch the mount point from this thread before a worker serves.
 *
 * @throws ErrnoError EPERM, ENOENT, EBUSY …; Error ENOENT (no /dev/fuse, or no mount point)
 * Source: spec/nydusd.md 7
 */
export function mountFuse(options: MountFuseOptions): FuseMount {
  const mountpoint = realpathSync(options.mountpoint);
  const { mode, uid, gid } = statSync(mountpoint);
  const device = openSync("/dev/fuse", constants.O_RDWR);
  try {
    setNonblocking(device, true);
    mount({
      source: options.source,
      target: mountpoint,
      type: "fuse",
      flags: MS_NOSUID | MS_NODEV | MS_NOATIME | (options.readOnly ? MS_RDONLY : 0),
      options: `default_permissions,fd=${device},rootmode=${(mode & 0o170000).toString(8)},user_id=${uid},group_id=${gid},max_read=${readBytesMax + 4096},allow_other`,
    });
  } catch (error) {
    closeSync(device);
    throw error;
  }
  return { device, mountpoint, connectionId: findMount(mountpoint)?.minor ?? 0 };
}

/** A descriptor of the same session with a queue of its own for requests being answered: a reply must go to the clone that read the request. */
export function cloneDevice(device: number): number {
  const clone = openSync("/dev/fuse", constants.O_RDWR);
  try {
    const argument = new Uint8Array(64);
    new DataView(argument.buffer).setUint32(0, device, true);
    ioctl(clone, FUSE_DEV_IOC_CLONE, argument);
    setNonblocking(clone, true);
    return clone;
  } catch (error) {
    closeSync(clone);
    throw error;
  }
}

/** Takes the mount out of the tree at once; users of open files keep the session. Not mounted is fine. */
export function unmountFuse(mountpoint: string, connectionId: number): void {
  const entry = findMount(mountpoint);
  if (entry?.type.startsWith("fuse") && entry.minor === connectionId) umount2(mountpoint, MNT_DETACH);
}

/** Ends the session for everybody: waiting requests fail, workers see the end. false when the control file system does not show it. */
export function abortConnection(connectionId: number): boolean {
  try {
    writeFileSync(`/sys/fs/fuse/connections/${connectionId}/abort`, "1");
    return true;
  } catch {
    return false;
  }
}

/**
 * Drops attributes and cached pages of a node. Written on libuv's threads: the kernel may wait for reads in progress, which others answer.
 * A node the kernel does not know is fine.
 */
export function notifyInvalidInode(device: number, node: bigint): Promise<void> {
  const message = Buffer.alloc(OUT_HEADER.size + NOTIFY_INVAL_INODE.size);
  message.writeBigUInt64LE(node, NOTIFY_INVAL_INODE.node);
  return notify(device, notifyCodes.invalInode, message);
}

/** Drops a name and all that is cached below it, unless in use. A name the kernel does not know is fine. */
export function notifyInvalidEntry(device: number, parent: bigint, name: Uint8Array): Promise<void> {
  const head = OUT_HEADER.size + NOTIFY_INVAL_ENTRY.size;
  const message = Buffer.alloc(head + name.length + 1);
  message.writeBigUInt64LE(parent, NOTIFY_INVAL_ENTRY.parent);
  message.writeUInt32LE(name.length, NOTIFY_INVAL_ENTRY.nameLength);
  message.set(name, head);
  return notify(device, notifyCodes.invalEntry, message);
}

/** Asks the kernel (6.9 and later) to deliver again every request that was read and never answered. @throws Error EINVAL on older kernels */
export function notifyResend(device: number): Promise<void> {
  return notify(device, notifyCodes.resend, Buffer.alloc(OUT_HEADER.size));
}

function notify(device: number, code: number, message: Buffer): Promise<void> {
  message.writeUInt32LE(message.length, OUT_HEADER.length);
  message.writeInt32LE(code, OUT_HEADER.error);
  return new Promise((resolve, reject) => {
    write(device, message, 0, message.length, null, (error) => {
      // ENOENT: not known to the kernel; ENOTDIR: the name now belongs to something else; ENODEV, ENOTCONN: the session has ended.
      if (error === null || ["ENOENT", "ENOTDIR", "ENODEV", "ENOTCONN"].includes(error.code ?? "")) resolve();
      else reject(error);
    });
  });
}

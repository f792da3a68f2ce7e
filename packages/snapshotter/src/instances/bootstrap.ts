import { closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { messageOf, SnapshotterError } from "../errors.ts";
import { bootstrapDeadlineMs } from "../limits.ts";

export interface BootstrapFile {
  readonly path: string;
  /** Ids of the blobs in its table. */
  readonly blobs: readonly string[];
  /** Bytes of each of them once it is whole in the cache. */
  readonly uncompressedSizes: readonly number[];
  /** `*.blob.meta` files that came with it: they save the daemon a trip to the registry per blob. */
  readonly metas: readonly string[];
}

/**
 * The bootstrap that a metadata layer brought: `image/image.boot`, or `image.boot` in old images. The layer's content is not trusted:
 * neither a symbolic link nor anything but a regular file is followed.
 *
 * @throws SnapshotterError BOOTSTRAP_DEADLINE (nothing there), BOOTSTRAP_INVALID (not a bootstrap, cut off)
 * Source: spec/snapshotter.md 9.1
 */
export async function readBootstrap(fs: string): Promise<BootstrapFile> {
  const until = performance.now() + bootstrapDeadlineMs;
  let path = findBootstrap(fs);
  while (path === undefined) {
    if (performance.now() > until)
      throw new SnapshotterError(
        "BOOTSTRAP_DEADLINE",
        `${join(fs, "image/image.boot")}: the metadata layer holds no bootstrap; the image is not a nydus image or was unpacked only in part; pull it again`,
      );
    await pause(20);
    path = findBootstrap(fs);
  }
  try {
    const { blobs } = openBootstrap(readRegular(path));
    const uncompressedSizes = blobs.map((blob) => blob.uncompressedSize);
    return { path, blobs: blobs.map((blob) => blob.id), uncompressedSizes, metas: metaFiles(join(fs, "image")) };
  } catch (error) {
    throw new SnapshotterError(
      "BOOTSTRAP_INVALID",
      `${path}: ${messageOf(error)}; the image's metadata is damaged: convert and push it again`,
      { cause: error },
    );
  }
}

function findBootstrap(fs: string): string | undefined {
  if (isDirectory(join(fs, "image")) && isFile(join(fs, "image", "image.boot"))) return join(fs, "image", "image.boot");
  return isFile(join(fs, "image.boot")) ? join(fs, "image.boot") : undefined;
}

function metaFiles(directory: string): string[] {
  if (!isDirectory(directory)) return [];
  return readdirSync(directory)
    .filter((name) => /^[0-9a-f]{64}\.blob\.meta$/.test(name))
    .map((name) => join(directory, name))
    .filter(isFile);
}

/** The bytes of a file that must not be a link. */
export function readRegular(path: string): Uint8Array {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new Error("not a regular file");
    const bytes = Buffer.allocUnsafe(stat.size);
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(fd, bytes, done, bytes.length - done, done);
      if (count === 0) throw new Error("it became shorter while it was read");
      done += count;
    }
    return bytes;
  } finally {
    closeSync(fd);
  }
}

const isFile = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
const isDirectory = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

import { fdatasync, fsync, ftruncate, open as openFile, read, write, writeSync } from "node:fs";
import { open as openHandle, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";

export const syncData: (fd: number) => Promise<void> = promisify(fdatasync);
export const syncFile: (fd: number) => Promise<void> = promisify(fsync);
export const truncateFile: (fd: number, size: number) => Promise<void> = promisify(ftruncate);
/** A descriptor by number: it is shared with other threads, and closed by `closeSync`. */
export const openFd: (path: string, flags: number | string, mode?: number) => Promise<number> = promisify(openFile);

/** Smaller writes into the page cache take less than the way to a thread and back. */
const inlineWriteBytes = 16 * 1024;

/** Writes all of `bytes` at `position`. */
export async function writeAt(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  let done = bytes.length <= inlineWriteBytes ? writeSync(fd, bytes, 0, bytes.length, position) : 0;
  while (done < bytes.length) {
    const from = done;
    done += await new Promise<number>((resolve, reject) => {
      write(fd, bytes, from, bytes.length - from, position + from, (error, count) => (error === null ? resolve(count) : reject(error)));
    });
  }
}

/** Reads up to `target.length` bytes at `position`; fewer only at the end of the file. */
export async function readAt(fd: number, target: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const from = done;
    const count = await new Promise<number>((resolve, reject) => {
      read(fd, target, from, target.length - from, position + from, (error, got) => (error === null ? resolve(got) : reject(error)));
    });
    if (count === 0) break;
    done += count;
  }
  return done;
}

export const removeFile: (path: string) => Promise<void> = unlink;

let temporaryCount = 0;

/** Replaces a file so that after a kill at any moment the old or the new one is there, whole. */
export async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${process.pid}.${temporaryCount++}.tmp`;
  try {
    const file = await openHandle(temporary, "wx", 0o644);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await openHandle(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

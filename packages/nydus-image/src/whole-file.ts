/** Output files of verbs: their name appears with all their bytes, or not at all, whenever the process ends. */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/**
 * Gives `write` an empty file, and that file its name when all of it is on disk. Pipes and devices are written as they stand: who reads
 * them has no names.
 */
export async function writeWholeFile(path: string, write: (output: FileHandle) => Promise<void>): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found !== undefined && !found.isFile() && !found.isDirectory()) {
    await using output = await open(path, found.isBlockDevice() ? "r+" : "w");
    await write(output);
    if (found.isBlockDevice()) await output.sync();
    return;
  }
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`);
  try {
    {
      await using output = await open(temporary, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o666);
      await write(output);
      await output.sync();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

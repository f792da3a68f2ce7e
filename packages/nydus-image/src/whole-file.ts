/** Output files of verbs: their name appears with all their bytes, or not at all, whenever the process ends. */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/**
 * Gives `write` an empty file, and that file its name when all of it is on disk. Pipes and devices are written as they stand: who reads
 * them has no names.
 */
export async function writeWholeFile(name: string, write: (output: FileHandle) => Promise<void>): Promise<void> {
  // A link stays, and what it leads to is replaced: /dev/stdout is one.
  const path = await realpath(name).catch(() => name);
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

/** Writes a text whole. */
export async function writeWholeText(path: string, text: string): Promise<void> {
  await writeWholeFile(path, (output) => output.writeFile(text));
}

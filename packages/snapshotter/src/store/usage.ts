import { lstatSync, readdirSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { usageEntriesPerTurn } from "../limits.ts";

export interface Usage {
  readonly size: number;
  readonly inodes: number;
}

/**
 * Bytes on disk (blocks × 512) and inodes below a directory, itself included; hard links count once. What vanishes meanwhile is not counted.
 * Gives the event loop a turn every few hundred entries, so measuring a big layer delays nobody.
 */
export async function measureUsage(directory: string): Promise<Usage> {
  const slash = Buffer.from("/");
  const seen = new Set<string>();
  let size = 0;
  let inodes = 0;
  let entries = 0;
  const pending: Buffer[] = [Buffer.from(directory)];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const stat = ifPresent(() => lstatSync(path));
    if (stat === undefined) continue;
    const link = stat.nlink > 1 && !stat.isDirectory() ? `${stat.dev}:${stat.ino}` : undefined;
    if (link === undefined || !seen.has(link)) {
      if (link !== undefined) seen.add(link);
      size += stat.blocks * 512;
      inodes++;
    }
    if (stat.isDirectory())
      for (const name of ifPresent(() => readdirSync(path, { encoding: "buffer" })) ?? []) pending.push(Buffer.concat([path, slash, name]));
    if (++entries % usageEntriesPerTurn === 0) await nextTurn();
  }
  return { size, inodes };
}

function ifPresent<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

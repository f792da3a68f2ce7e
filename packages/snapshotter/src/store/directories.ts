import { randomBytes } from "node:crypto";
import { chmodSync, chownSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Layout } from "../config/layout.ts";
import type { IdMap } from "../layers/id-map.ts";

/**
 * Makes the directory of a new snapshot under a temporary name and renames it, so a directory with a number is always whole.
 * Runs inside the store's transaction; what it leaves behind when the process dies has no record and is removed by clean-up.
 */
export function makeSnapshotDirectory(
  layout: Layout,
  snapshot: { id: number; parentId: number | undefined; work: boolean; idMap: IdMap | undefined },
): void {
  const temporary = join(layout.snapshots, `new-${randomBytes(8).toString("hex")}`);
  try {
    makeDirectory(temporary, 0o700);
    const fs = join(temporary, "fs");
    makeDirectory(fs, 0o755);
    if (snapshot.work) makeDirectory(join(temporary, "work"), 0o711);
    if (snapshot.idMap !== undefined) chownSync(fs, snapshot.idMap.host, snapshot.idMap.host);
    else if (snapshot.parentId !== undefined) {
      const { uid, gid } = statSync(layout.fs(snapshot.parentId));
      chownSync(fs, uid, gid);
    }
    const final = layout.snapshot(snapshot.id);
    // A number can only be there already when a process died between this rename and the commit: no record ever pointed to it.
    rmSync(final, { recursive: true, force: true });
    renameSync(temporary, final);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** A directory with exactly this mode, whatever the umask. */
export function makeDirectory(path: string, mode: number): void {
  mkdirSync(path, { recursive: true });
  chmodSync(path, mode);
}

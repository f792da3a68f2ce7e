import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { sweep } from "@nydus-ts/testkit";

/** Everything of one run; on a disk, since a real image is unpacked in it. The made Debian image is kept beside it for the next run. */
export const cacheDirectory = process.env["NYDUS_TEST_CACHE"] ?? "/var/tmp/nydus-ts";
export const quickstartDirectory = `${cacheDirectory}/quickstart`;
const ownerFile = `${cacheDirectory}/quickstart.pid`;

/** Makes the folder ours and empty; what an earlier run left (killed, or `--keep`) is ended first. Exits when another run is going on. */
export function claimDirectory(): void {
  mkdirSync(cacheDirectory, { recursive: true });
  const owner = existsSync(ownerFile) ? Number(readFileSync(ownerFile, "utf8")) : 0;
  if (owner !== process.pid && isQuickstart(owner)) {
    process.stderr.write(`quickstart: another one is running (process ${owner}); wait for it or stop it\n`);
    process.exit(1);
  }
  writeFileSync(ownerFile, String(process.pid));
  if (existsSync(quickstartDirectory)) process.stderr.write("ending what an earlier quickstart left running\n");
  sweep(quickstartDirectory);
  mkdirSync(quickstartDirectory, { recursive: true });
}

export function release(): void {
  rmSync(ownerFile, { force: true });
}

function isQuickstart(pid: number): boolean {
  try {
    return pid > 1 && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("quickstart");
  } catch {
    return false;
  }
}

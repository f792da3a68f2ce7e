import { readFileSync } from "node:fs";
import { rlimitNofile, setRlimitNofile } from "@nydus-ts/linux";
import { describeError } from "./errors.ts";
import type { Log } from "./log/log.ts";

const fileMaxReserve = 16_384;
const countMax = 1_000_000;

/**
 * Raises the limit of open files as `--rlimit-nofile` asks. Where it may not be raised (a sandbox, a container) the daemon says so and
 * goes on; the original ends. Source: spec/nydusd.md 1.1.
 */
export function applyRlimitNofile(wanted: number, log: Log): void {
  if (wanted === 0) return;
  try {
    const fileMax = Number(readFileSync("/proc/sys/fs/file-max", "utf8"));
    const { soft } = rlimitNofile();
    const cap = Math.max(soft, Math.min(fileMax - fileMaxReserve, countMax));
    const count = Math.min(wanted, cap);
    const now = setRlimitNofile(count);
    if (now < count) log.warn(`the limit of open files is ${now} and could not be raised to ${count}; many images may need more`);
  } catch (error) {
    log.warn(`the limit of open files could not be raised to ${wanted}: ${describeError(error)}`);
  }
}

import { readdirSync, readFileSync } from "node:fs";

/** KiB of memory a process holds; 0 when it cannot be told. */
export function rssKib(pid: number | "self"): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(read(`/proc/${pid}/status`));
  return match === null ? 0 : Number(match[1]);
}

/** KiB a process has read from block devices; 0 when it cannot be told. */
export function readKib(pid: number): number {
  const match = /^read_bytes: (\d+)/m.exec(read(`/proc/${pid}/io`));
  return match === null ? 0 : Math.floor(Number(match[1]) / 1024);
}

export function openFiles(): number {
  try {
    return readdirSync("/proc/self/fd").length;
  } catch {
    return 0;
  }
}

export function threads(): number {
  const match = /^Threads:\s+(\d+)/m.exec(read("/proc/self/status"));
  return match === null ? 0 : Number(match[1]);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

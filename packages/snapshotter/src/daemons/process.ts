import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { dirname } from "node:path";
import { pidfdExited, pidfdOpen, pidfdSignal } from "@nydus-ts/linux";
import { messageOf, SnapshotterError } from "../errors.ts";

/** A process that a number alone cannot name: pids are used again, the start time is not. */
export interface ProcessId {
  readonly pid: number;
  /** Clock ticks after boot, from /proc/PID/stat. */
  readonly start: string;
}

/** Start time of a process that runs; undefined when it is gone or a zombie. */
export function processStart(pid: number): string | undefined {
  try {
    // The name in parentheses may hold anything, also blanks and parentheses: fields are counted from the last one.
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export const isAlive = (id: ProcessId): boolean => processStart(id.pid) === id.start;

/**
 * Starts a program in a session and process group of its own, so signals to this program do not reach it and it outlives it.
 *
 * @param output  file that gets its standard output and error (appended)
 * @throws SnapshotterError DAEMON_START
 */
export async function spawnDetached(command: string, args: readonly string[], output: string): Promise<ProcessId> {
  mkdirSync(dirname(output), { recursive: true });
  const fd = openSync(output, "a", 0o644);
  try {
    const child = spawn(command, args, { cwd: "/", detached: true, stdio: ["ignore", fd, fd] });
    await once(child, "spawn");
    child.unref();
    const pid = child.pid as number;
    const start = processStart(pid);
    if (start === undefined) throw new Error("it ended at once");
    return { pid, start };
  } catch (error) {
    const hint = (error as NodeJS.ErrnoException).code === "ENOENT" ? "; set daemon.nydusd_path or --nydusd" : "";
    throw new SnapshotterError("DAEMON_START", `${command} cannot be started: ${messageOf(error)}${hint}`, { cause: error });
  } finally {
    closeSync(fd);
  }
}

/** Resolves when the process has ended, child of ours or not; rejects when `signal` fires. */
export async function untilExit(id: ProcessId, signal: AbortSignal): Promise<void> {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(id.pid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return;
    throw error;
  }
  try {
    // A wait has a deadline everywhere; this one is renewed for as long as the daemon lives.
    while (isAlive(id)) {
      try {
        await pidfdExited(pidfd, { deadlineMs: 3_600_000, signal });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ETIMEDOUT") throw error;
      }
    }
  } finally {
    closeSync(pidfd);
  }
}

/** SIGTERM, then SIGKILL after `deadlineMs`; resolves when it is gone. A number that now belongs to another process is left alone. */
export async function endProcess(id: ProcessId, deadlineMs: number): Promise<void> {
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    if (!isAlive(id)) return;
    let pidfd: number;
    try {
      pidfd = pidfdOpen(id.pid);
    } catch {
      return;
    }
    try {
      if (!isAlive(id)) return;
      pidfdSignal(pidfd, signal);
      await pidfdExited(pidfd, { deadlineMs });
      return;
    } catch (error) {
      if (!isAlive(id)) return;
      if (signal === "SIGKILL")
        throw new SnapshotterError("DAEMON_DEADLINE", `process ${id.pid} does not end: ${messageOf(error)}`, { cause: error });
    } finally {
      closeSync(pidfd);
    }
  }
}

/** What `/proc/PID/exe` of a daemon leads to: the Node it runs on, also when that was replaced meanwhile, or a program of its own. */
const DAEMON_PROGRAMS = /\/(?:node|nydusd)[^/]*$/;

/** Processes started like our daemons with an API socket whose path begins with `prefix`. A client given the same socket has no mount point. */
export function daemonProcesses(prefix: string): ProcessId[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return [];
    try {
      // Reading the arguments of a process that hangs in a page fault blocks; so only those are read that can be a daemon at all.
      if (!DAEMON_PROGRAMS.test(readlinkSync(`/proc/${name}/exe`))) return [];
      const args = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0");
      const start = processStart(Number(name));
      const socket = args[args.indexOf("--apisock") + 1];
      return start !== undefined && args.includes("--mountpoint") && socket?.startsWith(prefix) ? [{ pid: Number(name), start }] : [];
    } catch {
      return [];
    }
  });
}

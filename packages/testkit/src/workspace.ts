import { spawnSync } from "node:child_process";
import { existsSync, globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Program, type ProgramOptions, startProgram } from "./process.ts";

/**
 * A folder of its own, and everything started and mounted in it. Disposal undoes what was deferred, newest first, and then removes by
 * force what is left: containers, processes whose command line names the folder, mounts below it, the folder. The same happens when
 * this process ends without disposal, so that a failed or interrupted test leaves nothing behind.
 */
export class Workspace implements AsyncDisposable {
  readonly directory: string;
  readonly #deferred: (() => Promise<void> | void)[] = [];
  readonly #keep: boolean;
  #disposed = false;
  #disposal: Promise<void> | undefined;
  readonly #atExit = (): void => {
    if (!this.#disposed && !this.#keep) sweep(this.directory);
  };

  /** @param options.directory  use this folder instead of a new one; @param options.keep  leave everything when the process ends by itself */
  constructor(name: string, options: { readonly directory?: string; readonly keep?: boolean } = {}) {
    this.directory = options.directory ?? mkdtempSync(join(tmpdir(), `${name}-`));
    this.#keep = options.keep ?? false;
    process.on("exit", this.#atExit);
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts);
  }

  /** Runs at disposal, newest first. */
  defer(undo: () => Promise<void> | void): void {
    this.#deferred.push(undo);
  }

  start(options: ProgramOptions): Program {
    const program = startProgram(options);
    this.defer(() => program.stop());
    return program;
  }

  /** A second call waits for the first. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#disposal ??= this.#dispose();
    return this.#disposal;
  }

  async #dispose(): Promise<void> {
    const faults: unknown[] = [];
    for (let undo = this.#deferred.pop(); undo !== undefined; undo = this.#deferred.pop()) {
      try {
        await undo();
      } catch (error) {
        faults.push(error);
      }
    }
    this.#disposed = true;
    process.off("exit", this.#atExit);
    sweep(this.directory);
    if (faults.length > 0) throw new AggregateError(faults, `cleaning ${this.directory}: ${faults.map(String).join("; ")}`);
  }
}

/** Mount points below a folder, deepest first. */
export function mountsUnder(directory: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => unescapeOctal(line.split(" ")[4] ?? ""))
    .filter((point) => point === directory || point.startsWith(`${directory}/`))
    .reverse();
}

/** Processes other than this one whose command line names a path in the folder. */
export function processesOf(directory: string): { readonly pid: number; readonly command: string }[] {
  const found: { pid: number; command: string }[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const command = readIfThere(`/proc/${name}/cmdline`).replaceAll("\0", " ").trim();
    if (command.includes(`${directory}/`)) found.push({ pid: Number(name), command });
  }
  return found;
}

/** By force: containers, processes, mounts, files of the folder. Synchronous, so it also works while the process ends. */
export function sweep(directory: string): void {
  for (const pidFile of globSync(join(directory, "**/io.containerd.runtime.v2.task/*/*/init.pid"))) kill(Number(readIfThere(pidFile)));
  // A killed parent may just have started another: until none is left, at most a few rounds.
  for (let round = 0; round < 5; round++) {
    const processes = processesOf(directory);
    if (processes.length === 0) break;
    for (const { pid } of processes) kill(pid);
    spawnSync("sleep", ["0.05"]);
  }
  for (let round = 0; round < 3; round++) {
    for (const point of mountsUnder(directory)) spawnSync("umount", ["-l", point]);
    if (mountsUnder(directory).length === 0) break;
  }
  if (mountsUnder(directory).length === 0) rmSync(directory, { recursive: true, force: true, maxRetries: 3 });
  else process.stderr.write(`${directory}: still mounted below, not removed\n`);
}

function kill(pid: number): void {
  if (!Number.isSafeInteger(pid) || pid <= 1) return;
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it has ended already
  }
}

const readIfThere = (file: string): string => {
  try {
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  } catch {
    return ""; // a process that ended meanwhile
  }
};

const unescapeOctal = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));

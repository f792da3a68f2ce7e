import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { limits } from "./limits.ts";

export interface ProgramOptions {
  readonly command: string;
  readonly args?: readonly string[];
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly directory?: string;
  /** File that takes standard output and standard error. */
  readonly logFile: string;
  /** Network namespace of `createNetwork` to run in. */
  readonly network?: { enter(command: string, args: readonly string[]): readonly string[] } | undefined;
}

/** A program in the background; stopped by `stop`, or by the workspace that started it. */
export interface Program extends AsyncDisposable {
  readonly pid: number;
  readonly logFile: string;
  /** Resolves with the exit code, or -1 after a signal. */
  readonly exited: Promise<number>;
  readonly running: boolean;
  /** SIGTERM, and SIGKILL after `graceMs`. Harmless when it has ended. */
  stop(options?: { graceMs?: number }): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  /** The last lines of its output, for messages. */
  tail(): string;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly deadlineMs?: number;
  readonly input?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
  readonly directory?: string;
  /** Throw when the exit code is not 0; default true. */
  readonly check?: boolean;
  readonly network?: ProgramOptions["network"];
}

/** Starts a program; throws when it can not be started at all. */
export function startProgram(options: ProgramOptions): Program {
  const [command, ...args] = options.network?.enter(options.command, options.args ?? []) ?? [options.command, ...(options.args ?? [])];
  const log = openSync(options.logFile, "a");
  const child = spawn(command as string, args, {
    cwd: options.directory,
    env: { ...process.env, ...options.env },
    stdio: ["ignore", log, log],
    // A session of its own: Ctrl-C in the terminal reaches the one that started it, which then ends things in order.
    detached: true,
  });
  closeSync(log);
  if (child.pid === undefined) throw new Error(`${options.command} can not be started; is it installed? (scripts/setup)`);
  return programOf(child, child.pid, options.logFile);
}

/** Runs a program to its end and returns what it wrote. Throws with the end of its output when it fails or passes the deadline. */
export async function run(command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<RunResult> {
  const [first, ...rest] = options.network?.enter(command, args) ?? [command, ...args];
  const deadlineMs = options.deadlineMs ?? limits.runDeadlineMs;
  const child = spawn(first as string, rest, { cwd: options.directory, env: { ...process.env, ...options.env }, stdio: "pipe" });
  endWithThisProcess(child);
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  child.stdin.on("error", () => {}); // it may end without reading its input
  child.stdin.end(options.input);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, deadlineMs);
  const code = await new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => resolve(status ?? -1));
  }).finally(() => clearTimeout(timer));
  const result = { code, stdout: stdout(), stderr: stderr() };
  if (late || (code !== 0 && (options.check ?? true))) {
    const why = late ? `did not end within ${deadlineMs} ms` : `ended with ${code}`;
    throw new Error(`${[command, ...args].join(" ")} ${why}\n${result.stderr.slice(-2000)}\n${result.stdout.slice(-500)}`);
  }
  return result;
}

/**
 * Runs a command to its end and notes when its standard output held `text`; with "": its first output, or its end.
 *
 * @returns the moment (performance.now()) at which the text was complete
 */
export async function firstOutputAt(
  command: string,
  args: readonly string[],
  text: string,
  options: Pick<RunOptions, "network" | "deadlineMs"> = {},
): Promise<number> {
  const [first, ...rest] = options.network?.enter(command, args) ?? [command, ...args];
  const child = spawn(first as string, rest, { stdio: ["ignore", "pipe", "pipe"] });
  endWithThisProcess(child);
  let at = 0;
  let output = "";
  child.stdout.on("data", (part: Buffer) => {
    output += part.toString();
    if (at === 0 && output.includes(text)) at = performance.now();
  });
  const stderr = collect(child.stderr);
  const timer = setTimeout(() => child.kill("SIGKILL"), options.deadlineMs ?? limits.runDeadlineMs);
  const code = await new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => resolve(status ?? -1));
  }).finally(() => clearTimeout(timer));
  if (at === 0 && text === "") at = performance.now();
  if (code !== 0 || at === 0) throw new Error(`${[command, ...args].join(" ")} ended with ${code}\n${stderr()}${output}`);
  return at;
}

/** A program ended while its readiness was waited for: `until` does not go on. */
export class ProgramEnded extends Error {
  override readonly name = "ProgramEnded";
}

/** Throws ProgramEnded with the end of its output when the program does not run any more. */
export function mustRun(program: Program, what: string): void {
  if (!program.running) throw new ProgramEnded(`${what} ended; the end of ${program.logFile}:\n${program.tail()}`);
}

/** Polls until `probe` gives a value; its last error is the cause when the deadline passes. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  deadlineMs: number = limits.untilDeadlineMs,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  let cause: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined && value !== false) return value;
    } catch (error) {
      if (error instanceof ProgramEnded) throw error;
      cause = error;
    }
    if (performance.now() > end) throw new Error(`waited ${deadlineMs} ms in vain for: ${what}`, { cause });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function programOf(child: ChildProcess, pid: number, logFile: string): Program {
  let running = true;
  const exited = new Promise<number>((resolve) => {
    child.on("error", () => resolve(-1));
    child.on("exit", (code) => {
      running = false;
      resolve(code ?? -1);
    });
  });
  const stop = async ({ graceMs = limits.stopGraceMs }: { graceMs?: number } = {}): Promise<void> => {
    if (!running) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
    await exited.finally(() => clearTimeout(timer));
  };
  return {
    pid,
    logFile,
    exited,
    get running() {
      return running;
    },
    stop,
    kill: (signal) => void child.kill(signal),
    tail: () => readFileSync(logFile, "utf8").slice(-3000),
    [Symbol.asyncDispose]: () => stop(),
  };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const parts: Buffer[] = [];
  stream.on("data", (part: Buffer) => parts.push(part));
  return () => Buffer.concat(parts).toString("utf8");
}

const unfinished = new Set<ChildProcess>();
let watched = false;

/** A command that is still running when this process ends is told to end too. */
function endWithThisProcess(child: ChildProcess): void {
  if (!watched) {
    process.on("exit", () => {
      for (const one of unfinished) one.kill("SIGTERM");
    });
  }
  watched = true;
  unfinished.add(child);
  child.on("close", () => unfinished.delete(child));
}

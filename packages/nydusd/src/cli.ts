import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { type LogLevel, logLevels } from "./log/log.ts";

/** Options of every mode. Source: spec/nydusd.md 1.1. */
export interface GlobalOptions {
  readonly apisock?: string;
  readonly config?: string;
  readonly id?: string;
  readonly supervisor?: string;
  readonly upgrade: boolean;
  readonly logLevel: LogLevel;
  readonly logFile?: string;
  readonly logRotationSize: number;
  readonly logFormat: "text" | "json";
  readonly rlimitNofile: number;
}

/** Source: spec/nydusd.md 1.2. */
export interface FuseOptions extends GlobalOptions {
  readonly mountpoint: string;
  readonly failoverPolicy: "none" | "resend" | "flush";
  readonly fuseThreads: number;
  readonly writable: boolean;
  readonly bootstrap?: string;
  readonly localfsDir?: string;
  readonly sharedDir?: string;
  readonly prefetchFiles?: string;
  readonly virtualMountpoint: string;
  readonly dedupDb?: string;
}

export type Invocation =
  | { readonly mode: "fuse"; readonly options: FuseOptions }
  | { readonly mode: "singleton"; readonly options: GlobalOptions & { readonly fscache?: string } }
  /** A mode of the original that this version does not have. */
  | { readonly mode: "absent"; readonly name: string }
  /** Help, version or a wrong command line: everything is said already. */
  | { readonly mode: "done"; readonly exitCode: number };

export interface CliIo {
  readonly version: string;
  writeOut(text: string): void;
  writeErr(text: string): void;
}

/** Parses the command line; faults are written to `io` and end in exit code 2. */
export function parseCommandLine(argv: readonly string[], io: CliIo): Invocation {
  let invocation: Invocation = { mode: "done", exitCode: 0 };
  const program = globalOptions(new Command("nydusd"))
    .description("Serves RAFS container images through the kernel")
    .configureOutput({ writeOut: io.writeOut, writeErr: io.writeErr })
    .exitOverride()
    .version(io.version, "-V, --version", "print version and build")
    .showSuggestionAfterError()
    .allowExcessArguments(false);
  fuseOptions(program.command("fuse", { isDefault: true }).description("one FUSE mount for any number of images (the default)")).action(
    (_options, command: Command) => {
      invocation = { mode: "fuse", options: command.optsWithGlobals<FuseOptions>() };
    },
  );
  program
    .command("singleton")
    .description("serves the API only, without a FUSE mount")
    .option("-F, --fscache <dir>", "working directory of the cachefiles driver (not built in this version)")
    .addOption(new Option("--fscache-tag <tag>").hideHelp())
    .addOption(new Option("--fscache-threads <n>").hideHelp())
    .action((_options, command: Command) => {
      invocation = { mode: "singleton", options: command.optsWithGlobals() };
    });
  for (const name of ["virtiofs", "nbd", "uffd"]) {
    program
      .command(name)
      .description("not built in this version")
      .allowUnknownOption()
      .allowExcessArguments()
      .action(() => {
        invocation = { mode: "absent", name };
      });
  }
  for (const command of program.commands) command.configureOutput({ writeOut: io.writeOut, writeErr: io.writeErr }).exitOverride();
  try {
    program.parse(argv, { from: "user" });
    checkTogether(program, invocation);
    return invocation;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { mode: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
  }
}

function globalOptions(program: Command): Command {
  return program
    .option("-A, --apisock <path>", "Unix socket of the administration API; without it there is no API")
    .option("-C, --config <path>", "configuration file (JSON or TOML)")
    .option("--id <id>", "instance id; needs --supervisor")
    .option("--supervisor <path>", "socket of the supervisor for fail-over; needs --id")
    .option("--upgrade", "wait for a take-over instead of mounting", false)
    .addOption(new Option("-l, --log-level <level>", "what is logged").choices([...logLevels]).default("info"))
    .option("-L, --log-file <path>", "log file instead of stderr")
    .option("--log-rotation-size <mib>", "rotate the log file at this size; 0 = never", unsigned, 0)
    .addOption(new Option("--log-format <format>", "lines for people or JSON for machines").choices(["text", "json"]).default("text"))
    .option("--rlimit-nofile <n>", "limit of open files; 0 = leave it", unsigned, 1_000_000);
}

function fuseOptions(command: Command): Command {
  return command
    .option("-M, --mountpoint <dir>", "host directory to mount on (required)")
    .addOption(
      new Option("--failover-policy <policy>", "what happens to requests in flight at a take-over")
        .choices(["none", "resend", "flush"])
        .default("resend"),
    )
    .option("--fuse-threads <n>", "worker threads, 1 to 1024", threads, 4)
    .addOption(new Option("--thread-num <n>").argParser(threads).hideHelp())
    .option("--writable", "mount without the read-only flag", false)
    .addOption(
      new Option("-B, --bootstrap <file>", "image to mount at start: a bootstrap, or a blob with one inside").conflicts("sharedDir"),
    )
    .addOption(new Option("-D, --localfs-dir <dir>", "take blobs from, and cache them in, this directory").conflicts("config"))
    .option("-s, --shared-dir <dir>", "directory to pass through (not built in this version)")
    .option("--prefetch-files <file>", "text file, one absolute path a line; needs --bootstrap")
    .option("-m, --virtual-mountpoint <path>", "where in the mount the image appears", "/")
    .option("--dedup-db <file>", "chunk deduplication database (ignored in this version)");
}

function checkTogether(program: Command, invocation: Invocation): void {
  if (invocation.mode === "done" || invocation.mode === "absent") return;
  const { options } = invocation;
  if ((options.id === undefined) !== (options.supervisor === undefined)) {
    program.error(`error: ${options.id === undefined ? "--supervisor needs --id" : "--id needs --supervisor"}`);
  }
  if (invocation.mode !== "fuse") return;
  const { mountpoint, prefetchFiles, bootstrap, config, localfsDir, threadNum } = invocation.options as FuseOptions & {
    threadNum?: number;
  };
  if (threadNum !== undefined) Object.assign(options, { fuseThreads: threadNum });
  if (mountpoint === undefined) program.error("error: --mountpoint DIR is required (see nydusd --help)");
  if (prefetchFiles !== undefined && bootstrap === undefined) program.error("error: --prefetch-files needs --bootstrap");
  if (config !== undefined && localfsDir !== undefined) program.error("error: --config and --localfs-dir exclude each other");
}

function unsigned(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError("expected a number from 0 up.");
  return Number(text);
}

function threads(text: string): number {
  const count = unsigned(text);
  if (count < 1 || count > 1024) throw new InvalidArgumentError("expected 1 to 1024.");
  return count;
}

/** `nydus-image [GLOBAL OPTIONS] <VERB> [OPTIONS] [ARGS]`. Source: spec/nydus-image.md, section 1 */
import { Command, CommanderError, Option } from "commander";
import type { Context } from "./context.ts";
import { formatError, InconsistentError } from "./errors.ts";
import type { Io } from "./io.ts";
import { createLog, type LogLevel, logLevels } from "./log.ts";
import { loadVerbs, type Verb, verbs } from "./verbs.ts";
import { builderVersion } from "./version.ts";

const globalOptionWithValue = /^(-l|-L|--log-level|--log-file)$/;

/** 0 done, 1 failed while running, 2 wrong usage (and `merge` of images that do not fit together). */
export type ExitCode = 0 | 1 | 2;

export async function main(argv: readonly string[], io: Io): Promise<ExitCode> {
  const program = new Command("nydus-image");
  const context: Context = {
    io,
    log: () => {
      const { logLevel, logFile } = program.opts<{ logLevel: LogLevel; logFile?: string }>();
      return createLog({ level: logLevel, file: logFile, stderr: io.stderr });
    },
  };
  program
    .description("Builds, merges, checks and converts RAFS container images")
    .addOption(new Option("-l, --log-level <level>", "least level that is logged").choices(logLevels).default("info"))
    .option("-L, --log-file <path>", "log to this file instead of standard error")
    .version(builderVersion, "-V, --version");
  const globalFirst = hoistGlobalOptions(argv);
  for (const add of await loadVerbs(verbOf(globalFirst))) add(program, context);
  for (const command of [program, ...allCommands(program)]) {
    command.exitOverride().configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: (text) => io.stderr.write(text) });
  }
  if (argv.length === 0) {
    io.stdout.write("Usage: [OPTIONS] [COMMAND]\n");
    return 0;
  }
  try {
    await program.parseAsync(globalFirst, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof InconsistentError) {
      context.log().error(`message:${error.message}`);
      return 2;
    }
    io.stderr.write(formatError(error));
    return 1;
  }
  return 0;
}

/** The verb of a command line with the global options in front, if it is one of ours. */
function verbOf(argv: readonly string[]): Verb | undefined {
  let at = 0;
  while (argv[at]?.startsWith("-")) at += globalOptionWithValue.test(argv[at]) ? 2 : 1;
  return Object.keys(verbs).find((name): name is Verb => name === argv[at]);
}

function* allCommands(command: Command): Iterable<Command> {
  for (const child of command.commands) {
    yield child;
    yield* allCommands(child);
  }
}

/** Global options are accepted behind the verb too; commander wants them in front. */
export function hoistGlobalOptions(argv: readonly string[]): string[] {
  const global: string[] = [];
  const rest: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i];
    if (argument === "--") {
      rest.push(...argv.slice(i));
      break;
    }
    if (globalOptionWithValue.test(argument) && i + 1 < argv.length) global.push(argument, argv[++i]);
    else if (/^--log-(level|file)=/.test(argument) || /^-[lL]./.test(argument)) global.push(argument);
    else rest.push(argument);
  }
  return [...global, ...rest];
}

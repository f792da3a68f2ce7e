/** `nydusify [GLOBAL OPTIONS] COMMAND [OPTIONS]`: images in registries. Source: spec/nydusify.md */
import { Command, CommanderError, Option } from "commander";
import { addConvert } from "../commands/convert.ts";
import type { Context } from "../context.ts";
import { formatError } from "../errors.ts";
import type { Io } from "../io.ts";
import { switchOption } from "../switch-option.ts";
import { builderVersion } from "../version.ts";
import { addBuild } from "./build.ts";
import { addCheck } from "./check.ts";
import { addChunkdict } from "./chunkdict.ts";
import { addCommit } from "./commit.ts";
import { addCopy } from "./copy.ts";
import { createNydusifyLog, type Level, levels, type NydusifyLog } from "./log.ts";
import { addMount } from "./mount.ts";
import { addOptimize } from "./optimize.ts";

/** There is no other exit status. */
export async function nydusify(argv: readonly string[], io: Io): Promise<0 | 1> {
  const program = new Command("nydusify");
  let opened: NydusifyLog | undefined;
  const log = (): NydusifyLog => {
    const { debug, logLevel, logFile } = program.opts<{ debug?: boolean; logLevel: string; logFile?: string }>();
    opened ??= createNydusifyLog({ level: debug ? "debug" : levelOf(logLevel), file: logFile, stderr: io.stderr });
    return opened;
  };
  const context: Context = { io, log };
  program
    .description("Converts, checks, mounts and copies container images in the nydus format")
    .addOption(switchOption("-D, --debug", "log at level debug", "DEBUG_LOG_LEVEL"))
    .addOption(new Option("-l, --log-level <level>", `least level that is logged: ${levels.join(", ")}`).default("info").env("LOG_LEVEL"))
    .addOption(new Option("--log-file <path>", "log to this file instead of standard error").env("LOG_FILE"))
    .version(`nydusify ${builderVersion}, node ${process.version}`, "-v, --version");
  addConvert(program, context);
  addCheck(program, context);
  addMount(program, context);
  addBuild(program, context);
  addCopy(program, context);
  addCommit(program, context);
  addOptimize(program, context);
  addChunkdict(program, context);
  for (const command of [program, ...program.commands.flatMap((each) => [each, ...each.commands])])
    command.exitOverride().configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: (text) => io.stderr.write(text) });
  if (argv.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync([...argv], { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 1;
    log().fatal(oneLine(error));
    return 1;
  }
}

/** An unknown word is `info`, as with the original. */
const levelOf = (text: string): Level => levels.find((level) => level === text) ?? "info";

/** `message: cause: cause` */
function oneLine(error: unknown): string {
  return formatError(error)
    .replace(/^Error: /, "")
    .split("\n")
    .map((line) => line.trim().replace(/^\d+: /, ""))
    .filter((line) => line !== "" && line !== "Caused by:")
    .join(": ");
}

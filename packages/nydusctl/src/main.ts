import { NydusApiError } from "@nydus-ts/nydus-api";
import { Command, CommanderError, InvalidArgumentError } from "commander";
import type { MainIo } from "./commands/context.ts";
import { addDaemonCommands } from "./commands/daemon.ts";
import { addDoctorCommand } from "./commands/doctor.ts";
import { addExplainCommand } from "./commands/explain.ts";
import { addMetricsCommand } from "./commands/metrics.ts";
import { addMountCommands } from "./commands/mount.ts";
import { NydusctlError } from "./errors.ts";
import { versionText } from "./version.ts";

/** 0 done, 1 failed (doctor: something is wrong), 2 wrong command line. */
export type ExitCode = 0 | 1 | 2;

/** Runs one command of nydusctl. Source of commands and layouts: spec/nydusctl.md. */
export async function main(argv: readonly string[], io: MainIo): Promise<ExitCode> {
  let exitCode: ExitCode = 0;
  const program = new Command("nydusctl")
    .description("Looks at and steers a running nydusd")
    .option("-S, --sock <path>", "API socket of nydusd")
    .option("-r, --raw", "print the daemon's JSON")
    .option("--timeout <ms>", "milliseconds a call may take", timeout)
    .version(versionText(), "-V, --version", "print version and build")
    .showSuggestionAfterError();
  addDaemonCommands(program, io);
  addMetricsCommand(program, io);
  addMountCommands(program);
  addExplainCommand(program, io);
  addDoctorCommand(program, io, () => {
    exitCode = 1;
  });
  for (const command of [program, ...program.commands]) {
    command.configureOutput({ writeOut: io.writeOut, writeErr: io.writeErr }).exitOverride();
  }
  try {
    await program.parseAsync(argv, { from: "user" });
    return exitCode;
  } catch (error) {
    return report(error, io);
  }
}

function report(error: unknown, io: MainIo): ExitCode {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof NydusctlError || error instanceof NydusApiError) {
    io.writeErr(`Error: ${error.message}\n`);
    return error.code === "CTL_USAGE" ? 2 : 1;
  }
  throw error;
}

function timeout(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError("expected milliseconds from 1 up.");
  return Number(text);
}

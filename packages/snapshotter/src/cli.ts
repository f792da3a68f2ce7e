import { Command, CommanderError, InvalidArgumentError } from "commander";
import type { Overrides } from "./config/load.ts";
import { versionText } from "./version.ts";

export type Invocation =
  | { readonly kind: "run"; readonly config: string | undefined; readonly overrides: Overrides }
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** The command line. Single and double dashes are both accepted. Source: spec/snapshotter.md 1.1. */
export function parseCommandLine(argv: readonly string[], io: { writeOut(text: string): void; writeErr(text: string): void }): Invocation {
  const boolean = (text: string): boolean => {
    if (/^(true|1|t|yes)$/i.test(text)) return true;
    if (/^(false|0|f|no)$/i.test(text)) return false;
    throw new InvalidArgumentError('expected "true" or "false"');
  };
  const command = new Command("containerd-nydus-grpc")
    .description("containerd snapshotter for lazily loaded nydus images")
    .option("--root <dir>", "working directory (at most 70 bytes)")
    .option("--address <socket>", "unix socket of the gRPC service")
    .option("--config <file>", "configuration (TOML); without it the defaults hold")
    .option("--nydus-image <path>", "nydus-image program")
    .option("--nydusd <path>", "nydusd program")
    .option("--nydusd-config <file>", "template of nydusd's configuration (JSON)")
    .option("--config-path <file>", "the same as --nydusd-config")
    .option("--nydus-overlayfs-path <path>", "mount helper for kata")
    .option("--daemon-mode <mode>", "shared (one nydusd for all images), dedicated, none")
    .option("--fs-driver <driver>", "fusedev")
    .option("--log-level <level>", "error, warn, info, debug, trace")
    .option("--log-to-stdout [bool]", "log to standard output instead of a file", boolean)
    .option("--version", "print the version")
    .exitOverride()
    .configureOutput({ writeOut: io.writeOut, writeErr: io.writeErr })
    .allowExcessArguments(false);
  try {
    command.parse(argv.map(doubleDash), { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return { kind: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
    throw error;
  }
  const given = command.opts<Record<string, string | boolean | undefined>>();
  if (given["version"] === true) {
    io.writeOut(versionText());
    return { kind: "done", exitCode: 0 };
  }
  const text = (name: string): string | undefined => (typeof given[name] === "string" && given[name] !== "" ? given[name] : undefined);
  return {
    kind: "run",
    config: text("config"),
    overrides: {
      root: text("root"),
      address: text("address"),
      nydusd: text("nydusd"),
      nydusImage: text("nydusImage"),
      nydusdConfig: text("nydusdConfig") ?? text("configPath"),
      nydusOverlayfsPath: text("nydusOverlayfsPath"),
      daemonMode: text("daemonMode"),
      fsDriver: text("fsDriver"),
      logLevel: text("logLevel"),
      logToStdout: given["logToStdout"] as boolean | undefined,
    },
  };
}

const doubleDash = (argument: string): string => (/^-[a-z][a-z-]+(=|$)/.test(argument) ? `-${argument}` : argument);

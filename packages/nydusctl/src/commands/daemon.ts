import type { Command } from "commander";
import { Argument } from "commander";
import { infoText } from "../render/info.ts";
import { clientOf, compact, isRaw, type MainIo } from "./context.ts";

/** info, set, backend, events, inflight. */
export function addDaemonCommands(program: Command, io: MainIo): void {
  program
    .command("info")
    .description("version, state and mounted images")
    .action(async (_options, command: Command) => {
      const info = await clientOf(command).info();
      io.writeOut(isRaw(command) ? compact(info) : infoText(info));
    });
  program
    .command("set")
    .description("changes a setting: set log-level off|error|warn|info|debug|trace")
    .addArgument(new Argument("<kind>").choices(["log-level"]))
    .argument("<value>")
    .action(async (_kind: string, value: string, _options, command: Command) => {
      await clientOf(command).setLogLevel(value);
    });
  program
    .command("backend")
    .description("superblock summary of a mounted image")
    .requiredOption("-m, --mountpoint <path>", "path inside the daemon's tree")
    .action(async (options: { mountpoint: string }, command: Command) => {
      const summary = await clientOf(command).backend(options.mountpoint);
      io.writeOut(isRaw(command) ? compact(summary) : pairs(summary));
    });
  program
    .command("events")
    .description("the last errors of back ends")
    .action(async (_options, command: Command) => {
      const events = await clientOf(command).events();
      io.writeOut(isRaw(command) ? compact(events) : events.errors.map((text) => `${text}\n`).join("") || "no errors\n");
    });
  program
    .command("inflight")
    .description("requests of the kernel that are being served")
    .action(async (_options, command: Command) => {
      const requests = await clientOf(command).inflight();
      const now = Date.now() / 1000;
      const lines = requests.map(
        (request) =>
          `unique=${request.unique} opcode=${request.opcode} node=${request.inode} for ${Math.max(0, Math.round(now - request.timestamp_secs))} s\n`,
      );
      io.writeOut(isRaw(command) ? compact(requests) : lines.join("") || "nothing in flight\n");
    });
}

function pairs(record: Record<string, unknown>): string {
  return Object.entries(record)
    .map(([key, value]) => `${`${key}:`.padEnd(32)}${JSON.stringify(value)}\n`)
    .join("");
}

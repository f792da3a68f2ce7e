/** `nydus-image inspect`: look around in an image, by hand or one request at a time. Source: spec/nydus-image.md, section 13.2 */
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { type Command, Option } from "commander";
import { readBootstrapFile } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { Inspector } from "../inspector.ts";
import { chooseBootstrap } from "./check.ts";

interface InspectFlags {
  bootstrap?: string;
  request?: string;
}

const prompt = "Inspecting RAFS :> ";

export function addInspect(program: Command, context: Context): void {
  program
    .command("inspect")
    .description("show what is in a bootstrap: interactively, or the answer to one request as JSON")
    .argument("[BOOTSTRAP]", "file to look into")
    .option("-B, --bootstrap <path>", "file to look into (deprecated: give it as argument)")
    .addOption(new Option("-D, --blob-dir <dir>", "directory of the blobs").conflicts("config"))
    .option("-C, --config <path>", "storage configuration file")
    .option("-R, --request <command>", "run one command and print its result as JSON")
    .action(async (argument: string | undefined, flags: InspectFlags, command: Command) => {
      const inspector = new Inspector(await readBootstrapFile(chooseBootstrap(argument, flags.bootstrap, command)));
      if (flags.request !== undefined) request(context, inspector, flags.request);
      else await converse(context, inspector);
    });
}

function words(line: string): string[] {
  return line.split(/[ \t\n\r\f]+/).filter((word) => word !== "");
}

function request(context: Context, inspector: Inspector, line: string): void {
  const answer = inspector.run(words(line));
  if (!answer) throw new NydusImageError("IMAGE_ARGUMENT", `Unsupported command: ${line}; try one of ${inspector.commands.join(", ")}`);
  if (answer.json === undefined) context.io.stdout.write(answer.text);
  context.io.stdout.write(JSON.stringify(answer.json ?? null));
}

/** Reads commands until `exit`, or the end of the input. A command that fails says so, and the conversation goes on. */
async function converse(context: Context, inspector: Inspector): Promise<void> {
  const { stdout } = context.io;
  stdout.write(prompt);
  for await (const line of createInterface({ input: Readable.from(context.io.stdin), terminal: false })) {
    const command = words(line);
    if (command[0] === "exit" || command[0] === "q") return;
    if (command.length > 0) stdout.write(answerTo(inspector, command));
    stdout.write(prompt);
  }
}

function answerTo(inspector: Inspector, command: readonly string[]): string {
  try {
    return inspector.run(command)?.text ?? `Unsupported command: ${command[0]}\n${inspector.help}`;
  } catch (error) {
    return `Failed to execute command, ${(error as Error).message}\n`;
  }
}

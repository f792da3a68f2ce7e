import { readFileSync, statSync } from "node:fs";
import { type Command, Option } from "commander";
import { NydusctlError } from "../errors.ts";
import { configBytesMax, mountTimeoutMs } from "../limits.ts";
import { clientOf } from "./context.ts";

interface MountOptions {
  readonly source: string;
  readonly config?: string;
  readonly mountpoint: string;
  readonly type: string;
  readonly prefetchFiles?: string;
  readonly probe?: boolean;
}

/** mount, remount, umount. */
export function addMountCommands(program: Command): void {
  mountOptions(program.command("mount").description("mounts an image in the daemon"))
    .option("--prefetch-files <file>", "text file, one absolute path a line")
    .option("--probe", "fail if the image's data can't be reached now")
    .action(async (options: MountOptions, command: Command) => {
      await clientOf(command).mount(options.mountpoint, requestOf(options), { timeoutMs: mountTimeoutMs });
    });
  mountOptions(program.command("remount").description("gives a mounted image another configuration")).action(
    async (options: MountOptions, command: Command) => {
      await clientOf(command).remount(options.mountpoint, requestOf(options), { timeoutMs: mountTimeoutMs });
    },
  );
  program
    .command("umount")
    .description("unmounts an image")
    .requiredOption("-m, --mountpoint <path>", "path inside the daemon's tree")
    .action(async (options: { mountpoint: string }, command: Command) => {
      await clientOf(command).umount(options.mountpoint);
    });
}

function mountOptions(command: Command): Command {
  return command
    .requiredOption("-s, --source <path>", "bootstrap file, as the daemon sees it")
    .option("-c, --config <file>", "configuration file; its text is sent")
    .requiredOption("-m, --mountpoint <path>", "path inside the daemon's tree")
    .addOption(new Option("-t, --type <type>", "kind of file system").choices(["rafs", "passthrough_fs"]).makeOptionMandatory());
}

function requestOf(options: MountOptions): Parameters<ReturnType<typeof clientOf>["mount"]>[1] {
  if (options.config === undefined && options.type === "rafs")
    throw new NydusctlError("CTL_USAGE", "--config FILE is required for --type rafs");
  const files = options.prefetchFiles === undefined ? undefined : readText(options.prefetchFiles, "prefetch list");
  return {
    source: options.source,
    fs_type: options.type,
    config: options.config === undefined ? "" : readText(options.config, "mount config"),
    ...(files === undefined
      ? {}
      : {
          prefetch_files: files
            .split("\n")
            .map((line) => line.trim())
            .filter((line) => line !== ""),
        }),
    ...(options.probe === true ? { probe: true } : {}),
  };
}

function readText(path: string, what: string): string {
  try {
    if (statSync(path).size > configBytesMax) throw new NydusctlError("CTL_FILE", `${path}: larger than ${configBytesMax} bytes`);
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (cause instanceof NydusctlError) throw cause;
    throw new NydusctlError("CTL_FILE", `failed to read ${what} ${path} (${(cause as NodeJS.ErrnoException).code})`, { cause });
  }
}

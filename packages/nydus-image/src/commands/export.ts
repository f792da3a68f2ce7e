/** `nydus-image export --block`: an image as a raw block device. Source: spec/nydus-image.md, sections 3.8 and 15 */
import { readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { localfsBackend } from "@nydus-ts/chunk-store";
import { type Command, InvalidArgumentError, Option } from "commander";
import { deviceLayout, writeDevice } from "../block-device.ts";
import { readBootstrapFile } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { ImageChunks } from "../image-chunks.ts";
import { featuresLine } from "../text.ts";
import { writeVerityTree } from "../verity.ts";
import { writeWholeFile } from "../whole-file.ts";

interface ExportFlags {
  bootstrap?: string;
  localfsDir?: string;
  config?: string;
  threads: number;
  output?: string;
  verity?: true;
}

const threadsMax = 1024;

export function addExport(program: Command, context: Context): void {
  program
    .command("export")
    .description("write an image as a raw block device, which the kernel mounts as EROFS")
    .requiredOption("--block", "as a block device; the only form there is")
    .option("-B, --bootstrap <path>", "image (with --localfs-dir)")
    .addOption(new Option("-D, --localfs-dir <dir>", "directory of the image's blobs (with --bootstrap)").conflicts("config"))
    .option("-C, --config <path>", "blob cache entry, JSON, that says where image and blobs are")
    .addOption(new Option("--threads <n>", "accepted; the output is written in order").argParser(parseThreads).default(4))
    .option("-O, --output <path>", "the device: a file, or a block device; default: the bootstrap's name and .disk in --localfs-dir")
    .option("--verity", "append the hash tree of dm-verity and print the options that open it")
    .action(async (flags: ExportFlags, command: Command) => {
      requireTogether(flags, command);
      try {
        await exportBlock(context, flags);
      } catch (cause) {
        throw new NydusImageError("IMAGE_FILE", "failed to export RAFS filesystem as raw block device image", { cause });
      }
    });
}

function parseThreads(text: string): number {
  if (!/^[0-9]+$/.test(text)) throw new InvalidArgumentError(`invalid thread number configuration: ${text}`);
  const threads = Number(text);
  if (threads < 1 || threads > threadsMax) throw new InvalidArgumentError(`invalid thread number ${text}, valid range: [1-${threadsMax}]`);
  return threads;
}

function requireTogether(flags: ExportFlags, command: Command): void {
  const missing: string[] = [];
  if (flags.bootstrap !== undefined && flags.localfsDir === undefined) missing.push("--localfs-dir <dir>");
  if (flags.localfsDir !== undefined && flags.bootstrap === undefined) missing.push("--bootstrap <path>");
  if (flags.localfsDir === undefined && flags.output === undefined) missing.push("--output <path>");
  if (missing.length === 0) return;
  command.error(
    `error: the following required arguments were not provided:\n  ${missing.join("\n  ")}\n\nFor more information, try '--help'.`,
    { exitCode: 2 },
  );
}

async function exportBlock(context: Context, flags: ExportFlags): Promise<void> {
  const { io } = context;
  const image = flags.config === undefined ? { bootstrap: flags.bootstrap, directory: flags.localfsDir } : await readEntry(flags.config);
  if (image.bootstrap === undefined || image.directory === undefined)
    throw new NydusImageError("IMAGE_ARGUMENT", "both option `-C/--config` and `-D/--localfs-dir` are missing");
  const file = await readBootstrapFile(image.bootstrap);
  context.log().info(featuresLine(file.bootstrap));
  const layout = deviceLayout(file);
  await using backend = localfsBackend({ dir: image.directory });
  const chunks = new ImageChunks(file, backend, io.signal);
  const path = flags.output ?? join(image.directory, `${basename(image.bootstrap)}.disk`);
  const isDevice = await stat(path).then(
    (found) => found.isBlockDevice(),
    () => false,
  );
  await writeWholeFile(path, async (output) => {
    await writeDevice(output, file, layout, chunks, !isDevice);
    if (!flags.verity) return;
    const { blockCount, blockSize } = layout;
    const tree = await writeVerityTree(output, blockCount, blockSize, io.signal);
    io.stdout.write(
      `dm-verity options: --no-superblock --format=1 -s "" --hash=sha256 --data-block-size=${blockSize} --hash-block-size=4096 ` +
        `--data-blocks ${blockCount} --hash-offset ${tree.offset} ${tree.rootDigest.toString("hex")}\n`,
    );
  });
}

/** A blob cache entry as a file: `{"config_v2": {"metadata_path": …, "backend": {"type": "localfs", "localfs": {"dir": …}}}}`. */
async function readEntry(path: string): Promise<{ bootstrap: string; directory: string }> {
  const refuse = (fault: string, cause?: unknown): never => {
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid configuration ${path}: ${fault}`, { cause });
  };
  const text = await readFile(path, "utf8").catch((cause: unknown) => refuse("it can not be read", cause));
  interface Entry {
    config_v2?: { metadata_path?: unknown; backend?: { type?: unknown; localfs?: { dir?: unknown } } };
  }
  let entry: Entry | null = null;
  try {
    entry = JSON.parse(text) as Entry | null;
  } catch (cause) {
    refuse("it is not JSON", cause);
  }
  const { metadata_path: bootstrap, backend } = entry?.config_v2 ?? {};
  if (typeof bootstrap !== "string") return refuse("config_v2.metadata_path is missing");
  if (backend?.type !== "localfs") throw unsupported(`backend type ${JSON.stringify(backend?.type)} in ${path}`, "use localfs");
  if (typeof backend.localfs?.dir !== "string") return refuse("config_v2.backend.localfs.dir is missing");
  return { bootstrap, directory: backend.localfs.dir };
}

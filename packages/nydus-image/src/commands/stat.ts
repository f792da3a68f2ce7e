/** `nydus-image stat`: sizes of an image, and what images share. Source: spec/nydus-image.md, section 13.3 */
import { readdir } from "node:fs/promises";
import { extname, join, resolve } from "node:path";
import type { Digester } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import { readBootstrapFile } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { describeStatistics, describeThresholds, StatisticsCollector } from "../statistics.ts";
import { writeWholeText } from "../whole-file.ts";

interface StatFlags {
  bootstrap?: string;
  blobDir?: string;
  target?: string;
  digester: Digester;
  outputJson?: string;
}

export function addStat(program: Command, context: Context): void {
  program
    .command("stat")
    .description("count files, bytes and chunks of an image, and what images share")
    .option("-B, --bootstrap <path>", "base image")
    .option("-D, --blob-dir <dir>", "directory of base images: every file without an extension")
    .option("-T, --target <path>", "image that is compared with the base")
    .option("-C, --config <path>", "storage configuration file")
    .addOption(new Option("--digester <name>", "digest of the chunks that are compared").choices(["blake3", "sha256"]).default("blake3"))
    .option("-J, --output-json <path>", "file for the result as JSON, instead of text")
    .action(async (flags: StatFlags) => {
      await stat(context, flags);
    });
}

async function stat(context: Context, flags: StatFlags): Promise<void> {
  if (flags.bootstrap === undefined && flags.blobDir === undefined) {
    throw new NydusImageError("IMAGE_ARGUMENT", "one of `--bootstrap` and `--blob-dir` must be specified");
  }
  const collector = new StatisticsCollector(flags.digester);
  const isDirectory = flags.bootstrap === undefined;
  if (flags.bootstrap !== undefined) collector.addBase((await readBootstrapFile(flags.bootstrap)).bootstrap);
  else await addDirectory(context, collector, flags.blobDir!, flags.target);
  if (flags.target !== undefined) collector.addTarget((await readBootstrapFile(flags.target)).bootstrap);
  const rows = isDirectory ? collector.thresholds() : [];
  if (flags.outputJson !== undefined) {
    const { base, target } = collector;
    const value = { dedup_enabled: isDirectory, target_enabled: flags.target !== undefined, base_image: base, target_image: target };
    await writeWholeText(flags.outputJson, JSON.stringify(value));
    return;
  }
  let text = flags.target === undefined ? "" : `Target Image Statistics:\n${describeStatistics(collector.target)}`;
  text += `\n\nBase Image Statistics:\n${describeStatistics(collector.base)}`;
  if (isDirectory) text += `\n\nChunk Deduplication Statistics:\n${describeThresholds(rows)}`;
  context.io.stdout.write(text);
}

/** Data blobs lie in the same directory, so what can not be read as an image is passed over. */
async function addDirectory(
  context: Context,
  collector: StatisticsCollector,
  directory: string,
  target: string | undefined,
): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_FILE", `can not read the directory ${directory}`, { cause });
  });
  for (const { name } of entries.filter((entry) => entry.isFile()).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(directory, name);
    if (extname(name) !== "" || (target !== undefined && resolve(path) === resolve(target))) continue;
    try {
      collector.addBase((await readBootstrapFile(path)).bootstrap);
    } catch (error) {
      context.log().debug(`${path} is passed over: ${(error as Error).message}`);
    }
  }
}

/** `nydus-image optimize`: the data of listed files, together in one new blob. Source: spec/nydus-image.md, sections 3.6, 4.3 and 17 */
import { readFile } from "node:fs/promises";
import { writeArtifact } from "@nydus-ts/builder";
import { type Command, Option } from "commander";
import { addBackendOptions, type BackendFlags, openBackend } from "../blob-backend.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { loadLayerFile } from "../layer-file.ts";
import { optimizeImage } from "../optimization.ts";
import { isDirectory } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import { parsePrefetchFiles } from "../prefetch-files.ts";
import { compressorOf } from "./merge.ts";

interface OptimizeFlags extends BackendFlags {
  bootstrap: string;
  prefetchFiles?: string;
  outputBlobDir?: string;
  outputBootstrap: string;
  config?: string;
  outputJson?: string;
}

export function addOptimize(program: Command, context: Context): void {
  const command = program
    .command("optimize")
    .description("copy the data of listed files into one new blob, which is read first")
    .requiredOption("-B, --bootstrap <path>", "image")
    .option("-p, --prefetch-files <path>", "list of files, JSON")
    .option("--output-blob-dir <dir>", "directory for the new blob")
    .option("-O, --output-bootstrap <path>", "file for the new bootstrap", "optimized_bootstrap")
    .option("-C, --config <path>", "storage configuration file")
    .addOption(new Option("-D, --blob-dir <dir>", "directory of the image's blobs").conflicts("config"))
    .option("-b, --blob <path>", "accepted, not used");
  addBackendOptions(command)
    .option("-J, --output-json <path>", "file for the result as JSON")
    .action(async (flags: OptimizeFlags) => {
      await optimize(context, flags);
    });
}

async function optimize(context: Context, flags: OptimizeFlags): Promise<void> {
  const { outputBlobDir, prefetchFiles } = flags;
  if (outputBlobDir === undefined) throw new NydusImageError("IMAGE_ARGUMENT", "missing parameter `output-blob-dir`");
  if (prefetchFiles === undefined) throw new NydusImageError("IMAGE_ARGUMENT", "missing parameter `prefetch-files`");
  const log = context.log();
  const file = await loadLayerFile(flags.bootstrap, "bootstrap", log);
  await using backend = await openBackend({ ...flags, blob: undefined }, "--blob-dir or --backend-type");
  if (!(await isDirectory(outputBlobDir)))
    throw new NydusImageError("IMAGE_ARGUMENT", `directory to store blobs does not exist: ${outputBlobDir}`);
  if (file.bootstrap.blobs.length === 0) throw new NydusImageError("IMAGE_FILE", "No blob info found in superblock");
  const list = parsePrefetchFiles(await readListFile(prefetchFiles));
  for (const warning of list.warnings) log.warn(warning);
  const { bootstrap, blobs } = await optimizeImage(file, list.files, {
    backend,
    directory: outputBlobDir,
    warn: (line) => log.warn(line),
    signal: context.io.signal,
  });
  await writeArtifact({ file: flags.outputBootstrap }, bootstrap);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: flags.outputBootstrap,
      blobs: blobs.map(({ id }) => id),
      fsVersion: String(file.bootstrap.version) as "5" | "6",
      compressor: compressorOf(file.bootstrap.flags),
    },
    { compact: false },
  );
}

export async function readListFile(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_FILE", `failed to open ${path}`, { cause });
  });
}

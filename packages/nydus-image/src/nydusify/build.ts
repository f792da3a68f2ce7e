/** `nydusify build`, also `pack`: a directory becomes a bootstrap and a blob. Source: spec/nydusify.md, section 7 */
import { existsSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { extname, join, parse } from "node:path";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { main } from "../main.ts";
import { isDirectory } from "../options.ts";
import { backendTable, bucketExample } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { type BuildBucket, openBuildBucket } from "./build-bucket.ts";

interface BuildFlags {
  sourceDir?: string;
  targetDir?: string;
  outputDir: string;
  name?: string;
  meta?: string;
  bootstrap?: string;
  backendPush?: boolean;
  backendType: string;
  backendConfig?: string;
  backendConfigFile?: string;
  compact?: boolean;
  compactConfigFile?: string;
  chunkDict?: string;
  parentBootstrap?: string;
  fsVersion: string;
  compressor: string;
  chunkSize: string;
}

export function addBuild(program: Command, context: Context): void {
  const command = program
    .command("build")
    .alias("pack")
    .description("build a nydus file system from a directory")
    .addOption(new Option("--source-dir <dir>", "directory to build from").env("SOURCE_DIR"))
    .addOption(new Option("--target-dir <dir>").hideHelp())
    .addOption(new Option("-o, --output-dir <dir>", "directory for the result").default("./.nydus-build-output").env("OUTPUT_DIR"))
    .addOption(new Option("--name <name>", "name of the bootstrap").env("BOOTSTRAP"))
    .addOption(new Option("--meta <name>").hideHelp())
    .addOption(new Option("--bootstrap <name>").env("IMAGE_NAME").hideHelp())
    .addOption(switchOption("--backend-push", "store the result in object storage too", "BACKEND_PUSH"))
    .addOption(new Option("--backend-type <type>", "kind of that storage: oss, s3").default("oss").env("BACKEND_TYPE"))
    .addOption(
      new Option(
        "--backend-config <json>",
        `${bucketExample}, and "blob_prefix" and "meta_prefix" before the names of blobs and bootstraps`,
      )
        .env("BACKEND_CONFIG")
        .conflicts("backendConfigFile"),
    )
    .addOption(new Option("--backend-config-file <path>", "the same in a file").env("BACKEND_CONFIG_FILE"))
    .addOption(
      switchOption("--compact", "first write the parent's blobs anew, which are in --output-dir, without what nobody uses", "COMPACT"),
    )
    .addOption(
      new Option(
        "--compact-config-file <path>",
        'limits of it as JSON: {"min_used_ratio": 5, "compact_blob_size": 10485760, "max_compact_size": 104857600, "layers_to_compact": 32}',
      ).env("COMPACT_CONFIG_FILE"),
    )
    .addOption(new Option("--chunk-dict <bootstrap=path>", "bootstrap whose chunks are not stored again").env("CHUNK_DICT"))
    .addOption(new Option("--parent-bootstrap <path>", "bootstrap of the layers below").env("PARENT_BOOTSTRAP"))
    .addOption(new Option("--fs-version <version>", "RAFS version").choices(["5", "6"]).default("6").env("FS_VERSION"))
    .addOption(
      new Option("--compressor <name>", "compressor of chunks").choices(["none", "lz4_block", "zstd"]).default("zstd").env("COMPRESSOR"),
    )
    .addOption(new Option("--chunk-size <size>", "bytes of a chunk").default("0x100000").env("CHUNK_SIZE"));
  command.addOption(new Option("--nydus-image <path>").hideHelp());
  command.action(async (flags: BuildFlags) => {
    await build(context, flags);
  });
}

async function build(context: Context, flags: BuildFlags): Promise<void> {
  const source = flags.sourceDir ?? flags.targetDir;
  const name = flags.name ?? flags.meta ?? flags.bootstrap;
  if (source === undefined) throw new NydusImageError("IMAGE_ARGUMENT", "--source-dir names no directory to build from");
  if (name === undefined || name === "" || name.includes("/"))
    throw new NydusImageError("IMAGE_ARGUMENT", "--name must be the file name of the bootstrap");
  if (!(await isDirectory(source))) throw new NydusImageError("IMAGE_ARGUMENT", `--source-dir ${source} is not a directory`);
  const text = flags.backendConfigFile === undefined ? flags.backendConfig : await readFile(flags.backendConfigFile, "utf8");
  if (flags.backendPush && text === undefined)
    throw new NydusImageError("IMAGE_ARGUMENT", "--backend-push needs to know where: give --backend-config or --backend-config-file");
  await using bucket = text === undefined ? undefined : openBuildBucket(flags.backendType, backendTable(text));
  await mkdir(flags.outputDir, { recursive: true });
  const bootstrap = join(flags.outputDir, extname(name) === "" ? `${name}.meta` : name);
  const blob = join(flags.outputDir, `${parse(name).name}.blob`);
  const outputJson = join(flags.outputDir, "output.json");
  const byId = flags.parentBootstrap !== undefined || flags.backendPush === true;
  const optional = (option: string, value: string | undefined) => (value === undefined ? [] : [option, value]);
  const parent =
    flags.compact && flags.parentBootstrap ? await compactParent(context, flags, flags.parentBootstrap, bucket) : flags.parentBootstrap;
  // nydus-image says itself what went wrong, as the original's program does for nydusify.
  const code = await main(
    [
      ...["create", "--log-level", "warn", "--bootstrap", bootstrap, "--output-json", outputJson],
      // Beside a parent, and in a bucket, the blob is found by its id.
      ...(byId ? ["--blob-dir", flags.outputDir] : ["--blob", blob]),
      ...optional("--parent-bootstrap", parent),
      ...optional("--chunk-dict", flags.chunkDict),
      ...[
        "--whiteout-spec",
        "oci",
        "--fs-version",
        flags.fsVersion,
        "--compressor",
        flags.compressor,
        "--chunk-size",
        flags.chunkSize,
        source,
      ],
    ],
    context.io,
  );
  if (code !== 0) throw new NydusImageError("IMAGE_SOURCE", `the directory ${source} can not be built`);
  const { blobs } = JSON.parse(await readFile(outputJson, "utf8")) as { blobs: string[] };
  const id = blobs.at(-1);
  const stored = id === undefined ? "" : byId ? join(flags.outputDir, id) : blob;
  if (flags.backendPush && bucket) {
    // Blobs of a parent that are not here are there: they were stored with it.
    const here = blobs.filter((each) => existsSync(join(flags.outputDir, each)));
    const pushed = await bucket.push({ bootstrap, name, directory: flags.outputDir, blobs: here }, context.io.signal);
    context
      .log()
      .info(`successfully built Nydus image (bootstrap:'${pushed.bootstrap}', blob:'${id === undefined ? "" : pushed.blobOf(id)}')`);
    return;
  }
  context.log().info(`successfully built Nydus image (bootstrap:'${bootstrap}', blob:'${stored}')`);
}

/** Limits of `compact`: names of the help, and those that the original takes instead. */
const compactLimits = [
  ["--min-used-ratio", "min_used_ratio", "5"],
  ["--compact-blob-size", "compact_blob_size", "10485760"],
  ["--max-compact-size", "max_compact_size", "104857600"],
  ["--layers-to-compact", "layers_to_compact", "32"],
] as const;

/** The parent with smaller blobs, or as it is if they can not be made smaller. Source: spec/nydusify.md, section 7, step 2 */
async function compactParent(context: Context, flags: BuildFlags, parent: string, bucket: BuildBucket | undefined): Promise<string> {
  const output = `${parent}.compact`;
  await rm(output, { force: true });
  const limits = flags.compactConfigFile === undefined ? {} : await readLimits(flags.compactConfigFile);
  const dictionary = flags.chunkDict === undefined ? [] : ["--chunk-dict", flags.chunkDict];
  const argv = ["compact", "--log-level", "warn", "--bootstrap", parent, "--blob-dir", flags.outputDir, "--output-bootstrap", output];
  const words = compactLimits.flatMap(([option, name, value]) => [option, limits[name.replaceAll("_", "")] ?? value]);
  const remote = bucket === undefined ? [] : ["--backend-type", flags.backendType, "--backend-config", bucket.blobsConfig];
  const code = await main([...argv, ...words, ...dictionary, ...remote], context.io);
  const where = bucket === undefined ? flags.outputDir : bucket.name;
  if (code !== 0)
    throw new NydusImageError("IMAGE_SOURCE", `the blobs of ${parent}, which are looked for in ${where}, can not be compacted`);
  return existsSync(output) ? output : parent;
}

async function readLimits(path: string): Promise<Record<string, string>> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (cause) {
    throw new NydusImageError("IMAGE_ARGUMENT", `--compact-config-file ${path} can not be read as JSON`, { cause });
  }
  const limits: Record<string, string> = {};
  for (const [name, limit] of Object.entries(typeof value === "object" && value !== null ? value : {})) {
    if (!/^[0-9]+$/.test(String(limit)))
      throw new NydusImageError("IMAGE_ARGUMENT", `--compact-config-file ${path}: ${name} is ${JSON.stringify(limit)}, expected a number`);
    limits[name.replaceAll("_", "").toLowerCase()] = String(limit);
  }
  return limits;
}

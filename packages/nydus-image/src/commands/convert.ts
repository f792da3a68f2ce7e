/** `nydus-image convert`: an OCI image in a registry or layout folder becomes a nydus image in a registry or layout folder. Flags as in nydusify: spec/nydusify.md, section 2.1 */
import { writeFile } from "node:fs/promises";
import type { Compressor, Digester, PrefetchPolicy } from "@nydus-ts/builder";
import { parsePrefetchPatterns } from "@nydus-ts/builder";
import {
  currentPlatform,
  dockerConfigCredentials,
  openImageSource,
  openImageTarget,
  type Platform,
  parsePlatform,
  parseReference,
} from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { convertImage } from "../convert/convert.ts";
import { createProgress } from "../convert/progress.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { readAllInput } from "../io.ts";
import { parseChunkSize } from "../options.ts";
import { builderVersion } from "../version.ts";

interface ConvertFlags {
  source: string;
  target?: string;
  targetSuffix?: string;
  sourceInsecure?: true;
  targetInsecure?: true;
  plainHttp?: true;
  platform?: string;
  allPlatforms?: true;
  fsVersion: "5" | "6";
  compressor: Compressor;
  digester: Digester;
  chunkSize: string;
  prefetchDir?: string;
  prefetchPatterns?: true;
  workDir?: string;
  outputJson?: string;
  [option: string]: unknown;
}

/** Options of nydusify that change the result and are not done: they are refused, not ignored. */
const refused = {
  sourceArchive: ["--source-archive", "unpack it and give the folder as --source oci:DIR"],
  targetArchive: ["--target-archive", "write a layout folder with --target oci:DIR"],
  backendType: ["--backend-type", "blobs go to the target's registry or folder"],
  buildCache: ["--build-cache", "a second run writes no blob that is there already"],
  chunkDict: ["--chunk-dict", "convert without it"],
  mergePlatform: ["--merge-platform", "give the converted image a tag of its own"],
  ociRef: ["--oci-ref", "convert with the data stored anew"],
  withReferrer: ["--with-referrer", "give the converted image a tag of its own"],
  reverse: ["--reverse", "keep the OCI image"],
  batchSize: ["--batch-size", "leave it out"],
} as const;

export function addConvert(program: Command, context: Context): void {
  const command = program
    .command("convert")
    .description("convert an OCI image to a nydus image; both may be a registry reference or oci:DIR[:TAG]")
    .addOption(new Option("--source <image>", "image to convert").env("SOURCE").makeOptionMandatory())
    .addOption(new Option("--target <image>", "name of the result").env("TARGET"))
    .addOption(
      new Option("--target-suffix <text>", "the result is named as the source, with this text behind the tag").env("TARGET_SUFFIX"),
    )
    .addOption(new Option("--source-insecure", "accept any certificate of the source's registry").env("SOURCE_INSECURE"))
    .addOption(new Option("--target-insecure", "accept any certificate of the target's registry").env("TARGET_INSECURE"))
    .option("--plain-http", "talk HTTP to the registries of this run (loopback addresses: always)")
    .option("--platform <list>", "platforms to convert, such as linux/amd64,linux/arm64; default: this machine's")
    .option("--all-platforms", "convert every platform of the image")
    .addOption(new Option("-v, --fs-version <version>", "RAFS version").choices(["5", "6"]).default("6").env("FS_VERSION"))
    .addOption(
      new Option("--compressor <name>", "compressor of chunks").choices(["none", "lz4_block", "zstd"]).default("zstd").env("COMPRESSOR"),
    )
    .addOption(new Option("--digester <name>", "digest of chunks").choices(["blake3", "sha256"]).default("blake3"))
    .addOption(new Option("--fs-chunk-size, --chunk-size <size>", "bytes of a chunk").default("0x100000").env("FS_CHUNK_SIZE"))
    .addOption(new Option("--prefetch-dir <path>", "path that is fetched first, when an image is mounted").conflicts("prefetchPatterns"))
    .option("--prefetch-patterns", "read the paths that are fetched first from standard input, one a line")
    .option("--oci", "write OCI media types (always so)")
    .addOption(
      new Option("--work-dir <dir>", "directory for blobs until they are written; default: the system's temporary directory").env(
        "WORK_DIR",
      ),
    )
    .option("--output-json <path>", "file for sizes and times as JSON");
  for (const [flag] of Object.values(refused)) command.addOption(new Option(`${flag} [value]`).hideHelp());
  command.action(async (flags: ConvertFlags) => {
    await convert(context, flags);
  });
}

async function convert(context: Context, flags: ConvertFlags): Promise<void> {
  for (const [name, [flag, instead]] of Object.entries(refused)) {
    if (flags[name] !== undefined) throw unsupported(flag, instead);
  }
  if (flags.fsVersion === "5") throw unsupported("--fs-version 5", "convert to version 6");
  const log = context.log();
  const targetName = nameTarget(flags);
  const patterns = await prefetchPatterns(context, flags);
  const signal = context.io.signal;
  const registry = { credentials: dockerConfigCredentials({}), signal, ...(flags.plainHttp ? { scheme: "http" as const } : {}) };
  await using source = await openImageSource(flags.source, { ...registry, skipVerify: flags.sourceInsecure ?? false });
  await using target = await openImageTarget(targetName, { ...registry, skipVerify: flags.targetInsecure ?? false });
  const started = performance.now();
  const chunkSize = parseChunkSize(flags.chunkSize);
  log.info(`converting ${source.name} to ${target.name}`);
  const result = await convertImage({
    source,
    target,
    platforms: platformsOf(flags),
    compressor: flags.compressor,
    digester: flags.digester,
    chunkSize,
    prefetch: { policy: (patterns.length > 0 ? "fs" : "none") satisfies PrefetchPolicy, patterns },
    workDirectory: flags.workDir,
    builderVersion,
    progress: createProgress(context.io.stderr),
    signal,
  });
  const seconds = (performance.now() - started) / 1000;
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  log.info(
    `converted ${source.name} (${megabytes(result.sourceBytes)}) to ${target.name} (${megabytes(result.targetBytes)}) in ${seconds.toFixed(1)} s, ` +
      `${result.blobsWritten} blobs written, ${result.blobsThere} were there`,
  );
  context.io.stdout.write(`${result.descriptor.digest}\n`);
  if (flags.outputJson !== undefined) {
    const metrics = {
      SourceImageSize: result.sourceBytes,
      TargetImageSize: result.targetBytes,
      ConversionElapsed: Math.round(seconds * 1e9),
      TargetDigest: result.descriptor.digest,
      BlobsWritten: result.blobsWritten,
      BlobsThere: result.blobsThere,
    };
    await writeFile(flags.outputJson, JSON.stringify(metrics));
  }
}

function nameTarget(flags: ConvertFlags): string {
  if ((flags.target === undefined) === (flags.targetSuffix === undefined)) {
    throw new NydusImageError("IMAGE_ARGUMENT", "name the result with either --target or --target-suffix");
  }
  if (flags.target !== undefined) return flags.target;
  const source = parseReference(flags.source);
  if (source.digest !== undefined)
    throw new NydusImageError("IMAGE_ARGUMENT", "--target-suffix needs a source with a tag, not a digest: give --target");
  return `${source.normalized}${flags.targetSuffix}`;
}

function platformsOf(flags: ConvertFlags): Platform[] | undefined {
  if (flags.allPlatforms) return undefined;
  const words =
    flags.platform
      ?.split(",")
      .map((word) => word.trim())
      .filter((word) => word !== "") ?? [];
  return words.length === 0 ? [currentPlatform()] : words.map(parsePlatform);
}

async function prefetchPatterns(context: Context, flags: ConvertFlags): Promise<string[]> {
  const text = flags.prefetchPatterns ? await readAllInput(context.io) : (flags.prefetchDir ?? "");
  const { paths, warnings } = parsePrefetchPatterns(text);
  for (const warning of warnings) context.log().warn(warning);
  return paths;
}

/** `nydus-image convert`: an OCI image in a registry or layout folder becomes a nydus image in a registry or layout folder. Flags as in nydusify: spec/nydusify.md, section 2.1 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Compressor, Digester, PrefetchPolicy } from "@nydus-ts/builder";
import { parsePrefetchPatterns } from "@nydus-ts/builder";
import { tuneMalloc } from "@nydus-ts/linux";
import {
  currentPlatform,
  dockerConfigCredentials,
  type ImageTarget,
  type OpenImageOptions,
  openImageSource,
  openImageTarget,
  type Platform,
  parsePlatform,
  parseReference,
  RegistryImage,
} from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { targetStore } from "../convert/blob-store.ts";
import { BuildCache } from "../convert/build-cache.ts";
import { convertImage } from "../convert/convert.ts";
import type { LayerFormat } from "../convert/layer.ts";
import { openDictionary } from "../convert/dictionary.ts";
import { createProgress } from "../convert/progress.ts";
import { reverseImage } from "../convert/reverse.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { readAllInput } from "../io.ts";
import { packArchive, unpackArchive } from "../nydusify/archive.ts";
import { workDirectory } from "../work-directory.ts";
import { parseChunkSize } from "../options.ts";
import { bucketExample, givenBlobs } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { builderVersion } from "../version.ts";
import { parseBatchSize } from "./create-rules.ts";
import { writeWholeText } from "../whole-file.ts";

export interface ConvertFlags {
  source: string;
  target?: string;
  targetSuffix?: string;
  sourceArchive?: string;
  targetArchive?: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  plainHttp?: boolean;
  platform?: string;
  allPlatforms?: boolean;
  mergePlatform?: boolean;
  multiPlatform?: boolean;
  ociRef?: boolean;
  withReferrer?: boolean;
  reverse?: boolean;
  fsVersion: "5" | "6";
  fsAlignChunk?: boolean;
  backendAlignedChunk?: boolean;
  compressor: Compressor;
  digester: Digester;
  chunkSize: string;
  prefetchDir?: string;
  prefetchPatterns?: boolean;
  backendType?: string;
  backendConfig?: string;
  backendConfigFile?: string;
  backendForcePush?: boolean;
  batchSize: string;
  buildCache?: string;
  buildCacheTag?: string;
  buildCacheVersion: string;
  buildCacheInsecure?: boolean;
  buildCacheMaxRecords: string;
  chunkDict?: string;
  chunkDictInsecure?: boolean;
  workDir?: string;
  outputJson?: string;
  pushRetryCount: string;
  pushRetryDelay: string;
  [option: string]: unknown;
}

/** Options of nydusify that change the result and are not done: they are refused, not ignored. */
const refused = {
  sourceBackendType: ["--source-backend-type", "models can not be converted; images are read from registries and layout folders"],
} as const;

/** Accepted for the sake of scripts: without effect here, or done always. */
const ignored = ["--oci", "--docker-v2-format", "--nydus-image", "--source-backend-config"] as const;

export function addConvert(program: Command, context: Context): void {
  const command = program
    .command("convert")
    .description("convert an OCI image to a nydus image; both may be a registry reference or oci:DIR[:TAG]")
    .addOption(new Option("--source <image>", "image to convert").env("SOURCE").makeOptionMandatory())
    .addOption(new Option("--target <image>", "name of the result").env("TARGET"))
    .addOption(
      new Option("--target-suffix <text>", "the result is named as the source, with this text behind the tag").env("TARGET_SUFFIX"),
    )
    .addOption(new Option("--source-archive <path>", "read the image from this archive of an OCI layout").env("SOURCE_ARCHIVE"))
    .addOption(new Option("--target-archive <path>", "write the result as such an archive").env("TARGET_ARCHIVE"))
    .addOption(switchOption("--source-insecure", "accept any certificate of the source's registry", "SOURCE_INSECURE"))
    .addOption(switchOption("--target-insecure", "accept any certificate of the target's registry", "TARGET_INSECURE"))
    .addOption(switchOption("--plain-http", "talk HTTP to the registries of this run (loopback addresses: always)", "PLAIN_HTTP"))
    .option("--platform <list>", "platforms to convert, such as linux/amd64,linux/arm64; default: this machine's")
    .addOption(switchOption("--all-platforms", "convert every platform of the image"))
    .addOption(switchOption("--merge-platform", "the result is an index with the OCI images and the nydus images", "MERGE_PLATFORM"))
    .addOption(switchOption("--multi-platform", "the same").hideHelp())
    .addOption(switchOption("--oci-ref", "leave the layers as they are: the result is an index into them", "OCI_REF"))
    .addOption(switchOption("--with-referrer", "make the result a referrer of the source's manifest", "WITH_REFERRER"))
    .addOption(switchOption("--reverse", "convert a nydus image to an OCI image", "REVERSE"))
    .addOption(new Option("-v, --fs-version <version>", "RAFS version").choices(["5", "6"]).default("6").env("FS_VERSION"))
    .addOption(switchOption("--fs-align-chunk", "version 5: chunks start at multiples of 4 KiB", "FS_ALIGN_CHUNK"))
    .addOption(switchOption("--backend-aligned-chunk", "the same", "BACKEND_ALIGNED_CHUNK").hideHelp())
    .addOption(
      new Option("--compressor <name>", "compressor of chunks").choices(["none", "lz4_block", "zstd"]).default("zstd").env("COMPRESSOR"),
    )
    .addOption(new Option("--digester <name>", "digest of chunks").choices(["blake3", "sha256"]).default("blake3"))
    .addOption(new Option("--fs-chunk-size, --chunk-size <size>", "bytes of a chunk").default("0x100000").env("FS_CHUNK_SIZE"))
    .addOption(new Option("--batch-size <size>", "bytes of a batch of small chunks; 0 is off").default("0").env("BATCH_SIZE"))
    .addOption(
      new Option("--prefetch-dir <path>", "path that is fetched first, when an image is mounted")
        .env("PREFETCH_DIR")
        .conflicts("prefetchPatterns"),
    )
    .addOption(
      switchOption("--prefetch-patterns", "read the paths that are fetched first from standard input, one a line", "PREFETCH_PATTERNS"),
    )
    .addOption(new Option("--backend-type <type>", "store the data blobs beside the registry: oss, s3, localfs").env("BACKEND_TYPE"))
    .addOption(
      new Option("--backend-config <json>", `where: {"dir": "DIRECTORY"} or ${bucketExample}`)
        .env("BACKEND_CONFIG")
        .conflicts("backendConfigFile"),
    )
    .addOption(new Option("--backend-config-file <path>", "the same in a file").env("BACKEND_CONFIG_FILE"))
    .addOption(switchOption("--backend-force-push", "store a blob also where it is there", "BACKEND_FORCE_PUSH"))
    .addOption(
      new Option("--build-cache <image>", "where it is kept which blobs layers became; layers that are known are not read")
        .env("BUILD_CACHE")
        .conflicts("buildCacheTag"),
    )
    .addOption(new Option("--build-cache-tag <tag>", "the same, in the target's repository").env("BUILD_CACHE_TAG"))
    .addOption(
      new Option("--build-cache-version <text>", "caches of another version are not used").default("v1").env("BUILD_CACHE_VERSION"),
    )
    .addOption(switchOption("--build-cache-insecure", "accept any certificate of the cache's registry", "BUILD_CACHE_INSECURE"))
    .addOption(
      new Option("--build-cache-max-records <count>", "layers that the cache keeps for a platform, 1 to 200")
        .default("200")
        .env("BUILD_CACHE_MAX_RECORDS"),
    )
    .addOption(
      new Option(
        "--chunk-dict <bootstrap:registry:IMAGE>",
        "chunks that the dictionary has are not stored again; or bootstrap:local:PATH, if the target has its blobs",
      ).env("CHUNK_DICT"),
    )
    .addOption(switchOption("--chunk-dict-insecure", "accept any certificate of the dictionary's registry", "CHUNK_DICT_INSECURE"))
    .addOption(
      new Option("--work-dir <dir>", "directory for blobs until they are written; default: the system's temporary directory").env(
        "WORK_DIR",
      ),
    )
    .addOption(new Option("--output-json <path>", "file for sizes and times as JSON").env("OUTPUT_JSON"))
    // Checked, and without effect: the registry client tries again by itself, after the pause that the registry asks for.
    .addOption(new Option("--push-retry-count <count>").default("3").env("PUSH_RETRY_COUNT").hideHelp())
    .addOption(new Option("--push-retry-delay <duration>").default("5s").env("PUSH_RETRY_DELAY").hideHelp());
  for (const [flag] of Object.values(refused)) command.addOption(new Option(`${flag} <value>`).hideHelp());
  for (const flag of ignored) command.addOption(new Option(`${flag} [value]`).hideHelp());
  command.action(async (flags: ConvertFlags) => {
    tuneMalloc({ mmapThresholdBytes: 64 * 1024, arenasMax: 1 });
    await convert(context, flags);
  });
}

async function convert(context: Context, flags: ConvertFlags): Promise<void> {
  checkFlags(flags);
  const log = context.log();
  const targetName = nameTarget(flags);
  const format = layerFormat(flags);
  const patterns = await prefetchPatterns(context, flags);
  const signal = context.io.signal;
  const environment = context.io.env;
  const registry = {
    credentials: dockerConfigCredentials({}),
    environment,
    signal,
    ...(flags.plainHttp ? { scheme: "http" as const } : {}),
  };
  const { sourceArchive, targetArchive } = flags;
  await using work = sourceArchive === undefined && targetArchive === undefined ? undefined : await workDirectory(flags.workDir);
  const sourceName = sourceArchive === undefined ? flags.source : `oci:${await unpackArchive(sourceArchive, work!.path)}`;
  const layout = targetArchive === undefined ? undefined : join(work!.path, "target");
  await using source = await openImageSource(sourceName, { ...registry, skipVerify: flags.sourceInsecure ?? false });
  await using target = await openImageTarget(layout === undefined ? targetName : `oci:${layout}`, {
    ...registry,
    skipVerify: flags.targetInsecure ?? false,
  });
  const { backendType: type, backendConfig: config, backendConfigFile: configFile } = flags;
  await using stored = await givenBlobs({ type, config, configFile }, "");
  const blobs = stored?.store(flags.backendForcePush ?? false) ?? targetStore(target);
  await using dictionary =
    flags.chunkDict === undefined || flags.ociRef
      ? undefined
      : await openDictionary(flags.chunkDict, { ...registry, skipVerify: flags.chunkDictInsecure ?? false }, { ...format, log });
  await using cacheImage = await openCacheImage(flags, target, { ...registry, skipVerify: flags.buildCacheInsecure ?? false });
  const cache =
    cacheImage &&
    (await BuildCache.open(cacheImage, {
      version: flags.buildCacheVersion,
      fingerprint: layerFingerprint(format, dictionary?.digest),
      recordsMax: Number(flags.buildCacheMaxRecords),
      log,
      signal,
    }));
  if (flags.ociRef && flags.chunkDict !== undefined)
    log.warn("--chunk-dict is not used: with --oci-ref no data are stored that a dictionary could save");
  const started = performance.now();
  log.info(`converting ${source.name} to ${target.name}`);
  const shared = {
    source,
    target,
    platforms: platformsOf(flags),
    workDirectory: flags.workDir,
    progress: createProgress(context.io.stderr),
    signal,
  };
  const result = flags.reverse
    ? await reverseImage(shared)
    : await convertImage({
        ...shared,
        blobs,
        format,
        cache,
        dictionary,
        prefetch: { policy: (patterns.length > 0 ? "fs" : "none") satisfies PrefetchPolicy, patterns },
        mergePlatform: flags.mergePlatform ?? flags.multiPlatform ?? false,
        withReferrer: flags.withReferrer ?? false,
        builderVersion,
      });
  if (layout !== undefined) await packArchive(layout, targetArchive!);
  const seconds = (performance.now() - started) / 1000;
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  log.info(
    `converted ${source.name} (${megabytes(result.sourceBytes)}) to ${target.name} (${megabytes(result.targetBytes)}) in ${seconds.toFixed(1)} s, ` +
      `${result.blobsWritten} blobs written, ${result.blobsThere} were there${cache === undefined ? "" : `, ${cache.hits} layers from the build cache`}`,
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
    await writeWholeText(flags.outputJson, JSON.stringify(metrics));
  }
}

/** What can be said before anything is read. Source: spec/nydusify.md, section 2.2 */
function checkFlags(flags: ConvertFlags): void {
  for (const [name, [flag, instead]] of Object.entries(refused)) {
    if (flags[name] !== undefined) throw unsupported(flag, instead);
  }
  if (!/^[0-9]+$/.test(flags.pushRetryCount))
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid --push-retry-count ${flags.pushRetryCount}`);
  if (!/^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$/.test(flags.pushRetryDelay))
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid --push-retry-delay ${flags.pushRetryDelay}: expected a duration such as 5s`);
  if (
    !/^[0-9]{1,3}$/.test(flags.buildCacheMaxRecords) ||
    Number(flags.buildCacheMaxRecords) < 1 ||
    Number(flags.buildCacheMaxRecords) > 200
  )
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid --build-cache-max-records ${flags.buildCacheMaxRecords}: expected 1 to 200`);
  if ((flags.buildCache !== undefined || flags.buildCacheTag !== undefined) && flags.reverse)
    throw new NydusImageError("IMAGE_ARGUMENT", "a build cache knows what layers become, not what they were: it goes without --reverse");
  if (flags.ociRef && flags.fsVersion === "5") throw new NydusImageError("IMAGE_ARGUMENT", "--oci-ref needs --fs-version 6");
  if (flags.ociRef && flags.backendType !== undefined)
    throw new NydusImageError("IMAGE_ARGUMENT", "--oci-ref leaves the data in the registry: it can not be combined with --backend-type");
  if (flags.reverse && (flags.ociRef || flags.mergePlatform || flags.withReferrer || flags.backendType !== undefined))
    throw new NydusImageError(
      "IMAGE_ARGUMENT",
      "--reverse makes a plain OCI image: it goes without --oci-ref, --merge-platform, --with-referrer and --backend-type",
    );
}

function layerFormat(flags: ConvertFlags): LayerFormat {
  const chunkSize = parseChunkSize(flags.chunkSize);
  return {
    fsVersion: flags.fsVersion === "5" ? 5 : 6,
    compressor: flags.compressor,
    digester: flags.digester,
    chunkSize,
    batchSize: parseBatchSize(flags, flags.ociRef ? "targz-ref" : "tar-rafs", chunkSize),
    alignedChunks: flags.fsAlignChunk ?? flags.backendAlignedChunk ?? false,
    ociRef: flags.ociRef ?? false,
  };
}

async function openCacheImage(
  { buildCache, buildCacheTag }: ConvertFlags,
  target: ImageTarget,
  options: OpenImageOptions,
): Promise<RegistryImage | undefined> {
  if (buildCache === undefined && buildCacheTag === undefined) return undefined;
  if (buildCache === undefined && !(target instanceof RegistryImage))
    throw new NydusImageError("IMAGE_ARGUMENT", "--build-cache-tag needs a target in a registry: give --build-cache IMAGE");
  const name =
    buildCache ?? `${(target as RegistryImage).reference.host}/${(target as RegistryImage).reference.repository}:${buildCacheTag}`;
  const image = await openImageTarget(name, options);
  if (image instanceof RegistryImage) return image;
  throw new NydusImageError("IMAGE_ARGUMENT", `--build-cache ${name} is not an image in a registry`);
}

/** Of all that decides which blob a layer becomes. */
function layerFingerprint(format: LayerFormat, dictionary: string | undefined): string {
  const decisive = [builderVersion, Object.entries(format).sort(), dictionary];
  return `sha256:${createHash("sha256").update(JSON.stringify(decisive)).digest("hex")}`;
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

export function platformsOf(flags: { platform?: string; allPlatforms?: boolean }): Platform[] | undefined {
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

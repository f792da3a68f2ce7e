/** `nydus-image create`: a directory or a tar becomes a RAFS image. Source: spec/nydus-image.md, section 2 */
import {
  type CreateOptions,
  type CreateResult,
  createImage,
  loadChunks,
  newBlobKey,
  writeBootstrapBlob,
  writeExternalBootstrap,
  writeFileWhole,
} from "@nydus-ts/builder";
import { blobFeatures, digesters } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { adoptLayer, loadLayerFile, parseChunkDict, requireConsistent, type Traits } from "../layer-file.ts";
import { bootstrapDestination, readPrefetchPatterns } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import {
  blobDestination,
  type CreateFlags,
  checkType,
  chunkSizeOf,
  isReferenceType,
  openSource,
  parseBatchSize,
  type SourceType,
  sourceTypes,
} from "./create-rules.ts";

export function addCreate(program: Command, context: Context): void {
  program
    .command("create")
    .description("build a RAFS image from a directory or a layer tar")
    .argument("<SOURCE>", "directory, or tar (plain, gzip, zstd; a file, a FIFO or /dev/stdin)")
    .addOption(new Option("-t, --type <type>", "kind of source").choices(sourceTypes).default("dir-rafs"))
    .addOption(new Option("--source-type <type>").choices(sourceTypes).hideHelp())
    .addOption(new Option("-B, --bootstrap <path>", "file for the metadata").conflicts("blobInlineMeta"))
    .option("-D, --blob-dir <dir>", "directory for the blob, and for the bootstrap without --bootstrap")
    .option("-b, --blob <path>", "file for the data blob")
    .option(
      "--external-blob <path>",
      "a file that stays empty, since the data of external files are in blobs of others; with --blob-inline-meta, for their bootstrap",
    )
    .addOption(new Option("--blob-inline-meta", "put the metadata into the data blob").conflicts(["blobId", "bootstrap"]))
    .addOption(new Option("--inline-bootstrap").hideHelp())
    .addOption(new Option("--blob-id <id>", "id of the blob; default: its SHA-256").default("", "none"))
    .option("--blob-data-size <size>", "size of the source blob, hexadecimal (estargztoc-ref)")
    .addOption(new Option("--blob-offset <bytes>").default("0").hideHelp())
    .addOption(new Option("--chunk-size <size>", "bytes of a chunk, a power of two from 0x1000 to 0x1000000").default("0x100000"))
    .addOption(new Option("--batch-size <size>", "bytes of a batch of small chunks; 0 is off").default("0"))
    .addOption(new Option("--compressor <name>", "compressor of chunks").choices(["none", "lz4_block", "zstd"]).default("zstd"))
    .addOption(new Option("--digester <name>", "digest of chunks").choices(["blake3", "sha256"]).default("blake3"))
    .option("-C, --config <path>", "storage configuration file")
    .addOption(new Option("-v, --fs-version <version>", "RAFS version").choices(["5", "6"]).default("6"))
    .addOption(new Option("--features <feature>", "optional features").choices(["blob-toc"]))
    .option("--chunk-dict <[bootstrap=]path>", "bootstrap whose chunks are not stored again")
    .option("--parent-bootstrap <path>", "bootstrap of the layers below")
    .option("--aligned-chunk", "align chunks to 4 KiB (always so in version 6)")
    .option("--repeatable", "do not record owners")
    .addOption(new Option("--disable-check").hideHelp())
    .addOption(new Option("--whiteout-spec <spec>", "form of whiteouts").choices(["oci", "overlayfs", "none"]).default("oci"))
    .addOption(
      new Option("--prefetch-policy <policy>", "what to do with the list of paths on standard input")
        .choices(["fs", "blob", "none"])
        .default("none"),
    )
    .option("-J, --output-json <path>", "file for the result as JSON")
    .option("-E, --encrypt", "encrypt the blob")
    .addOption(
      new Option("--blob-cache-dir <dir>", "directory for cache files instead of a blob").conflicts(["blobInlineMeta", "blob", "blobDir"]),
    )
    .option("--attributes <path>", "which files have their data in blobs of others, and where; they go into a second bootstrap, *.external")
    .action(async (source: string, _options, command: Command) => {
      requireDestination(command);
      await create(
        context,
        source,
        command.opts<CreateFlags>() as CreateFlags,
        (option) => command.getOptionValueSource(option) !== "default",
      );
    });
}

/** The rules of 2.1 that the option parser can not say. They are usage errors. */
function requireDestination(command: Command): void {
  const flags = command.opts<CreateFlags>();
  const inline = flags.blobInlineMeta ?? flags.inlineBootstrap;
  const explicitType = command.getOptionValueSource("type") !== "default" || flags.externalBlob !== undefined;
  const missing = flags.bootstrap === undefined && flags.blobDir === undefined && !inline ? "--bootstrap <path>" : undefined;
  const missingBlob =
    flags.blob === undefined && flags.blobDir === undefined && flags.blobCacheDir === undefined && !explicitType
      ? "--blob <path>"
      : undefined;
  const names = [missing, missingBlob].filter((name) => name !== undefined);
  if (names.length > 0)
    command.error(
      `error: the following required arguments were not provided:\n  ${names.join("\n  ")}\n\nFor more information, try '--help'.`,
      { exitCode: 2 },
    );
}

async function create(context: Context, source: string, flags: CreateFlags, isGiven: (option: string) => boolean): Promise<void> {
  const started = performance.now();
  if (flags.inlineBootstrap) flags.blobInlineMeta = true;
  const type = (flags as { sourceType?: SourceType }).sourceType ?? flags.type;
  if (Buffer.byteLength(flags.blobId) > 255) throw new NydusImageError("IMAGE_ARGUMENT", "blob id is limited to length 255");
  if (!/^[0-9]+$/.test(flags.blobOffset)) throw new NydusImageError("IMAGE_ARGUMENT", `invalid blob offset ${flags.blobOffset}`);
  const patterns = await readPrefetchPatterns(context, flags.prefetchPolicy);
  const chunkSize = chunkSizeOf(flags, type, isGiven);
  const batchSize = parseBatchSize(flags, type, chunkSize);
  const blob = await blobDestination(flags, type);
  const compressor = checkType(context, flags, type, isGiven);
  if (flags.fsVersion === "5" && flags.features === "blob-toc")
    throw new NydusImageError("IMAGE_ARGUMENT", "`--features blob-toc` can't be used with `--version 5` ");
  const options: CreateOptions = {
    source: await openSource(source, type, flags),
    blob,
    bootstrap: flags.blobInlineMeta ? undefined : await bootstrapDestination(flags),
    blobId: flags.blobId,
    blobOffset: Number(flags.blobOffset),
    compressor: compressor === "gzip" ? "none" : compressor,
    digester: flags.digester,
    chunkSize,
    chunkInfoVersion: 1,
    batchSize,
    toc: flags.features === "blob-toc",
    explicitUidGid: !flags.repeatable,
    ...(flags.fsVersion === "5" ? { version5: { alignedChunks: flags.alignedChunk ?? false } } : {}),
    ...(flags.encrypt ? { key: newBlobKey() } : {}),
    prefetch: { policy: flags.prefetchPolicy, patterns },
    keepsMetaFile: false,
  };
  const traits: Traits = {
    name: "this build",
    version: flags.fsVersion === "5" ? 5 : 6,
    chunkSize,
    explicitUidGid: options.explicitUidGid,
    digester: isReferenceType(type) ? "sha256" : flags.digester,
    isTarfs: type === "tar-tarfs",
  };
  const result = await build(context, flags, options, traits).catch((cause: unknown) => {
    throw new Error("build failed", { cause });
  });
  const storedBytes = result.statistics.uncompressedBytes - result.statistics.deduplicatedBytes;
  const isInline = flags.attributes !== undefined && flags.blobInlineMeta === true;
  const externalBootstrap = isInline ? await writeExternalBlob(flags, options, result) : await writeExternal(options, result);
  // The data are in blobs of others: the file that the original makes for them stays empty where it does not take the bootstrap in.
  if (flags.externalBlob !== undefined && !isInline) await writeFileWhole(flags.externalBlob, new Uint8Array(0));
  report(context, flags, options, result, externalBootstrap);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: result.bootstrapPath ?? "",
      blobs: blobIds(flags, result),
      externalBootstrap,
      externalBlobs: externalBootstrap === "" ? [] : externalBlobIds(options, result),
      consumedTime: { total_build: (performance.now() - started) / 1000 },
      events: {
        ...(storedBytes > 0 ? { blob_uncompressed_size: storedBytes } : {}),
        ...(result.statistics.deduplicatedChunks > 0
          ? { dedup_chunks: result.statistics.deduplicatedChunks, dedup_uncompressed_size: result.statistics.deduplicatedBytes }
          : {}),
        egid: String(process.getegid?.() ?? 0),
        euid: String(process.geteuid?.() ?? 0),
        ...(options.source.kind === "directory" ? { load_from_directory: result.statistics.entryCount } : {}),
      },
      fsVersion: flags.fsVersion,
      compressor,
    },
    { compact: false },
  );
}

/** Loads what the build stands on, then builds. A dictionary that does not fit is refused, as is a parent. */
async function build(context: Context, flags: CreateFlags, options: CreateOptions, traits: Traits): Promise<CreateResult> {
  const log = context.log();
  if (flags.chunkDict !== undefined) {
    const file = await loadLayerFile(parseChunkDict(flags.chunkDict), "chunk dict bootstrap", log);
    requireConsistent(traits, file.traits);
    options.dictionary = { chunks: loadChunks(file.bootstrap, file.image.blobs, digesters.indexOf(traits.digester)) };
  }
  if (flags.parentBootstrap) {
    const file = await loadLayerFile(flags.parentBootstrap, "parent bootstrap", log);
    options.parent = adoptLayer(file, traits);
  }
  return await createImage(options);
}

/** The original writes a second bootstrap beside every one it builds from a directory; tools that list a build's files know it. */
async function writeExternal(options: CreateOptions, result: CreateResult): Promise<string> {
  if (options.source.kind !== "directory" || result.bootstrapPath === undefined) return "";
  const path = `${result.bootstrapPath.replace(/(?<=[^/])\.[^./]*$/, "")}.external`;
  await writeFileWhole(path, writeExternalBootstrap(options, result));
  return path;
}

/** Beside a blob with its bootstrap inside, a second one. */
async function writeExternalBlob(flags: CreateFlags, options: CreateOptions, result: CreateResult): Promise<string> {
  const destination = flags.externalBlob === undefined ? { directory: flags.blobDir! } : { file: flags.externalBlob };
  return await writeBootstrapBlob(writeExternalBootstrap(options, result), { destination, toc: options.toc });
}

function blobIds(flags: CreateFlags, result: CreateResult): string[] {
  // The id of a blob with its bootstrap inside is known only now; that of a layer was known before.
  const isReference = (result.blobs.at(-1)?.features ?? 0) & blobFeatures.separate;
  if (flags.blobInlineMeta && !isReference) return result.blob ? [result.blob.id] : [];
  return result.blobs.map(({ id }) => id);
}

function externalBlobIds(options: CreateOptions, result: CreateResult): string[] {
  return [...(options.parent?.blobs ?? []), ...(result.external?.blobs ?? [])].map(({ id }) => id);
}

function report(context: Context, flags: CreateFlags, options: CreateOptions, result: CreateResult, externalBootstrap: string): void {
  const size = result.blobs.at(-1)?.compressedSize ?? 0;
  const list = (ids: string[]) => `[${ids.map((id) => JSON.stringify(id)).join(", ")}]`;
  const lines = [
    "successfully built RAFS filesystem: ",
    `meta blob path: ${result.bootstrapPath ?? "<none>"}`,
    `data blob size: 0x${size.toString(16)}`,
    `data blobs: ${list(blobIds(flags, result))}`,
  ];
  const externalBlobs = externalBlobIds(options, result);
  if (externalBootstrap !== "" && externalBlobs.length > 0) {
    lines.push(`external meta blob path: ${externalBootstrap}`, `external data blobs: ${list(externalBlobs)}`);
  }
  context.log().info(lines.join("\n"));
}

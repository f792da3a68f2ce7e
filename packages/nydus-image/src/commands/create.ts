/** `nydus-image create`: a directory or a tar becomes a RAFS image. Source: spec/nydus-image.md, section 2 */
import { stat } from "node:fs/promises";
import {
  type Compressor,
  type CreateOptions,
  type CreateResult,
  createImage,
  type Destination,
  type Digester,
  type PrefetchPolicy,
  readPieces,
  type WhiteoutSpec,
  writeEmptyExternalBootstrap,
  writeFileWhole,
} from "@nydus-ts/builder";
import { blobFeatures } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { bootstrapDestination, isDirectory, parseChunkSize, parseSize, readPrefetchPatterns } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import { readXattrs } from "../xattrs.ts";

const sourceTypes = [
  "directory",
  "dir-rafs",
  "estargz-rafs",
  "estargz-ref",
  "estargztoc-ref",
  "tar-rafs",
  "tar-tarfs",
  "targz-rafs",
  "targz-ref",
  "stargz_index",
] as const;

/** Types whose data blob is the source itself. */
const refTypes: ReadonlySet<string> = new Set(["targz-ref", "estargz-ref"]);

interface CreateFlags {
  type: (typeof sourceTypes)[number];
  bootstrap?: string;
  blobDir?: string;
  blob?: string;
  externalBlob?: string;
  blobInlineMeta?: true;
  inlineBootstrap?: true;
  blobId: string;
  blobDataSize?: string;
  blobOffset: string;
  chunkSize: string;
  batchSize: string;
  compressor: Compressor;
  digester: Digester;
  config?: string;
  fsVersion: "5" | "6";
  features?: "blob-toc";
  chunkDict?: string;
  parentBootstrap?: string;
  alignedChunk?: true;
  repeatable?: true;
  disableCheck?: true;
  whiteoutSpec: WhiteoutSpec;
  prefetchPolicy: PrefetchPolicy;
  outputJson?: string;
  encrypt?: true;
  blobCacheDir?: string;
  attributes?: string;
}

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
    .option("--external-blob <path>", "file for external blobs")
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
    .option("--chunk-dict <path>", "bootstrap whose chunks are not stored again")
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
    .option("--blob-cache-dir <dir>", "directory for cache files instead of a blob")
    .option("--attributes <path>", "attributes file")
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
  const type = (flags as { sourceType?: CreateFlags["type"] }).sourceType ?? flags.type;
  if (Buffer.byteLength(flags.blobId) > 255) throw new NydusImageError("IMAGE_ARGUMENT", "blob id is limited to length 255");
  if (!/^[0-9]+$/.test(flags.blobOffset)) throw new NydusImageError("IMAGE_ARGUMENT", `invalid blob offset ${flags.blobOffset}`);
  const patterns = await readPrefetchPatterns(context, flags.prefetchPolicy);
  const chunkSize = parseChunkSize(flags.chunkSize);
  refuseUnsupported(flags, type);
  const isReference = refTypes.has(type);
  if (isReference) checkReference(context, flags, type, isGiven);
  const options: CreateOptions = {
    source: await openSource(source, type, flags.whiteoutSpec),
    blob: await blobDestination(flags),
    bootstrap: flags.blobInlineMeta ? undefined : await bootstrapDestination(flags),
    blobId: flags.blobId,
    blobOffset: Number(flags.blobOffset),
    compressor: flags.compressor,
    digester: flags.digester,
    chunkSize,
    chunkInfoVersion: 1,
    toc: flags.features === "blob-toc",
    explicitUidGid: !flags.repeatable,
    ...(flags.fsVersion === "5" ? { version5: { alignedChunks: flags.alignedChunk ?? false } } : {}),
    prefetch: { policy: flags.prefetchPolicy, patterns },
  };
  const result = await createImage(options).catch((cause: unknown) => {
    throw new Error("build failed", { cause });
  });
  const externalBootstrap = await writeExternal(options, result);
  report(context, flags, result);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: result.bootstrapPath ?? "",
      blobs: blobIds(flags, result),
      externalBootstrap,
      consumedTime: { total_build: (performance.now() - started) / 1000 },
      events: {
        blob_uncompressed_size: result.statistics.uncompressedBytes - result.statistics.deduplicatedBytes,
        ...(result.statistics.deduplicatedChunks > 0
          ? { dedup_chunks: result.statistics.deduplicatedChunks, dedup_uncompressed_size: result.statistics.deduplicatedBytes }
          : {}),
        egid: String(process.getegid?.() ?? 0),
        euid: String(process.geteuid?.() ?? 0),
        ...(options.source.kind === "directory" ? { load_from_directory: result.statistics.entryCount } : {}),
      },
      fsVersion: flags.fsVersion,
      compressor: isReference ? "gzip" : flags.compressor,
    },
    { compact: false },
  );
}

function refuseUnsupported(flags: CreateFlags, type: CreateFlags["type"]): void {
  if (parseSize(flags.batchSize, "batch size") > 0) throw unsupported("--batch-size", "leave it out; chunks are then stored one by one");
  if (flags.encrypt) throw unsupported("--encrypt", "build without it");
  if (flags.chunkDict !== undefined)
    throw unsupported("--chunk-dict", "build without it; equal chunks within the image are still stored once");
  if (flags.parentBootstrap) throw unsupported("--parent-bootstrap", "build each layer alone and join them with `nydus-image merge`");
  if (flags.blobCacheDir !== undefined) throw unsupported("--blob-cache-dir", "store a blob with --blob or --blob-dir");
  if (flags.attributes !== undefined) throw unsupported("--attributes", "build without external files");
  if (type === "estargztoc-ref" || type === "stargz_index" || type === "tar-tarfs") {
    throw unsupported(`--type ${type}`, "use `--type targz-rafs`, which stores the data anew, or `--type targz-ref`");
  }
  if (flags.fsVersion === "5" && flags.features === "blob-toc")
    throw new NydusImageError("IMAGE_ARGUMENT", "`--features blob-toc` can't be used with `--version 5` ");
}

/** Layers that stay as they are. The compressor is that of the layer, and the digests must be SHA-256. Source: spec/nydus-image.md, section 2.3 */
function checkReference(context: Context, flags: CreateFlags, type: CreateFlags["type"], isGiven: (option: string) => boolean): void {
  if (flags.prefetchPolicy === "blob")
    throw new NydusImageError("IMAGE_ARGUMENT", `conversion type ${type} conflicts with '--prefetch-policy blob'`);
  if (flags.fsVersion === "5")
    throw new NydusImageError("IMAGE_ARGUMENT", `'--fs-version 5' conflicts with conversion type '${type}', only V6 is supported`);
  if (flags.blobId.trim() !== "") throw new NydusImageError("IMAGE_ARGUMENT", `conversion type '${type}' conflicts with '--blob-id'`);
  if (isGiven("compressor"))
    context.log().info(`only GZip is supported for conversion type ${type}, use GZip instead of ${flags.compressor}`);
  if (isGiven("digester") && flags.digester !== "sha256")
    context.log().info(`only SHA256 is supported for conversion type ${type}, use SHA256 instead of ${flags.digester}`);
}

async function openSource(path: string, type: CreateFlags["type"], whiteouts: WhiteoutSpec): Promise<CreateOptions["source"]> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_SOURCE", `failed to access path ${JSON.stringify(path)}`, { cause });
  });
  if (type === "directory" || type === "dir-rafs") {
    if (!found.isDirectory()) throw new NydusImageError("IMAGE_SOURCE", `specified path must be a directory: ${JSON.stringify(path)}`);
    return { kind: "directory", path, readXattrs, whiteouts };
  }
  if (!found.isFile() && !found.isFIFO() && !found.isCharacterDevice()) {
    throw new NydusImageError("IMAGE_SOURCE", `specified path must be a regular/fifo/char_device file: ${JSON.stringify(path)}`);
  }
  return { kind: refTypes.has(type) ? "layer" : "tar", stream: readPieces(path) };
}

async function blobDestination(flags: CreateFlags): Promise<Destination> {
  if (flags.blob !== undefined) return { file: flags.blob };
  if (flags.blobDir !== undefined) {
    if (!(await isDirectory(flags.blobDir)))
      throw new NydusImageError("IMAGE_ARGUMENT", `directory to store blobs does not exist: ${flags.blobDir}`);
    return { directory: flags.blobDir };
  }
  throw new NydusImageError(
    "IMAGE_ARGUMENT",
    "both --blob and --blob-dir are missing, please specify one to store the generated data blob file",
  );
}

/** The original writes a second bootstrap beside every one it builds from a directory; tools that list a build's files know it. */
async function writeExternal(options: CreateOptions, result: CreateResult): Promise<string> {
  if (options.source.kind !== "directory" || result.bootstrapPath === undefined) return "";
  const path = `${result.bootstrapPath.replace(/(?<=[^/])\.[^./]*$/, "")}.external`;
  await writeFileWhole(path, writeEmptyExternalBootstrap(options, result));
  return path;
}

function blobIds(flags: CreateFlags, result: CreateResult): string[] {
  // The id of a blob with its bootstrap inside is known only now; that of a layer was known before.
  const isReference = (result.blobs[0]?.features ?? 0) & blobFeatures.separate;
  if (flags.blobInlineMeta && !isReference) return result.blob ? [result.blob.id] : [];
  return result.blobs.map(({ id }) => id);
}

function report(context: Context, flags: CreateFlags, result: CreateResult): void {
  const size = result.blobs.at(-1)?.compressedSize ?? 0;
  const ids = blobIds(flags, result)
    .map((id) => JSON.stringify(id))
    .join(", ");
  context
    .log()
    .info(
      `successfully built RAFS filesystem: \nmeta blob path: ${result.bootstrapPath ?? "<none>"}\ndata blob size: 0x${size.toString(16)}\ndata blobs: [${ids}]`,
    );
}

/** What `create` accepts together, and where its output goes. Source: spec/nydus-image.md, sections 2.1 to 2.3 */
import { readFile, stat } from "node:fs/promises";
import {
  type Compressor,
  type CreateOptions,
  type Digester,
  type ExternalFiles,
  type PrefetchPolicy,
  readPieces,
  type WhiteoutSpec,
} from "@nydus-ts/builder";
import { parseAttributes } from "../attributes.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { isDirectory, parseChunkSize, parseSize } from "../options.ts";
import { readXattrs } from "../xattrs.ts";

export const sourceTypes = [
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
export type SourceType = (typeof sourceTypes)[number];

/** Layers that an index makes readable. */
const refTypes: ReadonlySet<string> = new Set(["targz-ref", "estargz-ref"]);
/** Layers that bring their index along. */
const tocTypes: ReadonlySet<string> = new Set(["estargztoc-ref", "stargz_index"]);

/** What an image's chunks can be compressed with: gzip only where the source is. */
export type CreatedCompressor = Compressor | "gzip";

export interface CreateFlags {
  type: SourceType;
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

/** A source that stays as it is: its compressor and digester are those of its format. */
export function isReferenceType(type: SourceType): boolean {
  return refTypes.has(type) || type === "tar-tarfs" || tocTypes.has(type);
}

function refuse(message: string): never {
  throw new NydusImageError("IMAGE_ARGUMENT", message);
}

/** Source: section 2.2, step 5 */
export function parseBatchSize(flags: Pick<CreateFlags, "batchSize" | "fsVersion">, type: SourceType, chunkSize: number): number {
  const size = parseSize(flags.batchSize, "batch size");
  if (size === 0) return 0;
  if (flags.fsVersion === "5") refuse("`--batch-size` with non-zero value conflicts with `--fs-version 5`");
  if (isReferenceType(type)) refuse(`unsupported ConversionType for batch chunk: ${type}`);
  if (size < 0x1000 || size > 0x1000000 || (size & (size - 1)) !== 0) refuse(`invalid batch size: ${size}`);
  if (size > chunkSize) refuse(`batch size 0x${size.toString(16)} is bigger than chunk size 0x${chunkSize.toString(16)}`);
  return size;
}

/** Rules of the kind of source. Returns the compressor that the image will have. Source: section 2.3 */
export function checkType(context: Context, flags: CreateFlags, type: SourceType, isGiven: (option: string) => boolean): CreatedCompressor {
  if (flags.attributes !== undefined && type !== "directory" && type !== "dir-rafs")
    refuse(`conversion type '${type}' conflicts with '--attributes': only files of a directory can lie in blobs of others`);
  if (flags.attributes !== undefined && flags.blobInlineMeta && flags.externalBlob === undefined && flags.blobDir === undefined)
    refuse("with --blob-inline-meta the second bootstrap that --attributes makes goes into a blob too: give --external-blob or --blob-dir");
  if (!isReferenceType(type)) {
    if (flags.encrypt && flags.fsVersion === "5") refuse("'--encrypt' conflicts with '--fs-version 5', only V6 is supported");
    return flags.blobCacheDir === undefined ? flags.compressor : "none";
  }
  const isTarfs = type === "tar-tarfs";
  const isGivenBlob = isTarfs || tocTypes.has(type);
  const conflict = (option: string, isThere: boolean) => {
    if (isThere) refuse(`conversion type '${type}' conflicts with '${option}'`);
  };
  if (flags.prefetchPolicy === "blob") refuse(`conversion type ${type} conflicts with '--prefetch-policy blob'`);
  if (flags.fsVersion === "5") refuse(`'--fs-version 5' conflicts with conversion type '${type}', only V6 is supported`);
  if (tocTypes.has(type) && flags.blobId.trim() === "") refuse("'--blob-id' is missing for '--type stargz_index'");
  conflict("--blob-id", !isGivenBlob && flags.blobId.trim() !== "");
  conflict("--chunk-dict", isGivenBlob && flags.chunkDict !== undefined);
  conflict("--parent-bootstrap", isGivenBlob && Boolean(flags.parentBootstrap));
  conflict("--blob-inline-meta", isGivenBlob && flags.blobInlineMeta === true);
  conflict("--features blob-toc", isGivenBlob && flags.features === "blob-toc");
  conflict("--aligned-chunk", isTarfs && flags.alignedChunk === true);
  conflict("--encrypt", flags.encrypt === true);
  if (isGiven("compressor") && !(isTarfs && flags.compressor === "none")) {
    context
      .log()
      .info(
        isTarfs
          ? `only compressor \`None\` is supported for conversion type ${type}, use \`None\` instead of ${flags.compressor}`
          : `only GZip is supported for conversion type ${type}, use GZip instead of ${flags.compressor}`,
      );
  }
  if (isGiven("digester") && flags.digester !== "sha256")
    context.log().info(`only SHA256 is supported for conversion type ${type}, use SHA256 instead of ${flags.digester}`);
  return isTarfs ? "none" : "gzip";
}

/** Hexadecimal, with or without prefix. Source: section 2.2, step 8 */
function parseBlobDataSize(text: string | undefined): number {
  if (text === undefined) refuse("no value specified for '--blob-data-size'");
  const size = Number.parseInt(text.replace(/^0[xX]/, ""), 16);
  if (!/^(0[xX])?[0-9a-fA-F]+$/.test(text) || !Number.isSafeInteger(size)) refuse(`invalid blob data size ${text}`);
  return size;
}

async function readAttributes(path: string): Promise<ExternalFiles> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_ARGUMENT", `failed to open the attributes ${path}`, { cause });
  });
  return parseAttributes(text);
}

export async function openSource(
  path: string,
  type: SourceType,
  { attributes, whiteoutSpec: whiteouts, blobDataSize }: CreateFlags,
): Promise<CreateOptions["source"]> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_SOURCE", `failed to access path ${JSON.stringify(path)}`, { cause });
  });
  if (type === "directory" || type === "dir-rafs") {
    if (!found.isDirectory()) throw new NydusImageError("IMAGE_SOURCE", `specified path must be a directory: ${JSON.stringify(path)}`);
    const external = attributes === undefined ? {} : { external: await readAttributes(attributes) };
    return { kind: "directory", path, readXattrs, whiteouts, ...external };
  }
  if (!found.isFile() && !found.isFIFO() && !found.isCharacterDevice()) {
    throw new NydusImageError("IMAGE_SOURCE", `specified path must be a regular/fifo/char_device file: ${JSON.stringify(path)}`);
  }
  if (tocTypes.has(type)) return { kind: "estargz-toc", stream: readPieces(path), blobBytes: parseBlobDataSize(blobDataSize) };
  if (refTypes.has(type)) return { kind: "layer", stream: readPieces(path), whiteouts };
  if (type === "tar-tarfs") return { kind: "tarfs", stream: readPieces(path), whiteouts };
  return { kind: "tar", stream: readPieces(path), file: path, whiteouts };
}

/** Bytes of the chunks of eStargz layers, if nothing else was said when they were made. Source: section 2.1 */
const tocChunkSize = "0x400000";

export function chunkSizeOf(flags: CreateFlags, type: SourceType, isGiven: (option: string) => boolean): number {
  return parseChunkSize(tocTypes.has(type) && !isGiven("chunkSize") ? tocChunkSize : flags.chunkSize);
}

/** Source: section 2.2, steps 6 and 7 */
export async function blobDestination(flags: CreateFlags, type: SourceType): Promise<CreateOptions["blob"]> {
  if (flags.blobCacheDir !== undefined) {
    if (isReferenceType(type)) refuse(`conversion type \`${type}\` conflicts with \`--blob-cache-dir\``);
    if (flags.fsVersion === "5") refuse("'--blob-cache-dir' conflicts with '--fs-version 5', only V6 is supported");
    if (!(await isDirectory(flags.blobCacheDir))) refuse(`directory to store blob cache does not exist: ${flags.blobCacheDir}`);
    return { cacheDirectory: flags.blobCacheDir };
  }
  if (tocTypes.has(type)) return undefined;
  if (type === "tar-tarfs" && flags.blob !== undefined) refuse("conversion type `tar-tarfs` conflicts with `--blob`");
  if (flags.blob !== undefined) return { file: flags.blob };
  if (flags.blobDir !== undefined) {
    if (!(await isDirectory(flags.blobDir))) refuse(`directory to store blobs does not exist: ${flags.blobDir}`);
    return { directory: flags.blobDir };
  }
  refuse("both --blob and --blob-dir are missing, please specify one to store the generated data blob file");
}

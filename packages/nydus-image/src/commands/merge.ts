/** `nydus-image merge`: bootstraps of layers, lowest first, become one. Source: spec/nydus-image.md, section 12 */
import {
  type BlobEntry,
  type compressorNumbers,
  type Destination,
  mergeLayers,
  type PrefetchPolicy,
  type TreeNode,
  writeArtifact,
} from "@nydus-ts/builder";
import { blobFeatures, ciphers, compressors, digesters, superFlags } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import { namePrefix } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { adoptLayer, type LayerFile, loadLayerFile, parseChunkDict, requireConsistent } from "../layer-file.ts";
import { bootstrapDestination, readPrefetchPatterns } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";

interface MergeFlags {
  parentBootstrap?: string;
  bootstrap?: string;
  blobDir?: string;
  chunkDict?: string;
  prefetchPolicy: PrefetchPolicy;
  outputJson?: string;
  config?: string;
  blobDigests?: string;
  originalBlobIds?: string;
  blobSizes?: string;
  blobTocDigests?: string;
  blobTocSizes?: string;
}

export function addMerge(program: Command, context: Context): void {
  program
    .command("merge")
    .description("merge the bootstraps of an image's layers into one")
    .argument("<SOURCE...>", "bootstraps, or blobs with a bootstrap inside; the lowest layer first")
    .option("--parent-bootstrap <path>", "layer below all sources")
    .option("-B, --bootstrap <path>", "file for the result")
    .option("-D, --blob-dir <dir>", "directory for the result, named by its digest")
    .option("--chunk-dict <[bootstrap=]path>", "bootstrap of a chunk dictionary that the sources were built with")
    .addOption(
      new Option("--prefetch-policy <policy>", "what to do with the list of paths on standard input")
        .choices(["fs", "blob", "none"])
        .default("none"),
    )
    .option("-J, --output-json <path>", "file for the result as JSON")
    .option("-C, --config <path>", "storage configuration: sizes and tables of contents are taken from the blobs")
    .option("--blob-digests <list>", "digest of each source's blob, hexadecimal")
    .option("--original-blob-ids <list>", "id of each source's blob")
    .option("--blob-sizes <list>", "size of each source's blob")
    .option("--blob-toc-digests <list>", "digest of the table of contents of each source's blob")
    .option("--blob-toc-sizes <list>", "size of the table of contents of each source's blob")
    .action(async (sources: string[], flags: MergeFlags) => {
      await merge(context, sources, flags);
    });
}

async function merge(context: Context, sources: readonly string[], flags: MergeFlags): Promise<void> {
  const log = context.log();
  const patterns = await readPrefetchPatterns(context, flags.prefetchPolicy);
  const destination: Destination = await bootstrapDestination(flags);
  const lists = readLists(flags, sources.length);
  const blobs = new Map<string, BlobEntry>();
  const parent = flags.parentBootstrap ? await loadLayerFile(flags.parentBootstrap, "parent bootstrap", log) : undefined;
  const dictionary =
    flags.chunkDict === undefined ? undefined : await loadLayerFile(parseChunkDict(flags.chunkDict), "chunk dict bootstrap", log);
  const shared = new Set(dictionary?.image.blobs.map(({ id }) => id));
  const layers: TreeNode[] = [];
  const files: LayerFile[] = [];
  for (const [index, path] of sources.entries()) {
    const file = await loadLayerFile(path, "bootstrap", log);
    requireConsistent((dictionary ?? files[0] ?? file).traits, file.traits);
    if (parent && index === 0) layers.push(joinBlobs(adoptLayer(parent, file.traits), blobs));
    files.push(file);
    nameBlob(file, shared, { lists, index, accessible: flags.config !== undefined });
    layers.push(joinBlobs(file.image, blobs));
  }
  if (files[0].traits.isTarfs && parent) throw new NydusImageError("IMAGE_SOURCE", tarfsConflict("--parent-bootstrap"));
  if (files[0].traits.isTarfs && shared.size > 0) throw new NydusImageError("IMAGE_SOURCE", tarfsConflict("--chunk-dict"));
  const last = files.at(-1)!;
  const isEncrypted = files.some(({ bootstrap }) => (bootstrap.flags & superFlags.encryptionAes128Xts) !== 0n);
  const result = mergeLayers({
    fsVersion: last.traits.version,
    layers,
    compressor: compressors.indexOf(compressorOf(last.bootstrap.flags)),
    digester: digesters.indexOf(last.traits.digester),
    cipher: ciphers.indexOf(isEncrypted ? "aes-128-xts" : "none"),
    explicitUidGid: last.traits.explicitUidGid,
    isTarfs: last.traits.isTarfs,
    prefetch: { policy: flags.prefetchPolicy, patterns },
  });
  const path = await writeArtifact(destination, result.bootstrap);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: path,
      blobs: result.blobs.map(({ id }) => id),
      fsVersion: String(last.traits.version) as "5" | "6",
      compressor: compressorOf(files[0].bootstrap.flags),
    },
    { compact: false },
  );
}

export function compressorOf(flags: bigint): keyof typeof compressorNumbers {
  if (flags & superFlags.compressionLz4) return "lz4_block";
  if (flags & superFlags.compressionGzip) return "gzip";
  return flags & superFlags.compressionZstd ? "zstd" : "none";
}

function tarfsConflict(option: string): string {
  return `merging RAFS in TARFS mode conflicts with \`${option}\``;
}

interface Lists {
  digests: string[] | undefined;
  ids: string[] | undefined;
  sizes: number[] | undefined;
  tocDigests: string[] | undefined;
  tocSizes: number[] | undefined;
}

/** Every list has one item per source. */
function readLists(flags: MergeFlags, sourceCount: number): Lists {
  const words = (text: string | undefined, what: string): string[] | undefined => {
    if (text === undefined) return undefined;
    const items = text.split(",").map((item) => item.trim());
    if (items.length !== sourceCount) {
      throw new NydusImageError(
        "IMAGE_ARGUMENT",
        `number of ${what} entries ${items.length} doesn't match number of sources ${sourceCount}`,
      );
    }
    return items;
  };
  const numbers = (text: string | undefined, what: string, option: string) =>
    words(text, what)?.map((item) => {
      if (!/^[0-9]+$/.test(item) || !Number.isSafeInteger(Number(item)))
        throw new NydusImageError("IMAGE_ARGUMENT", `invalid number in ${option} option: ${item}`);
      return Number(item);
    });
  const digests = (text: string | undefined, what: string) =>
    words(text, what)?.map((item) => {
      if (!/^[0-9a-f]{64}$/.test(item))
        throw new NydusImageError("IMAGE_ARGUMENT", `${what}: ${JSON.stringify(item)} is not 64 hexadecimal digits`);
      return item;
    });
  return {
    digests: digests(flags.blobDigests, "blob digest"),
    ids: words(flags.originalBlobIds, "original blob id"),
    sizes: numbers(flags.blobSizes, "blob size", "--blob-sizes"),
    tocDigests: digests(flags.blobTocDigests, "toc digest"),
    tocSizes: numbers(flags.blobTocSizes, "toc size", "--blob-toc-sizes"),
  };
}

/** The tree of an image whose blobs were named: layers that share a blob share its row. */
function joinBlobs(image: LayerFile["image"], known: Map<string, BlobEntry>): TreeNode {
  for (const blob of image.blobs) {
    const same = known.get(blob.id);
    if (same) Object.assign(blob, same);
    else known.set(blob.id, blob);
  }
  return image.root;
}

interface Source {
  lists: Lists;
  index: number;
  /** blobs can be looked at, so what the bootstrap says of them is no guess */
  accessible: boolean;
}

/** Names and describes the one blob that a source brings, as the command line says. Source: section 12.1, step 5 */
function nameBlob(file: LayerFile, shared: ReadonlySet<string>, { lists, index, accessible }: Source): void {
  const own = file.image.blobs.filter(({ id }) => !shared.has(id));
  if (own.length > 1) {
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `invalid per layer bootstrap, having multiple associated data blobs: ${file.path} has ${own.length}`,
    );
  }
  const [blob] = own;
  if (!blob) return;
  const separate = (blob.features & blobFeatures.separate) !== 0;
  if (!accessible && !file.blob && !file.traits.isTarfs) blob.id = lists.ids?.[index] ?? namePrefix(file.path);
  const digest = lists.digests?.[index];
  if (digest !== undefined && separate) blob.metaDigest = Buffer.from(digest, "hex");
  else if (digest !== undefined) blob.id = digest;
  const size = lists.sizes?.[index];
  if (size !== undefined && separate) blob.metaSize = size;
  else if (size !== undefined) blob.compressedSize = size;
  const tocDigest = lists.tocDigests?.[index];
  if (tocDigest !== undefined) blob.tocDigest = Buffer.from(tocDigest, "hex");
  const tocSize = lists.tocSizes?.[index];
  if (tocSize !== undefined) blob.tocSize = tocSize;
}

/** `nydus-image merge`: bootstraps of layers, lowest first, become one. Source: spec/nydus-image.md, section 12 */
import {
  type BlobEntry,
  type compressorNumbers,
  type Destination,
  loadImage,
  mergeLayers,
  type PrefetchPolicy,
  type TreeNode,
  withoutInlinedBootstrap,
  writeArtifact,
} from "@nydus-ts/builder";
import { blobFeatures, compressors, digesters, superFlags } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import { type BootstrapFile, namePrefix, readBootstrapFile, storedBlobId } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { InconsistentError, NydusImageError, unsupported } from "../errors.ts";
import { bootstrapDestination, readPrefetchPatterns } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import { superFlagNames } from "../text.ts";

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
    .option("--chunk-dict <path>", "bootstrap of a chunk dictionary")
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
  if (flags.chunkDict !== undefined) throw unsupported("--chunk-dict", "merge without it");
  const patterns = await readPrefetchPatterns(context, flags.prefetchPolicy);
  const destination: Destination = await bootstrapDestination(flags);
  const lists = readLists(flags, sources.length);
  const layers: TreeNode[] = [];
  const files: BootstrapFile[] = [];
  const blobs = new Map<string, BlobEntry>();
  const all = flags.parentBootstrap ? [flags.parentBootstrap, ...sources] : sources;
  for (const [i, path] of all.entries()) {
    const file = await readBootstrapFile(path).catch((cause: unknown) => {
      throw new NydusImageError("IMAGE_FILE", `load bootstrap ${JSON.stringify(path)}`, { cause });
    });
    log.info(`RAFS features: ${superFlagNames(file.bootstrap.flags)}`);
    if (files.length > 0) requireConsistent(files[0], file);
    files.push(file);
    const isParent = flags.parentBootstrap !== undefined && flags.parentBootstrap !== "" && i === 0;
    layers.push(
      loadLayer(
        file,
        blobs,
        isParent ? undefined : { lists, index: i - (all.length - sources.length), accessible: flags.config !== undefined },
      ),
    );
  }
  const last = files.at(-1)!.bootstrap;
  const result = mergeLayers({
    fsVersion: last.version,
    layers,
    compressor: compressors.indexOf(compressorOf(last.flags)),
    digester: (last.flags & superFlags.hashSha256) !== 0n ? digesters.indexOf("sha256") : digesters.indexOf("blake3"),
    cipher: files.some(({ bootstrap }) => (bootstrap.flags & superFlags.encryptionAes128Xts) !== 0n) ? 1 : 0,
    explicitUidGid: (last.flags & superFlags.explicitUidGid) !== 0n,
    prefetch: { policy: flags.prefetchPolicy, patterns },
  });
  const path = await writeArtifact(destination, result.bootstrap);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: path,
      blobs: result.blobs.map(({ id }) => id),
      fsVersion: String(last.version) as "5" | "6",
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

/** Source: spec/nydus-image.md, section 12.7 */
function requireConsistent(first: BootstrapFile, next: BootstrapFile): void {
  const [a, b] = [first.bootstrap, next.bootstrap];
  const refuse = (what: string) => {
    throw new InconsistentError(`Inconsistent RAFS Filesystem: ${what} (${first.path}, ${next.path})`);
  };
  if (a.chunkSize !== b.chunkSize) refuse(`Inconsistent configuration of chunk_size: ${a.chunkSize} vs ${b.chunkSize}`);
  const explicit = (flags: bigint) => (flags & superFlags.explicitUidGid) !== 0n;
  if (explicit(a.flags) !== explicit(b.flags)) {
    refuse(`Using inconsistent explicit_uidgid setting ${explicit(b.flags)}, target explicit_uidgid setting ${explicit(a.flags)}`);
  }
  if (a.version !== b.version) refuse(`Using inconsistent RAFS version V${b.version}, target RAFS version V${a.version}`);
  if ((a.flags & superFlags.tarfsMode) !== (b.flags & superFlags.tarfsMode)) refuse("Using inconsistent RAFS TARFS mode");
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

/** The tree of one source, its blob named and described as the command line says. Source: section 12.1, step 5 */
function loadLayer(
  file: BootstrapFile,
  known: Map<string, BlobEntry>,
  source: { lists: Lists; index: number; accessible: boolean } | undefined,
): TreeNode {
  if ((file.bootstrap.flags & superFlags.tarfsMode) !== 0n)
    throw unsupported("merging tarfs images", "build the layers with `--type tar-rafs`");
  const image = loadImage(file.bytes);
  if (source && image.blobs.length > 1) {
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `invalid per layer bootstrap, having multiple associated data blobs: ${file.path} has ${image.blobs.length}`,
    );
  }
  for (const [i, blob] of image.blobs.entries()) {
    const id = storedBlobId(file, file.bootstrap.blobs[i]);
    Object.assign(blob, withoutInlinedBootstrap(blob));
    if (source) describeBlob(blob, file, id, source);
    else blob.id = id;
    const same = known.get(blob.id);
    if (same) Object.assign(blob, same);
    else known.set(blob.id, blob);
  }
  return image.root;
}

function describeBlob(
  blob: BlobEntry,
  file: BootstrapFile,
  storedId: string,
  { lists, index, accessible }: { lists: Lists; index: number; accessible: boolean },
): void {
  const separate = (blob.features & blobFeatures.separate) !== 0;
  blob.id = accessible || file.blob ? storedId : (lists.ids?.[index] ?? namePrefix(file.path));
  if (file.blob && !separate) {
    blob.compressedSize = file.blob.size;
    if (file.blob.toc && blob.features & blobFeatures.hasToc) {
      blob.tocSize = file.blob.toc.size;
      blob.tocDigest = file.blob.toc.digest;
    }
  }
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

/** Building one image from one source. Source: spec/nydus-image.md, sections 5.2 and 9 */
import { type BlobEntry, numberTree, type StoredChunk, TreeNode, writeBootstrap, writeBootstrapV5 } from "@nydus-ts/rafs-format/writer";
import { type Destination, writeArtifact, writeFileWhole } from "./artifact.ts";
import { BlobWriter, ChunkDictionary, type FinishedBlob, type Version5Options } from "./blob-writer.ts";
import { type Compressor, compressorNumbers, type Digester, digesterNumbers } from "./codecs.ts";
import { CompressPool } from "./compress-pool.ts";
import { BuilderError } from "./errors.ts";
import { matchPrefetch, type PrefetchPolicy } from "./prefetch.ts";
import { ByteStream } from "./sources/byte-stream.ts";
import { decompressLayer } from "./sources/decompress.ts";
import { scanDirectory, storeDirectoryFile, type XattrReader } from "./sources/directory.ts";
import { readTarTree } from "./sources/tar.ts";
import type { WhiteoutSpec } from "./whiteouts.ts";
import { openLayer } from "./zran/open-layer.ts";
import { RefBlobWriter } from "./zran/ref-writer.ts";

export type CreateSource =
  | { kind: "directory"; path: string; readXattrs: XattrReader; whiteouts: WhiteoutSpec }
  /** pieces need to be valid only until the next is asked for */
  | { kind: "tar"; stream: AsyncIterable<Uint8Array> }
  /** a tar, plain or gzip, that stays as it is and is the data blob: only an index of it is written. Compressor and digester are those of the format, gzip and sha256 */
  | { kind: "layer"; stream: AsyncIterable<Uint8Array> };

export interface CreateOptions {
  source: CreateSource;
  blob: Destination;
  /** absent: the bootstrap goes to the end of the blob */
  bootstrap: Destination | undefined;
  blobId: string;
  blobOffset: number;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  chunkInfoVersion: 1 | 2;
  toc: boolean;
  explicitUidGid: boolean;
  /** write RAFS v5; absent: version 6 */
  version5?: Version5Options;
  prefetch: { policy: PrefetchPolicy; patterns: readonly string[] };
  /** share it between builds that run at the same time; absent: one of its own */
  pool?: CompressPool;
}

export interface CreateResult {
  root: TreeNode;
  blobs: BlobEntry[];
  /** undefined if there was no data and no inlined bootstrap */
  blob: FinishedBlob | undefined;
  bootstrap: Buffer;
  bootstrapPath: string | undefined;
  /** chunk info and header of the blob, plain, as the cache file `<id>.blob.meta` holds them */
  metaFile: Buffer | undefined;
  hasXattr: boolean;
  statistics: { entryCount: number; uncompressedBytes: number; deduplicatedBytes: number; deduplicatedChunks: number };
}

/**
 * Builds a RAFS image. Equal source and options give equal bytes, on any number of cores. Nothing is left behind by a failed build.
 * @throws BuilderError; RafsError for what the format can not hold
 */
export async function createImage(options: CreateOptions): Promise<CreateResult> {
  if (options.source.kind === "layer") return await buildReference(options, options.source.stream);
  if (options.pool) return await build(options, options.pool);
  await using pool = new CompressPool();
  return await build(options, pool);
}

async function build(options: CreateOptions, pool: CompressPool): Promise<CreateResult> {
  await using writer = new BlobWriter(
    {
      destination: options.blob,
      compressor: options.compressor,
      digester: options.digester,
      chunkSize: options.chunkSize,
      id: options.blobId,
      offset: options.blobOffset,
      inlineBootstrap: options.bootstrap === undefined,
      toc: options.toc,
      chunkInfoVersion: options.chunkInfoVersion,
      version5: options.version5,
    },
    new ChunkDictionary(),
    pool,
  );
  return await finish(options, writer, await readSource(options, writer), {
    compressor: compressorNumbers[options.compressor],
    digester: digesterNumbers[options.digester],
  });
}

async function buildReference(options: CreateOptions, stream: AsyncIterable<Uint8Array>): Promise<CreateResult> {
  if (options.version5) throw new BuilderError("BUILD_UNSUPPORTED", "only version 6 can refer to a layer that stays as it is");
  if (options.blobId !== "") throw new BuilderError("BUILD_UNSUPPORTED", "the id of a layer that is referred to is its SHA-256, no other");
  const input = await openLayer(stream);
  await using writer = new RefBlobWriter(
    { destination: options.blob, chunkSize: options.chunkSize, inlineBootstrap: options.bootstrap === undefined, toc: options.toc },
    input,
  );
  const { root, entryCount } = await readTarTree({ input, explicitUidGid: options.explicitUidGid, chunkSize: options.chunkSize }, writer);
  const algorithms = { compressor: compressorNumbers.gzip, digester: digesterNumbers.sha256 };
  return await finish(options, writer, { root, entryCount, order: numberTree(root) }, algorithms);
}

interface ReadSource {
  root: TreeNode;
  order: TreeNode[];
  entryCount: number;
  /** chunks that the start of the blob holds for files on the prefetch list */
  listed?: ReadonlySet<StoredChunk>;
}

/** What follows the data: its description, the bootstrap, and the names under which both appear. */
async function finish(
  options: CreateOptions,
  writer: BlobWriter | RefBlobWriter,
  { root, entryCount, order, listed }: ReadSource,
  algorithms: { compressor: number; digester: number },
): Promise<CreateResult> {
  await writer.finishData();
  const blobs = writer.blob ? [writer.blob] : [];
  if (writer.blob && listed) writer.blob.prefetchBytes = [...listed].reduce((sum, { compressedSize }) => sum + compressedSize, 0);
  const hasXattr = order.some((node) => node.xattrs !== undefined);
  const prefetchNodes = options.prefetch.policy === "fs" ? matchPrefetch(root, order, options.prefetch.patterns).exact : [];
  const writeVersion = options.version5 ? writeBootstrapV5 : writeBootstrap;
  const write = () =>
    writeVersion({
      root,
      nodeCount: order.length,
      blobs,
      chunkSize: options.chunkSize,
      ...algorithms,
      cipher: 0,
      explicitUidGid: options.explicitUidGid,
      hasXattr,
      prefetch: prefetchNodes,
    });
  let bootstrap: Buffer;
  let bootstrapPath: string | undefined;
  let blob: FinishedBlob | undefined;
  if (options.bootstrap === undefined) {
    bootstrap = write();
    await writer.appendBootstrap(bootstrap);
    blob = await writer.commit();
  } else {
    blob = await writer.commit();
    if (!blob && "file" in options.blob) await writeFileWhole(options.blob.file, new Uint8Array(0));
    bootstrap = write();
    bootstrapPath = await writeArtifact(options.bootstrap, bootstrap);
  }
  return {
    root,
    blobs,
    blob,
    bootstrap,
    bootstrapPath,
    metaFile: writer.metaFile,
    hasXattr,
    statistics: {
      entryCount,
      uncompressedBytes: writer.uncompressedBytes,
      deduplicatedBytes: writer.deduplicatedBytes,
      deduplicatedChunks: writer.deduplicatedChunks,
    },
  };
}

async function readSource(options: CreateOptions, writer: BlobWriter): Promise<ReadSource> {
  const { source } = options;
  if (source.kind !== "directory") {
    const input = new ByteStream(decompressLayer(source.stream));
    const { root, entryCount } = await readTarTree({ input, explicitUidGid: options.explicitUidGid, chunkSize: options.chunkSize }, writer);
    return { root, entryCount, order: numberTree(root) };
  }
  const tree = await scanDirectory({
    path: source.path,
    readXattrs: source.readXattrs,
    explicitUidGid: options.explicitUidGid,
    dropWhiteouts: source.whiteouts,
  });
  const order = numberTree(tree.root);
  const first = options.prefetch.policy === "none" ? new Set<TreeNode>() : matchPrefetch(tree.root, order, options.prefetch.patterns).files;
  const stored = new Map<unknown, TreeNode>();
  for (const node of [...first, ...order.filter((node) => !first.has(node))]) {
    const path = tree.paths.get(node);
    if (path === undefined) continue;
    const same = node.link && stored.get(node.link);
    // Names of one inode share its chunks, so its data is read once.
    if (same) node.chunks = same.chunks;
    else await storeDirectoryFile(node, path, options.chunkSize, writer);
    if (node.link) stored.set(node.link, node);
  }
  const listed = options.prefetch.policy === "blob" ? new Set([...first].flatMap(({ chunks }) => chunks)) : new Set<StoredChunk>();
  return { root: tree.root, entryCount: tree.entryCount, order, listed };
}

/** The second bootstrap that the original writes beside every one it builds from a directory: the tree of files kept in external blobs. */
export function writeEmptyExternalBootstrap(options: CreateOptions, { root, hasXattr }: CreateResult): Buffer {
  const bare = new TreeNode("", root);
  bare.xattrs = root.xattrs;
  return (options.version5 ? writeBootstrapV5 : writeBootstrap)({
    root: bare,
    nodeCount: numberTree(bare).length,
    blobs: [],
    chunkSize: options.chunkSize,
    compressor: compressorNumbers[options.compressor],
    digester: digesterNumbers[options.digester],
    cipher: 0,
    explicitUidGid: options.explicitUidGid,
    // In version 5 the flag speaks of this tree alone, in version 6 of all that was read.
    hasXattr: options.version5 ? bare.xattrs !== undefined : hasXattr,
    prefetch: [],
  });
}

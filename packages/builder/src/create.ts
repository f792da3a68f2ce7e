/** Building one image from one source. Source: spec/nydus-image.md, sections 5.2 and 9 */
import assert from "node:assert/strict";
import {
  type BlobEntry,
  forEachDirectory,
  type HardlinkIdentity,
  numberTree,
  type StoredChunk,
  TreeNode,
  writeBootstrap,
  writeBootstrapV5,
} from "@nydus-ts/rafs-format/writer";
import { requireOneCompressor } from "./adopt-version.ts";
import { type Destination, writeArtifact, writeFileWhole } from "./artifact.ts";
import { BlobWriter, type CacheDestination, type Version5Options } from "./blob-writer.ts";
import { type BuiltBlob, type FinishedBlob, GivenBlob } from "./built-blob.ts";
import { ChunkDictionary, type ChunkSource } from "./chunk-dictionary.ts";
import { type Compressor, compressorNumbers, type Digester, digesterNumbers } from "./codecs.ts";
import { CompressPool } from "./compress-pool.ts";
import type { BlobKey } from "./encryption.ts";
import { BuilderError } from "./errors.ts";
import { checkBlobCount } from "./merge.ts";
import { type ExternalFiles, type ExternalTree, takeExternal } from "./external.ts";
import { cloneTree, overlay } from "./overlay.ts";
import { matchPrefetch, type PrefetchPolicy } from "./prefetch.ts";
import { ByteStream } from "./sources/byte-stream.ts";
import { decompressLayer } from "./sources/decompress.ts";
import { readEstargzToc } from "./sources/estargz-toc.ts";
import { scanDirectory, type XattrReader } from "./sources/directory.ts";
import { FileInput } from "./sources/file-input.ts";
import { readTarTree } from "./sources/tar.ts";
import { TarfsSink } from "./tarfs.ts";
import type { WhiteoutSpec } from "./whiteouts.ts";
import { readLayerInThread } from "./zran/found-tree.ts";
import type { IndexThreads } from "./zran/index-threads.ts";
import { detectLayer, openLayer } from "./zran/open-layer.ts";
import { PlainTarReader } from "./zran/plain-tar.ts";
import { RefBlobWriter } from "./zran/ref-writer.ts";

export type CreateSource =
  | {
      kind: "directory";
      path: string;
      readXattrs: XattrReader;
      whiteouts: WhiteoutSpec;
      /** files whose data lie elsewhere: they are left out, and make a tree of their own */
      external?: ExternalFiles;
    }
  /**
   * pieces need to be valid only until the next is asked for; whiteouts act on a parent, in OCI's form if nothing is said. `file`: where the
   * stream comes from; a plain tar in a regular file is then read by all threads, and the stream is not
   */
  | { kind: "tar"; stream: AsyncIterable<Uint8Array>; file?: string; whiteouts?: WhiteoutSpec }
  /** a tar, plain or gzip, that stays as it is and is the data blob: only an index of it is written. Compressor and digester are those of the format, gzip and sha256. `bytes`: its size, if known: only large ones are worth a thread */
  | { kind: "layer"; stream: AsyncIterable<Uint8Array>; bytes?: number; whiteouts?: WhiteoutSpec }
  /** a plain tar that stays as it is and is the data blob, read without an index; compressor none, digester sha256, version 6 only */
  | { kind: "tarfs"; stream: AsyncIterable<Uint8Array>; whiteouts?: WhiteoutSpec }
  /** the table of contents of an eStargz layer, which stays as it is: `blobId` and `blobBytes` are the layer's; version 6 only */
  | { kind: "estargz-toc"; stream: AsyncIterable<Uint8Array>; blobBytes: number; whiteouts?: WhiteoutSpec };

export interface CreateOptions {
  source: CreateSource;
  /** absent only for sources of which no blob is made */
  blob: Destination | CacheDestination | undefined;
  /** absent: the bootstrap goes to the end of the blob */
  bootstrap: Destination | undefined;
  blobId: string;
  blobOffset: number;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  chunkInfoVersion: 1 | 2;
  /** bytes of a batch: files smaller than half of it are stored several at a time. Version 6 only; absent: each is stored alone */
  batchSize?: number;
  /** encrypts the blob; version 6 only */
  key?: BlobKey;
  toc: boolean;
  explicitUidGid: boolean;
  /** write RAFS v5; absent: version 6 */
  version5?: Version5Options;
  prefetch: { policy: PrefetchPolicy; patterns: readonly string[] };
  /** the image below: the source is put on it as an upper layer, whose whiteouts act, and its chunks are not stored again. It stays as it is */
  parent?: ParentImage;
  /** chunks that are not stored again; must be of this version, chunk size and digester */
  dictionary?: ChunkSource;
  /** false: the result needs no `metaFile`, which for a large gzip layer that stays as it is has 32 KiB for each of its MiB */
  keepsMetaFile?: boolean;
  /** share it between builds that run at the same time; absent: one of its own */
  pool?: CompressPool;
  /** gzip layers that stay as they are get read there, so that several are at the same time; absent: in this thread */
  indexThreads?: IndexThreads;
}

export interface ParentImage {
  root: TreeNode;
  blobs: readonly BlobEntry[];
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
  external: ExternalTree | undefined;
  statistics: { entryCount: number; uncompressedBytes: number; deduplicatedBytes: number; deduplicatedChunks: number };
}

/**
 * Builds a RAFS image. Equal source and options give equal bytes, on any number of cores. Nothing is left behind by a failed build.
 * @throws BuilderError; RafsError for what the format can not hold
 */
export async function createImage(options: CreateOptions): Promise<CreateResult> {
  const { source } = options;
  if (source.kind === "layer") return await buildReference(options, source);
  if (source.kind === "tarfs") return await buildTarfs(options, source.stream);
  if (source.kind === "estargz-toc") return await buildEstargzToc(options, source);
  if (options.pool) return await build(options, options.pool);
  await using pool = new CompressPool();
  return await build(options, pool);
}

async function build(options: CreateOptions, pool: CompressPool): Promise<CreateResult> {
  const dictionary = openDictionary(options, digesterNumbers[options.digester]);
  assert(options.blob, "a build that stores data has a place for it");
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
      batchSize: options.batchSize ?? 0,
      key: options.key,
      version5: options.version5,
    },
    dictionary,
    pool,
  );
  return await finish(options, writer, dictionary.blobs, await readSource(options, writer), {
    compressor: compressorNumbers[options.compressor],
    digester: digesterNumbers[options.digester],
  });
}

async function buildReference(options: CreateOptions, source: CreateSource & { kind: "layer" }): Promise<CreateResult> {
  if (options.version5) throw new BuilderError("BUILD_UNSUPPORTED", "only version 6 can refer to a layer that stays as it is");
  if (options.blobId !== "") throw new BuilderError("BUILD_UNSUPPORTED", "the id of a layer that is referred to is its SHA-256, no other");
  assert(options.blob, "an index has a place to go to");
  if ("cacheDirectory" in options.blob)
    throw new BuilderError("BUILD_UNSUPPORTED", "the index of a layer can not be kept as cache files: build with a directory for blobs");
  const algorithms = { compressor: compressorNumbers.gzip, digester: digesterNumbers.sha256 };
  const dictionary = openDictionary(options, algorithms.digester);
  const layer = await detectLayer(source.stream);
  const threads = layer.compression === "gzip" && options.indexThreads?.takes(source.bytes ?? 0) ? options.indexThreads : undefined;
  const input = threads ? undefined : openLayer(layer);
  await using writer = new RefBlobWriter(
    {
      destination: options.blob,
      chunkSize: options.chunkSize,
      inlineBootstrap: options.bootstrap === undefined,
      toc: options.toc,
      keepsMetaFile: options.keepsMetaFile ?? true,
    },
    input,
    dictionary,
  );
  const tarOptions = { explicitUidGid: options.explicitUidGid, chunkSize: options.chunkSize };
  const { root, entryCount } = input
    ? await readTarTree({ input, ...tarOptions }, writer)
    : await readLayerInThread(threads!, layer.stream, writer, tarOptions);
  const tree = onParent(options, root);
  return await finish(options, writer, dictionary.blobs, { root: tree, entryCount, order: numberTree(tree) }, algorithms);
}

/** A tar that is read in place. */
async function buildTarfs(options: CreateOptions, stream: AsyncIterable<Uint8Array>): Promise<CreateResult> {
  refuseForGiven(options);
  const input = new PlainTarReader(stream);
  const sink = new TarfsSink({ chunkSize: options.chunkSize, id: options.blobId }, input);
  const { root, entryCount } = await readTarTree({ input, explicitUidGid: options.explicitUidGid, chunkSize: options.chunkSize }, sink);
  const algorithms = { compressor: compressorNumbers.none, digester: digesterNumbers.sha256, isTarfs: true };
  return await finishGiven(options, sink.describe(), { root, entryCount }, algorithms);
}

/** An eStargz layer, from its table of contents. */
async function buildEstargzToc(options: CreateOptions, source: CreateSource & { kind: "estargz-toc" }): Promise<CreateResult> {
  refuseForGiven(options);
  if (options.blobId === "") throw new BuilderError("BUILD_UNSUPPORTED", "a table of contents does not say the id of its layer: give it");
  const { root, entryCount, blob } = await readEstargzToc({ ...options, ...source });
  const algorithms = { compressor: compressorNumbers.gzip, digester: digesterNumbers.sha256 };
  return await finishGiven(options, new GivenBlob(blob), { root, entryCount }, algorithms);
}

function refuseForGiven(options: CreateOptions): void {
  const unfit = [
    options.version5 && "version 5",
    options.parent && "a parent",
    options.dictionary && "a chunk dictionary",
    !options.bootstrap && "an inlined bootstrap",
    options.key && "encryption",
  ].find((what) => what !== undefined && what !== false);
  if (unfit) throw new BuilderError("BUILD_UNSUPPORTED", `a layer that stays as it is can not be built with ${unfit}`);
}

async function finishGiven(
  options: CreateOptions,
  blob: GivenBlob,
  { root, entryCount }: { root: TreeNode; entryCount: number },
  algorithms: { compressor: number; digester: number; isTarfs?: boolean },
): Promise<CreateResult> {
  return await finish(options, blob, blob.blob ? [blob.blob] : [], { root, entryCount, order: numberTree(root) }, algorithms);
}

/** All that is known before the first chunk comes. The parent's chunks count only if they have this build's kind of digest. */
function openDictionary({ parent, dictionary }: CreateOptions, digester: number): ChunkDictionary {
  const chunks: StoredChunk[] = [];
  if (parent) {
    numberTree(parent.root);
    forEachDirectory(parent.root, (directory) => {
      for (const node of directory.sorted) for (const chunk of node.chunks) if (chunk.blob.digester === digester) chunks.push(chunk);
    });
  }
  return new ChunkDictionary({ blobs: parent?.blobs, chunks, dictionary });
}

/** The tree of the image: what was read, or that on the parent's. */
function onParent({ parent, source }: CreateOptions, root: TreeNode): TreeNode {
  return parent ? overlay(cloneTree(parent.root), root, source.whiteouts ?? "oci") : root;
}

interface ReadSource {
  root: TreeNode;
  order: TreeNode[];
  entryCount: number;
  /** chunks that the start of the blob holds for files on the prefetch list */
  listed?: ReadonlySet<StoredChunk>;
  external?: ExternalTree | undefined;
}

/** What follows the data: its description, the bootstrap, and the names under which both appear. */
async function finish(
  options: CreateOptions,
  writer: BuiltBlob,
  blobs: BlobEntry[],
  { root, entryCount, order, listed, external }: ReadSource,
  algorithms: { compressor: number; digester: number; isTarfs?: boolean },
): Promise<CreateResult> {
  await writer.finishData();
  checkBlobCount(blobs);
  if (options.version5) requireOneCompressor(root, algorithms.compressor);
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
      cipher: blobs.some(({ cipher }) => cipher !== 0) ? 1 : 0,
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
    await writer.seal();
    blob = await writer.commit();
  } else {
    await writer.seal();
    // The disk takes its time with the blob, whose name appears only after the tree has proved fit to be written.
    writer.beginSync();
    bootstrap = write();
    blob = await writer.commit();
    if (!blob && options.blob && "file" in options.blob) await writeFileWhole(options.blob.file, new Uint8Array(0));
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
    external,
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
    const file = source.kind === "tar" && source.file !== undefined ? await FileInput.open(source.file) : undefined;
    const input = file ?? new ByteStream(decompressLayer(source.stream));
    const { root, entryCount } = await readTarTree({ input, explicitUidGid: options.explicitUidGid, chunkSize: options.chunkSize }, writer);
    const tree = onParent(options, root);
    return { root: tree, entryCount, order: numberTree(tree) };
  }
  const scan = {
    path: source.path,
    readXattrs: source.readXattrs,
    explicitUidGid: options.explicitUidGid,
    dropWhiteouts: options.parent ? ("none" as const) : source.whiteouts,
  };
  const files = new FileStore(writer);
  const top = Buffer.from(source.path.replace(/\/+$/, "")).toString("latin1").length;
  const isExternal = (path: string) => source.external?.has(path.slice(top)) ?? false;
  const split = (root: TreeNode) => source.external && fitting(options, takeExternal(root, source.external, options.digester));
  if (!options.parent && options.prefetch.policy === "none") {
    // Data is stored in the order of numbering, which is that of the scan: both go on together.
    const { root, entryCount } = await scanDirectory(scan, (node, path) => (isExternal(path) ? undefined : files.store(node, path)));
    await writer.settle();
    const external = split(root);
    return { root, entryCount, order: numberTree(root), external };
  }
  const paths = new Map<TreeNode, string>();
  const tree = await scanDirectory(scan, (node, path) => {
    if (!isExternal(path)) paths.set(node, path);
  });
  const external = split(tree.root);
  const root = onParent(options, tree.root);
  const order = numberTree(root);
  const first = options.prefetch.policy === "none" ? new Set<TreeNode>() : matchPrefetch(root, order, options.prefetch.patterns).files;
  for (const node of [...first, ...order.filter((node) => !first.has(node))]) {
    const path = paths.get(node);
    if (path !== undefined) await files.store(node, path);
  }
  await writer.settle();
  const listed = options.prefetch.policy === "blob" ? new Set([...first].flatMap(({ chunks }) => chunks)) : new Set<StoredChunk>();
  return { root, entryCount: tree.entryCount, order, listed, external };
}

/** @throws BuilderError BUILD_SOURCE: its chunks are not of the parent's size, with which they share a bootstrap */
function fitting({ parent, chunkSize }: CreateOptions, external: ExternalTree): ExternalTree {
  const isAlone = parent === undefined || parent.blobs.length === 0;
  if (isAlone || external.chunkSize === undefined || external.chunkSize === chunkSize) return external;
  throw new BuilderError("BUILD_SOURCE", `the external files have chunks of ${external.chunkSize} bytes, the parent of ${chunkSize}`);
}

/** Stores files of a directory, those of several names once. */
class FileStore {
  readonly #writer: BlobWriter;
  readonly #stored = new Map<HardlinkIdentity, TreeNode>();

  constructor(writer: BlobWriter) {
    this.#writer = writer;
  }

  store(node: TreeNode, path: string): Promise<void> | undefined {
    const same = node.link && this.#stored.get(node.link);
    if (same) {
      node.chunks = same.chunks;
      return undefined;
    }
    if (node.link) this.#stored.set(node.link, node);
    return this.#writer.addFile({ path, offset: 0 }, node);
  }
}

/**
 * The second bootstrap that the original writes beside every one it builds from a directory: the tree of files kept in external blobs. Here
 * that is the root with those of `external`, on what the parent has.
 */
export function writeExternalBootstrap(options: CreateOptions, { root, hasXattr, external }: CreateResult): Buffer {
  const bare = external?.root ?? new TreeNode("", root);
  bare.xattrs = root.xattrs;
  const tree = onParent(options, bare);
  const order = numberTree(tree);
  const blobs = [...(options.parent?.blobs ?? []), ...(external?.blobs ?? [])];
  return (options.version5 ? writeBootstrapV5 : writeBootstrap)({
    root: tree,
    nodeCount: order.length,
    blobs,
    chunkSize: external?.chunkSize ?? options.chunkSize,
    compressor: compressorNumbers[options.compressor],
    digester: digesterNumbers[options.digester],
    cipher: blobs.some(({ cipher }) => cipher !== 0) ? 1 : 0,
    explicitUidGid: options.explicitUidGid,
    // In version 5 the flag speaks of this tree alone, in version 6 of all that was read.
    hasXattr: options.version5 ? order.some((node) => node.xattrs !== undefined) : hasXattr,
    prefetch: [],
  });
}

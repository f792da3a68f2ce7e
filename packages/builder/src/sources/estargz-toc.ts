/**
 * The table of contents of an eStargz layer as the source of an image: it says where each file's data lies in the layer, which stays as it
 * is. Nothing of the layer is read. Sources: spec/nydus-image.md, section 6.5; spec/rafs.md, section 9; stargz-snapshotter, docs/estargz.md
 */
import { blobFeatures, chunkFlags } from "@nydus-ts/rafs-format";
import { type BlobEntry, newBlobEntry, roundUp, type StoredChunk, type TreeNode } from "@nydus-ts/rafs-format/writer";
import { chunkKey } from "../chunk-dictionary.ts";
import { compressorNumbers, digesterNumbers } from "../codecs.ts";
import { BuilderError } from "../errors.ts";
import { chunksPerBlobMax, tocJsonBytesMax } from "../limits.ts";
import { printable } from "./directory.ts";
import { TarTreeBuilder } from "./tar.ts";
import type { TarKind, TarMember } from "./tar-reader.ts";

export interface EstargzTocOptions {
  /** the table, JSON */
  stream: AsyncIterable<Uint8Array>;
  /** of the layer */
  blobId: string;
  blobBytes: number;
  chunkSize: number;
  explicitUidGid: boolean;
}

export interface EstargzTree {
  root: TreeNode;
  entryCount: number;
  /** undefined if no file has data */
  blob: BlobEntry | undefined;
}

/** A map: the table may name a type "constructor". */
const kinds: ReadonlyMap<string, TarKind> = new Map([
  ["dir", "directory"],
  ["reg", "file"],
  ["symlink", "symlink"],
  ["hardlink", "hardlink"],
  ["char", "char"],
  ["block", "block"],
  ["fifo", "fifo"],
]);
const alignment = 4096;

/** @throws BuilderError BUILD_TAR (the table is damaged or contradicts itself), BUILD_UNSUPPORTED, BUILD_LIMIT */
export async function readEstargzToc(options: EstargzTocOptions): Promise<EstargzTree> {
  const table = parseTable(await readAll(options.stream));
  const tree = new TarTreeBuilder(options);
  const chunks = new TocChunks(options);
  let file: TreeNode | undefined;
  for (const entry of table) {
    const name = textOf(entry, "name");
    const type = textOf(entry, "type");
    if (type === "chunk") {
      if (!file || numberOf(entry, "chunkOffset") === 0)
        throw damaged(name, "is a chunk without its file, or one that does not follow the first");
      chunks.add(file, name, entry);
      continue;
    }
    const kind = kinds.get(type);
    if (!kind) throw damaged(name, `has the unknown type ${JSON.stringify(type)}`);
    const node = tree.add(memberOf(entry, kind));
    file = kind === "file" ? node : undefined;
    if (file && file.size > 0) chunks.add(file, name, entry);
  }
  tree.eachFile((node) => {
    if (node.chunks.length !== Math.ceil(node.size / options.chunkSize))
      throw damaged(node.name, `has ${node.size} bytes but ${node.chunks.length} chunks: give the layer's chunk size with --chunk-size`);
  });
  return { root: tree.root, entryCount: tree.entryCount, blob: chunks.finish() };
}

/** The chunks that were named, each digest once. */
class TocChunks {
  readonly #options: EstargzTocOptions;
  readonly #blob: BlobEntry;
  readonly #known = new Map<string, StoredChunk>();

  constructor(options: EstargzTocOptions) {
    this.#options = options;
    this.#blob = newBlobEntry({
      id: options.blobId,
      chunkSize: options.chunkSize,
      compressor: compressorNumbers.gzip,
      digester: digesterNumbers.sha256,
      features: (blobFeatures.capTarToc | blobFeatures.aligned) >>> 0,
    });
    // What the original records where there is no chunk info. Source: spec/rafs.md, section 2.5
    this.#blob.ciCompressor = compressorNumbers.lz4_block;
  }

  add(file: TreeNode, name: string, entry: TocEntry): void {
    const { chunkSize, blobBytes } = this.#options;
    const fileOffset = numberOf(entry, "chunkOffset");
    const size = numberOf(entry, "chunkSize") || file.size - fileOffset;
    const isLast = fileOffset + size === file.size;
    if (fileOffset !== file.chunks.length * chunkSize || size > chunkSize || size <= 0 || (size < chunkSize && !isLast))
      throw damaged(name, `has a chunk of ${size} bytes at ${fileOffset} of ${file.size}, which chunks of ${chunkSize} bytes do not give`);
    if (numberOf(entry, "innerOffset") > 0)
      throw new BuilderError(
        "BUILD_UNSUPPORTED",
        `${printable(name)} shares its gzip member with other files: build with --type targz-ref`,
      );
    const offset = numberOf(entry, "offset");
    if (offset >= blobBytes) throw damaged(name, `lies at ${offset} of a layer of ${blobBytes} bytes`);
    const digest = digestOf(entry, name, size === file.size);
    const key = chunkKey(digest);
    const known = this.#known.get(key);
    file.chunks.push(known?.uncompressedSize === size ? known : this.#newChunk(key, digest, offset, size));
  }

  #newChunk(key: string, digest: Uint8Array, offset: number, size: number): StoredChunk {
    const blob = this.#blob;
    if (blob.chunkCount >= chunksPerBlobMax) throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one layer`);
    if (this.#known.has(key)) throw new BuilderError("BUILD_TAR", "the table of contents has one digest for chunks of different sizes");
    const chunk: StoredChunk = {
      digest,
      blob,
      index: blob.chunkCount++,
      flags: chunkFlags.compressed,
      compressedOffset: offset,
      compressedSize: 0,
      uncompressedOffset: blob.uncompressedSize,
      uncompressedSize: size,
      crc32: 0,
    };
    blob.uncompressedSize += roundUp(size, alignment);
    this.#known.set(key, chunk);
    return chunk;
  }

  /** A table does not say how long a gzip member is: it ends before the next, and is no longer than deflate can make it. */
  finish(): BlobEntry | undefined {
    const blob = this.#blob;
    if (blob.chunkCount === 0) return undefined;
    const chunks = [...this.#known.values()].sort((a, b) => a.compressedOffset - b.compressedOffset);
    for (const [i, chunk] of chunks.entries()) {
      const end = chunks[i + 1]?.compressedOffset ?? this.#options.blobBytes;
      if (end === chunk.compressedOffset) throw new BuilderError("BUILD_TAR", `two chunks of the table of contents lie at ${end}`);
      chunk.compressedSize = Math.min(gzipBytesMax(chunk.uncompressedSize), end - chunk.compressedOffset);
      blob.compressedSize = Math.max(blob.compressedSize, chunk.compressedOffset + chunk.compressedSize);
    }
    return blob;
  }
}

/** Member header and trailer, five bytes for each stored block, and some room. Source: spec/nydus-image.md, section 6.5 */
function gzipBytesMax(plain: number): number {
  return plain + 10 + 8 + 5 + Math.floor(plain / 16384) * 5 + 128;
}

type TocEntry = Readonly<Record<string, unknown>>;

function damaged(name: string, what: string): BuilderError {
  return new BuilderError("BUILD_TAR", `stargz: ${printable(name)} ${what}`);
}

async function readAll(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const piece of stream) {
    bytes += piece.length;
    if (bytes > tocJsonBytesMax) throw new BuilderError("BUILD_LIMIT", `a table of contents of more than ${tocJsonBytesMax} bytes`);
    parts.push(Buffer.from(piece));
  }
  return Buffer.concat(parts);
}

function parseTable(bytes: Buffer): TocEntry[] {
  let table: unknown;
  try {
    table = JSON.parse(bytes.toString());
  } catch (cause) {
    throw new BuilderError("BUILD_TAR", `the table of contents is no JSON: ${(cause as Error).message}`, { cause });
  }
  const { version, entries } = (table ?? {}) as { version?: unknown; entries?: unknown };
  if (version !== 1)
    throw new BuilderError("BUILD_TAR", `stargz: unknown version ${JSON.stringify(version)} of the table of contents, 1 is known`);
  const isEntry = (entry: unknown) => typeof entry === "object" && entry !== null;
  if (!Array.isArray(entries) || entries.length === 0 || !entries.every(isEntry))
    throw new BuilderError("BUILD_TAR", "stargz: the table of contents has no entries");
  return entries as TocEntry[];
}

/** One byte per code unit, as everywhere in a tree. */
function textOf(entry: TocEntry, key: string): string {
  const value = entry[key] ?? "";
  if (typeof value !== "string") throw damaged(String(entry["name"]), `has a ${key} that is no text`);
  return Buffer.from(value).toString("latin1");
}

function numberOf(entry: TocEntry, key: string): number {
  const value = entry[key] ?? 0;
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw damaged(String(entry["name"]), `has a ${key} that is no size`);
  return value as number;
}

/** Of the chunk. Tables of older tools have only that of the file, which is the same where a file is one chunk. */
function digestOf(entry: TocEntry, name: string, isWholeFile: boolean): Uint8Array {
  const text = textOf(entry, "chunkDigest") || (isWholeFile ? textOf(entry, "digest") : "");
  const hex = /^sha256:([0-9a-f]{64})$/.exec(text)?.[1];
  if (!hex) throw damaged(name, "is missing digest or chunk digest");
  return Buffer.from(hex, "hex");
}

function memberOf(entry: TocEntry, kind: TarKind): TarMember {
  const xattrs = entry["xattrs"] as Readonly<Record<string, unknown>> | undefined;
  const name = textOf(entry, "name");
  if (name === "") throw damaged("", "is an entry without a name");
  const modified = Date.parse(textOf(entry, "modtime") || "1970-01-01T00:00:00Z");
  if (Number.isNaN(modified)) throw damaged(name, "has a modtime that is no time");
  return {
    name,
    kind,
    type: "",
    mode: numberOf(entry, "mode") & 0o7777,
    uid: numberOf(entry, "uid"),
    gid: numberOf(entry, "gid"),
    size: numberOf(entry, "size"),
    mtime: Math.floor(modified / 1000),
    mtimeNsec: 0,
    linkName: textOf(entry, "linkName"),
    deviceMajor: numberOf(entry, "devMajor"),
    deviceMinor: numberOf(entry, "devMinor"),
    xattrs:
      xattrs &&
      new Map(Object.entries(xattrs).map(([key, value]) => [Buffer.from(key).toString("latin1"), Buffer.from(String(value), "base64")])),
    read: async () => {
      throw new TypeError("a table of contents holds no data");
    },
  };
}

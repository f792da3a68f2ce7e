/** The bootstrap of a chunk dictionary: a directory of all its chunks. Source: spec/nydus-image.md, section 18, step 5 */
import { blobFeatures, chunkFlags, compressors, digesters, modeTypes } from "@nydus-ts/rafs-format";
import {
  type BlobEntry,
  newBlobEntry,
  numberTree,
  type StoredChunk,
  TreeNode,
  writeBootstrap,
  writeBootstrapV5,
} from "@nydus-ts/rafs-format/writer";
import type { BlobRow, ChunkRow } from "./database.ts";

const blobBytesMin = 4096;

export interface DictionaryImage {
  version: 5 | 6;
  chunkSize: number;
  compressor: (typeof compressors)[number];
  digester: (typeof digesters)[number];
  explicitUidGid: boolean;
  cipher: number;
}

/** What the sources know beyond the database: whole rows of blobs, and the true index of a chunk within its blob. */
export interface KnownBlobs {
  blobs: ReadonlyMap<string, BlobEntry>;
  /** by `chunkPlace` */
  indexes: ReadonlyMap<string, number>;
}

export function chunkPlace({ blobId, uncompressedOffset, digest }: Pick<ChunkRow, "blobId" | "uncompressedOffset" | "digest">): string {
  return `${blobId} ${uncompressedOffset} ${digest}`;
}

/** @param warn  gets a line for each blob that is too small to be worth a request */
export function writeDictionary(
  rows: readonly ChunkRow[],
  rowsOfBlobs: ReadonlyMap<string, BlobRow>,
  known: KnownBlobs,
  image: DictionaryImage,
  warn: (line: string) => void,
): { bootstrap: Buffer; blobs: BlobEntry[] } {
  const blobs = new Map<string, BlobEntry>();
  const chunks: StoredChunk[] = [];
  for (const row of largeEnough([...rows].sort(byPlace), warn)) {
    let blob = blobs.get(row.blobId);
    if (!blob) {
      blob = blobEntryOf(row.blobId, rowsOfBlobs.get(row.blobId), known.blobs.get(row.blobId), image);
      blobs.set(row.blobId, blob);
    }
    const isCompressed = compressors[blob.compressor] !== "none" && row.compressedSize !== row.uncompressedSize;
    const index = known.indexes.get(chunkPlace(row)) ?? blob.chunkCount;
    chunks.push({
      digest: Buffer.from(row.digest, "hex"),
      blob,
      index,
      flags: isCompressed ? chunkFlags.compressed : 0,
      compressedOffset: row.compressedOffset,
      compressedSize: row.compressedSize,
      uncompressedOffset: row.uncompressedOffset,
      uncompressedSize: row.uncompressedSize,
      crc32: row.crc32,
    });
    blob.chunkCount = Math.max(blob.chunkCount, index + 1);
    if (!known.blobs.has(row.blobId)) blob.uncompressedSize += row.uncompressedSize;
  }
  const root = dictionaryTree(chunks, image.chunkSize);
  const nodeCount = numberTree(root).length;
  const bootstrap = (image.version === 5 ? writeBootstrapV5 : writeBootstrap)({
    root,
    nodeCount,
    blobs: [...blobs.values()],
    chunkSize: image.chunkSize,
    compressor: compressors.indexOf(image.compressor),
    digester: digesters.indexOf(image.digester),
    cipher: image.cipher,
    explicitUidGid: image.explicitUidGid,
    hasXattr: false,
    prefetch: [],
  });
  return { bootstrap, blobs: [...blobs.values()] };
}

function blobEntryOf(id: string, row: BlobRow | undefined, known: BlobEntry | undefined, image: DictionaryImage): BlobEntry {
  const entry = known
    ? { ...known, chunkCount: known.chunkCount }
    : newBlobEntry({
        id,
        chunkSize: image.chunkSize,
        compressor: compressors.indexOf((row?.compressor ?? image.compressor) as DictionaryImage["compressor"]),
        digester: digesters.indexOf(image.digester),
        features: blobFeatures.capTarToc | (image.version === 6 ? blobFeatures.aligned : 0),
      });
  entry.features = (entry.features | blobFeatures.chunkDictGenerated) >>> 0;
  if (known || !row) return entry;
  entry.compressedSize = row.compressedSize;
  entry.ciCompressor = row.ciCompressedSize === row.ciUncompressedSize ? 0 : compressors.indexOf("zstd");
  entry.ciCompressedSize = row.ciCompressedSize;
  entry.ciUncompressedSize = row.ciUncompressedSize;
  entry.ciOffset = row.ciOffset;
  return entry;
}

/**
 * All chunks in files that are made of them: a file goes on while its chunks are full, as the format demands. The original puts them all
 * into one file, whose chunks are then not where its size says.
 */
function dictionaryTree(chunks: readonly StoredChunk[], chunkSize: number): TreeNode {
  const common = { mtime: 0, mtimeNsec: 0, rdev: 0, size: 0 };
  const root = new TreeNode("", { ...common, mode: modeTypes.dir | 0o660, uid: 1000, gid: 1000 });
  const addFile = () => {
    const count = root.children!.size;
    const name = count === 0 ? "chunkdict" : `chunkdict.${count}`;
    const file = new TreeNode(name, { ...common, mode: modeTypes.file | 0o660, uid: 0, gid: 0 });
    root.children!.set(name, file);
    return file;
  };
  let file = addFile();
  for (const chunk of chunks) {
    if (file.size % chunkSize !== 0) file = addFile();
    file.chunks.push(chunk);
    file.size += chunk.uncompressedSize;
  }
  return root;
}

function byPlace(a: ChunkRow, b: ChunkRow): number {
  if (a.blobId !== b.blobId) return a.blobId < b.blobId ? -1 : 1;
  return a.compressedOffset - b.compressedOffset || a.uncompressedOffset - b.uncompressedOffset || (a.digest < b.digest ? -1 : 1);
}

/** Rows of equal place are one chunk: images that share a blob have one each. */
function* largeEnough(rows: readonly ChunkRow[], warn: (line: string) => void): Generator<ChunkRow, void> {
  const sizes = new Map<string, number>();
  for (const { blobId, uncompressedSize } of rows) sizes.set(blobId, (sizes.get(blobId) ?? 0) + uncompressedSize);
  for (const [blobId, size] of sizes)
    if (size < blobBytesMin) warn(`Warning: Blob with id '${blobId}' is smaller than ${blobBytesMin} bytes.`);
  let last = "";
  for (const row of rows) {
    const place = chunkPlace(row);
    if (sizes.get(row.blobId)! >= blobBytesMin && place !== last) yield row;
    last = place;
  }
}

/** The data of listed files, together in one new blob: what `nydus-image optimize` and `nydusify optimize` share. Source: spec/nydus-image.md, section 17 */
import { type BlobEntry, RepackedBlob, type TreeNode } from "@nydus-ts/builder";
import type { BlobBackend } from "@nydus-ts/chunk-store";
import { blobFeatures } from "@nydus-ts/rafs-format";
import type { StoredChunk } from "@nydus-ts/rafs-format/writer";
import { NydusImageError } from "./errors.ts";
import { ImageChunks } from "./image-chunks.ts";
import type { LayerFile } from "./layer-file.ts";
import type { PrefetchFile } from "./prefetch-files.ts";
import { blobTraits, chunkBytes, digestKey, type EditableImage, editable, findNode, nodesOf, writeEdited } from "./rewrite-image.ts";

export interface OptimizeOptions {
  /** has the image's blobs */
  backend: BlobBackend;
  /** gets the new blob */
  directory: string;
  warn: (line: string) => void;
  signal: AbortSignal;
}

export interface Optimized {
  bootstrap: Buffer;
  /** the image's and the new one */
  blobs: BlobEntry[];
  /** undefined: no listed file has data */
  added: BlobEntry | undefined;
  /** what its cache file `<id>.blob.meta` holds */
  addedMeta: Buffer | undefined;
}

/** @throws NydusImageError IMAGE_FILE (no blobs), IMAGE_UNSUPPORTED (tarfs); ChunkStoreError; BuilderError */
export async function optimizeImage(file: LayerFile, files: readonly PrefetchFile[], options: OptimizeOptions): Promise<Optimized> {
  if (file.bootstrap.blobs.length === 0) throw new NydusImageError("IMAGE_FILE", "No blob info found in superblock");
  const image = editable(file, "optimize");
  const moves = planMoves(image, files, (path) => options.warn(`prefetch file ${path} is bad, skip it`));
  if (moves.size === 0) options.warn("no listed file has data: no blob is written");
  const chunks = new ImageChunks(file, options.backend, options.signal);
  const added = moves.size === 0 ? undefined : await moveChunks(image, moves, options.directory, chunks);
  const blobs = added ? [...image.blobs, added.blob] : image.blobs;
  return { bootstrap: writeEdited(image, blobs), blobs, added: added?.blob, addedMeta: added?.metaFile };
}

/** Which chunks of which files move, in the order of the list. */
function planMoves(image: EditableImage, files: readonly PrefetchFile[], bad: (path: string) => void): Map<TreeNode, Set<number>> {
  const moves = new Map<TreeNode, Set<number>>();
  for (const { path, ranges } of files) {
    const node = findNode(image.root, Buffer.from(path).toString("latin1"));
    if (!node?.isRegular) {
      bad(path);
      continue;
    }
    const chosen = moves.get(node) ?? new Set();
    for (const i of node.chunks.keys()) {
      const start = i * image.bootstrap.chunkSize;
      const end = start + node.chunks[i].uncompressedSize;
      // Both ends count, as in the original: a range that ends where a chunk begins touches it.
      if (ranges === undefined || ranges.some(([offset, size]) => offset <= end && start <= offset + size)) chosen.add(i);
    }
    if (chosen.size > 0) moves.set(node, chosen);
  }
  return moves;
}

/** Stores the chunks and points the files, by all their names, at them. A chunk that several files share is stored once. */
async function moveChunks(
  image: EditableImage,
  moves: ReadonlyMap<TreeNode, ReadonlySet<number>>,
  directory: string,
  chunks: ImageChunks,
): Promise<RepackedBlob> {
  const { bootstrap } = image;
  const bytes = chunkBytes(image, chunks);
  await using blob = await RepackedBlob.create({
    destination: { directory },
    ...blobTraits(bootstrap),
    // Only version 6 marks it.
    features: bootstrap.version === 6 ? blobFeatures.separatedWithPrefetchFiles : 0,
    sectionHeaders: true,
  });
  const moved = new Map<string, StoredChunk>();
  const byLink = new Map<unknown, StoredChunk[]>();
  for (const [node, chosen] of moves) {
    const list = (node.link && byLink.get(node.link)) ?? node.chunks.slice();
    for (const i of chosen) {
      if (list[i].blob === blob.blob) continue;
      // The chunk table has room for one chunk of a digest in a blob.
      const key = digestKey(list[i]);
      let next = moved.get(key);
      if (next === undefined) {
        next = await blob.add(list[i], bytes);
        moved.set(key, next);
      }
      list[i] = next;
    }
    node.chunks = list;
    if (node.link) byLink.set(node.link, list);
  }
  await blob.commit();
  if (byLink.size > 0) pointLinks(image.root, byLink);
  return blob;
}

function pointLinks(root: TreeNode, byLink: ReadonlyMap<unknown, StoredChunk[]>): void {
  for (const node of nodesOf(root)) {
    const list = node.link && byLink.get(node.link);
    if (list) node.chunks = list;
  }
}

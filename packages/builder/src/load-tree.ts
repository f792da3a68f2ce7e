/** A bootstrap as a tree that can be changed and written again. */
import {
  type Bootstrap,
  BootstrapV5,
  blobFeatures,
  type ChunkRecord,
  inodeFlagsV5,
  openBootstrap,
  superFlags,
} from "@nydus-ts/rafs-format";
import { type BlobEntry, blobEntry, type HardlinkIdentity, type StoredChunk, TreeNode } from "@nydus-ts/rafs-format/writer";
import { BuilderError } from "./errors.ts";

export interface LoadedImage {
  bootstrap: Bootstrap;
  root: TreeNode;
  blobs: BlobEntry[];
}

/**
 * Reads a whole bootstrap. Chunks that the image holds once are one object in the tree.
 * @throws RafsError for damaged bytes; BuilderError BUILD_INCONSISTENT for a file whose chunks the chunk table does not have
 */
export function loadImage(bytes: Uint8Array): LoadedImage {
  const bootstrap = openBootstrap(bytes);
  const blobs = bootstrap.blobs.map(blobEntry);
  const loader = new TreeLoader(bootstrap, blobs);
  return { bootstrap, blobs, root: loader.load() };
}

/**
 * The chunks of an image that is used as a dictionary, the one that counts first where several have a digest. `blobs` are the image's,
 * one row each. Chunks of another kind of digest are left out: they would never be found.
 * Source: spec/nydus-image.md, section 7.5
 */
export function* loadChunks(bootstrap: Bootstrap, blobs: readonly BlobEntry[], digester: number): Generator<StoredChunk, void> {
  for (const record of recordsInOrder(bootstrap)) {
    const blob = blobs[record.blobIndex];
    if (blob?.digester === digester) yield { ...record, index: record.chunkIndex, crc32: record.crc32c, blob };
  }
}

/** Version 6 has a table of all its chunks; else they are met where the files are. */
function* recordsInOrder(bootstrap: Bootstrap): Generator<ChunkRecord, void> {
  if (bootstrap.version === 6 && (bootstrap.flags & superFlags.inlinedChunkDigest) === 0n) {
    yield* bootstrap.chunkRecords();
    return;
  }
  for (const { nid } of bootstrap.walk()) {
    for (const chunk of bootstrap.chunksOf(nid)) {
      const record = bootstrap.chunkRecord(chunk);
      if (record) yield record;
    }
  }
}

class TreeLoader {
  readonly #bootstrap: Bootstrap;
  readonly #blobs: readonly BlobEntry[];
  readonly #links = new Map<number, HardlinkIdentity>();
  readonly #chunks = new Map<string, StoredChunk>();

  constructor(bootstrap: Bootstrap, blobs: readonly BlobEntry[]) {
    this.#bootstrap = bootstrap;
    this.#blobs = blobs;
  }

  load(): TreeNode {
    const directories = new Map<string, TreeNode>();
    let root: TreeNode | undefined;
    for (const { path, nid } of this.#bootstrap.walk()) {
      const text = Buffer.from(path).toString("latin1");
      const slash = text.lastIndexOf("/");
      const node = this.#node(text.slice(slash + 1), nid);
      if (root === undefined) root = node;
      else directories.get(text.slice(0, slash))!.children!.set(node.name, node);
      if (node.isDirectory) directories.set(text === "/" ? "" : text, node);
    }
    return root!;
  }

  #node(name: string, nid: number): TreeNode {
    const inode = this.#bootstrap.inode(nid);
    const node = new TreeNode(name, { ...inode, mtime: Number(inode.mtime) });
    if (!Number.isSafeInteger(node.mtime))
      throw new BuilderError("BUILD_INCONSISTENT", `inode ${nid} has a time of ${inode.mtime} seconds`);
    if (this.#bootstrap instanceof BootstrapV5) {
      const { flags, rdev } = this.#bootstrap.recordedFields(nid);
      node.isNamedHardlink = (flags & inodeFlagsV5.hardlink) !== 0;
      node.rdev = rdev;
    }
    if (node.isSymlink) node.target = this.#bootstrap.readLink(nid);
    const xattrs = this.#bootstrap.xattrs(nid);
    if (xattrs.size > 0) node.xattrs = xattrs;
    if (!node.isDirectory && inode.nlink > 1) node.link = this.#linkOf(inode.ino);
    for (const chunk of this.#bootstrap.chunksOf(nid)) {
      const key = `${chunk.blobIndex}:${chunk.chunkIndex}:${chunk.uncompressedOffset}`;
      let stored = this.#chunks.get(key);
      if (!stored) {
        const record = this.#bootstrap.chunkRecord(chunk);
        if (!record) {
          throw new BuilderError(
            "BUILD_INCONSISTENT",
            `chunk ${chunk.chunkIndex} of blob ${chunk.blobIndex} (inode ${nid}) is not in the chunk table`,
          );
        }
        stored = { ...record, index: record.chunkIndex, crc32: record.crc32c, blob: this.#blobs[record.blobIndex] };
        this.#chunks.set(key, stored);
      }
      node.chunks.push(stored);
    }
    return node;
  }

  #linkOf(ino: number): HardlinkIdentity {
    let link = this.#links.get(ino);
    if (!link) {
      link = { hardlink: true };
      this.#links.set(ino, link);
    }
    return link;
  }
}

/** A blob whose bootstrap stood inside it, seen from a bootstrap that stands outside. Source: spec/nydus-image.md, section 11.3 */
export function withoutInlinedBootstrap(blob: BlobEntry): BlobEntry {
  return { ...blob, features: (blob.features & ~blobFeatures.inlinedFsMeta) >>> 0 };
}

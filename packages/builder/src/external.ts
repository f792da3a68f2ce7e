/** Files of a directory whose data lie in blobs that others made: the tree that stands for them. Source: spec/nydus-image.md, section 6.2 */
import { blobFeatures, chunkFlags } from "@nydus-ts/rafs-format";
import { type BlobEntry, newBlobEntry, TreeNode } from "@nydus-ts/rafs-format/writer";
import { Artifact, type Destination } from "./artifact.ts";
import { BlobTail } from "./blob-tail.ts";
import { digesterNumbers } from "./codecs.ts";
import { BuilderError } from "./errors.ts";
import { blobsMax, chunkSizeMax, chunkSizeMin, chunksPerBlobMax } from "./limits.ts";
import { printable } from "./sources/directory.ts";

/** Where the data of one file lie. */
export interface ExternalFile {
  /** for a file that is empty here; absent: its own size counts */
  fileSize: number | undefined;
  blobIndex: number;
  /** 64 hexadecimal digits */
  blobId: string;
  /** bytes of the whole blob, which is not compressed */
  blobBytes: number;
  chunkSize: number;
  /** of the file's first chunk in the blob; the others follow */
  offset: number;
  /** CRC-32C of each chunk */
  crcs: readonly number[];
}

/** By path below the root, one byte per code unit, with a slash in front. */
export type ExternalFiles = ReadonlyMap<string, ExternalFile>;

export interface ExternalTree {
  root: TreeNode;
  blobs: BlobEntry[];
  /** of all its files; undefined if none has data */
  chunkSize: number | undefined;
}

/**
 * Takes the external files out of a tree. Directories that hold nothing else go with them.
 * @throws BuilderError BUILD_SOURCE: a file is missing, or the attributes contradict each other; BUILD_LIMIT
 */
export function takeExternal(root: TreeNode, files: ExternalFiles, digester: keyof typeof digesterNumbers): ExternalTree {
  const taken = new Taken(digesterNumbers[digester]);
  const external = taken.split(root, "", files);
  for (const path of files.keys()) {
    if (!taken.paths.has(path)) throw new BuilderError("BUILD_SOURCE", `the external file ${printable(path)} is not in the directory`);
  }
  return { root: external, blobs: taken.finish(), chunkSize: taken.chunkSize };
}

/**
 * Writes a bootstrap as a blob that holds nothing else, as images are handed on whose bootstraps lie in their blobs. Returns its path.
 * @throws BuilderError BUILD_OUTPUT
 */
export async function writeBootstrapBlob(bootstrap: Buffer, options: { destination: Destination; toc: boolean }): Promise<string> {
  await using artifact = await Artifact.create(options.destination);
  const tail = new BlobTail(artifact, { inlineBootstrap: true, toc: options.toc, hashDigests: false });
  await tail.appendBootstrap(bootstrap);
  await tail.appendToc(undefined);
  return await artifact.commit(artifact.digest().toString("hex"));
}

class Taken {
  readonly paths = new Set<string>();
  readonly #blobs: Array<BlobEntry | undefined> = [];
  readonly #digester: number;
  #chunkSize: { value: number; path: string } | undefined;

  constructor(digester: number) {
    this.#digester = digester;
  }

  get chunkSize(): number | undefined {
    return this.#chunkSize?.value;
  }

  split(directory: TreeNode, path: string, files: ExternalFiles): TreeNode {
    const copy = new TreeNode(directory.name, directory);
    copy.xattrs = directory.xattrs;
    for (const [name, child] of directory.children!) {
      const own = `${path}/${name}`;
      const file = files.get(own);
      if (file) {
        if (!child.isRegular) throw new BuilderError("BUILD_SOURCE", `the external file ${printable(own)} is no regular file`);
        this.paths.add(own);
        this.#describe(child, own, file);
        copy.children!.set(name, child);
        directory.children!.delete(name);
      } else if (child.isDirectory) {
        const below = this.split(child, own, files);
        if (below.children!.size === 0) continue;
        copy.children!.set(name, below);
        if (child.children!.size === 0) directory.children!.delete(name);
      }
    }
    return copy;
  }

  #describe(node: TreeNode, path: string, file: ExternalFile): void {
    if (node.size === 0 && file.fileSize !== undefined) node.size = file.fileSize;
    const refuse = (why: string): never => {
      throw new BuilderError("BUILD_SOURCE", `the external file ${printable(path)} ${why}`);
    };
    const { chunkSize } = file;
    if (chunkSize < chunkSizeMin || chunkSize > chunkSizeMax || !Number.isInteger(Math.log2(chunkSize)))
      refuse(`has chunks of ${chunkSize} bytes; an image's are of a power of two, from ${chunkSizeMin} to ${chunkSizeMax}`);
    this.#chunkSize ??= { value: chunkSize, path };
    const { value, path: first } = this.#chunkSize;
    if (chunkSize !== value)
      refuse(`has chunks of ${chunkSize} bytes, ${printable(first)} of ${value}: an image records one size for all its files`);
    const blob = this.#blob(path, file);
    const count = Math.ceil(node.size / file.chunkSize);
    if (count > file.crcs.length) refuse(`has ${count} chunks and ${file.crcs.length} crcs: invalid crc index ${file.crcs.length}`);
    if (file.offset % 4096 !== 0 || file.offset + node.size > file.blobBytes)
      refuse(`lies at ${file.offset} of a blob of ${file.blobBytes} bytes; it must begin at a multiple of 4096 and end within`);
    if (blob.chunkCount + count > chunksPerBlobMax)
      throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one blob`);
    node.chunks = Array.from({ length: count }, (_, i) => {
      const [offset, size] = [file.offset + i * file.chunkSize, Math.min(file.chunkSize, node.size - i * file.chunkSize)];
      return {
        blob,
        index: blob.chunkCount++,
        digest: new Uint8Array(32),
        flags: chunkFlags.crc32,
        compressedOffset: offset,
        compressedSize: size,
        uncompressedOffset: offset,
        uncompressedSize: size,
        crc32: file.crcs[i]!,
      };
    });
  }

  #blob(path: string, { blobIndex, blobId, blobBytes, chunkSize }: ExternalFile): BlobEntry {
    if (blobIndex >= blobsMax)
      throw new BuilderError("BUILD_LIMIT", `blob_index ${blobIndex} of ${printable(path)}; at most ${blobsMax} blobs are known`);
    const known = this.#blobs[blobIndex];
    if (known && (known.id !== blobId || known.compressedSize !== blobBytes))
      throw new BuilderError("BUILD_SOURCE", `${printable(path)} says another id or size of blob ${blobIndex} than a file before it`);
    if (known) return known;
    const blob = newBlobEntry({
      id: blobId,
      chunkSize,
      compressor: 0,
      digester: this.#digester,
      features: (blobFeatures.capTarToc | blobFeatures.external) >>> 0,
    });
    blob.compressedSize = blobBytes;
    blob.uncompressedSize = blobBytes;
    // What the original records where there is no chunk info. Source: spec/rafs.md, section 2.5
    blob.ciCompressor = 1;
    this.#blobs[blobIndex] = blob;
    return blob;
  }

  finish(): BlobEntry[] {
    const missing = this.#blobs.findIndex((blob) => blob === undefined);
    if (missing >= 0) throw new BuilderError("BUILD_SOURCE", `no external file names blob ${missing}, others name later ones`);
    return this.#blobs as BlobEntry[];
  }
}

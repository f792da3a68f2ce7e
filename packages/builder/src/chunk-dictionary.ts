/** Chunks that need not be stored again. Source: spec/nydus-image.md, section 7.3 */
import type { BlobEntry, StoredChunk } from "@nydus-ts/rafs-format/writer";
import { ChunkIndex } from "./chunk-index.ts";

/** An image whose chunks may be used, and whose blobs are listed only if they are. */
export interface ChunkSource {
  /** the first chunk of a digest counts */
  chunks: Iterable<StoredChunk>;
}

/**
 * The blobs of an image under construction, in the order of their indexes, and the chunks that are in them. A chunk of a dictionary
 * goes before an equal one of this image, and brings its blob into the table when it is first used.
 */
export class ChunkDictionary {
  readonly blobs: BlobEntry[];
  readonly #own = new ChunkIndex();
  readonly #shared = new ChunkIndex();
  readonly #rows = new Map<BlobEntry, BlobEntry>();

  /** `blobs`: those that are in the table whatever the source holds */
  constructor(
    given: { blobs?: readonly BlobEntry[] | undefined; chunks?: Iterable<StoredChunk>; dictionary?: ChunkSource | undefined } = {},
  ) {
    this.blobs = [...(given.blobs ?? [])];
    for (const chunk of given.chunks ?? []) this.add(chunk);
    for (const chunk of given.dictionary?.chunks ?? []) this.#shared.add(chunk);
  }

  /** A chunk of this digest, unless its size is another one. */
  find(digest: Uint8Array, uncompressedSize: number): StoredChunk | undefined {
    const shared = this.#shared.find(digest);
    if (shared?.uncompressedSize === uncompressedSize) {
      const blob = this.#listed(shared.blob);
      return blob === shared.blob ? shared : { ...shared, blob };
    }
    const own = this.#own.find(digest);
    return own?.uncompressedSize === uncompressedSize ? own : undefined;
  }

  /** The row of a dictionary's blob. A blob of the parent may be in the dictionary too: one row stands for both. */
  #listed(blob: BlobEntry): BlobEntry {
    let listed = this.#rows.get(blob);
    if (!listed) {
      listed = this.blobs.find(({ id }) => id === blob.id) ?? blob;
      this.#rows.set(blob, listed);
      if (listed === blob) this.blobs.push(blob);
    }
    return listed;
  }

  /** The first chunk of a digest stays. */
  add(chunk: StoredChunk): void {
    this.#own.add(chunk);
  }
}

export function chunkKey(chunkDigest: Uint8Array): string {
  return Buffer.from(chunkDigest.buffer, chunkDigest.byteOffset, chunkDigest.length).toString("latin1");
}

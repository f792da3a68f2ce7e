/** Chunks by digest: a hash table of numbers, 16 bytes a chunk. A map with strings as keys took 100. */
import type { StoredChunk } from "@nydus-ts/rafs-format/writer";

const slotsAtFirst = 1024;

export class ChunkIndex {
  readonly #chunks: StoredChunk[] = [];
  /** position of a chunk plus one; 0: free. At most half are taken */
  #slots = new Uint32Array(slotsAtFirst);

  find(digest: Uint8Array): StoredChunk | undefined {
    const taken = this.#slots[this.#slot(digest)];
    return taken === 0 ? undefined : this.#chunks[taken - 1];
  }

  /** The first chunk of a digest stays. */
  add(chunk: StoredChunk): void {
    const at = this.#slot(chunk.digest);
    if (this.#slots[at] !== 0) return;
    this.#chunks.push(chunk);
    this.#slots[at] = this.#chunks.length;
    if (this.#chunks.length * 2 > this.#slots.length) this.#grow();
  }

  /** Where the digest is, or would be. A digest is as good as random, so its first bytes are its hash. */
  #slot(digest: Uint8Array): number {
    const mask = this.#slots.length - 1;
    let at = (digest[0] | (digest[1] << 8) | (digest[2] << 16) | (digest[3] << 24)) & mask;
    for (let taken = this.#slots[at]; taken !== 0 && !isEqual(this.#chunks[taken - 1].digest, digest); taken = this.#slots[at])
      at = (at + 1) & mask;
    return at;
  }

  #grow(): void {
    this.#slots = new Uint32Array(this.#slots.length * 2);
    for (const [i, { digest }] of this.#chunks.entries()) this.#slots[this.#slot(digest)] = i + 1;
  }
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return a.length === b.length;
}

import { firstWidenBytes, sequencesMax, sequentialChunksMin } from "./limits.ts";

interface Sequence {
  /** The chunk that would go on with it. */
  next: number;
  chunks: number;
  bytes: number;
}

/**
 * Finds out whether readers go through a blob in order. It sees absent chunks only (readers of present ones ask nobody), so chunks that
 * are in the cache may lie between two that it sees. Several readers, each in order, are told apart.
 */
export class SequenceDetector {
  /** Oldest first. */
  readonly #sequences: Sequence[] = [];

  /**
   * A reader wants `chunk`, of `bytes` stored bytes.
   *
   * @param isPresent  whether a chunk is in the cache
   * @returns bytes that may be read ahead: 0 unless the access is in order, then twice what was read, from 128 KiB
   */
  note(chunk: number, bytes: number, isPresent: (chunk: number) => boolean): number {
    const at = this.#sequences.findIndex(({ next }) => next === chunk || next - 1 === chunk || continues(next, chunk, isPresent));
    const found = at < 0 ? { next: chunk, chunks: 0, bytes: 0 } : (this.#sequences.splice(at, 1)[0] as Sequence);
    this.#sequences.push(found);
    if (this.#sequences.length > sequencesMax) this.#sequences.shift();
    if (found.next <= chunk) {
      found.next = chunk + 1;
      found.chunks++;
      found.bytes += bytes;
    }
    return found.chunks < sequentialChunksMin ? 0 : Math.max(firstWidenBytes, 2 * found.bytes);
  }
}

/** Present chunks that may lie between two absent ones of a sequence. */
const bridgeMax = 4096;

function continues(next: number, chunk: number, isPresent: (chunk: number) => boolean): boolean {
  if (chunk <= next || chunk - next > bridgeMax) return false;
  for (let between = next; between < chunk; between++) if (!isPresent(between)) return false;
  return true;
}

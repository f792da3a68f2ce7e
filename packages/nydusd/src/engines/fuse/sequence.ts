/** Runs of one blob that are followed at a time: readers of several files at once. */
const runsMax = 8;
/** Bytes that may lie between two misses of one run: what the cache had already (read ahead by us), or other files in between. */
const gapBytesMax = 4 << 20;
/** The same for a read of what was fetched ahead: half of that, the chunk before it, and what the cache had already. */
const readOnGapBytesMax = 2 * gapBytesMax;

interface Run {
  /** End of the last miss, in bytes of the uncompressed blob. */
  end: number;
  /** Bytes from the start of the run. */
  bytes: number;
}

/**
 * Tells sequential misses of a blob from scattered ones, so that only the former are widened: widening every miss fetches megabytes
 * nobody reads (9 MiB for one `python -c`). Files lie in a blob in the order of the tree, so a walk over small files is a run too.
 */
export class SequenceTracker {
  readonly #runs: Run[] = [];

  /** Notes a miss [start, end) of the blob; returns the bytes of the run before it, 0 when it begins one. */
  note(start: number, end: number): number {
    return this.#note(start, end, start, gapBytesMax);
  }

  /** As `note`, for a read of what was fetched ahead of the run: what lies between was read from the cache. */
  noteReadOn(start: number, end: number): number {
    return this.#note(start, end, 0, readOnGapBytesMax);
  }

  #note(start: number, end: number, countedFrom: number, gapMax: number): number {
    const position = this.#runs.findIndex((run) => start >= run.end - (end - start) && start - run.end <= gapMax);
    const found = position < 0 ? undefined : this.#runs.splice(position, 1)[0];
    const before = found?.bytes ?? 0;
    this.#runs.unshift({
      end: Math.max(end, found?.end ?? 0),
      bytes: before + Math.max(0, end - Math.max(countedFrom, found?.end ?? start)),
    });
    if (this.#runs.length > runsMax) this.#runs.pop();
    return before;
  }
}

import { windowBytes } from "./limits.ts";

/** Where an inflater's output lies: the window, of which the last 32 KiB before `out` stay, since matches reach back into them. */
export class OutputWindow {
  readonly window: Uint8Array;
  /** where the next byte of output goes */
  out = 0;
  /** first byte of `window` that a match may reach */
  protected history = 0;

  constructor(outputBytes: number) {
    // Of its own: memory of Node's pool would keep the rest of the pool.
    this.window = Buffer.allocUnsafeSlow(windowBytes + outputBytes);
  }

  /** Output of this stream that a match may reach, at most 32 KiB, before `position` in the window. */
  historyBefore(position: number): Uint8Array {
    return this.window.subarray(Math.max(this.history, position - windowBytes), position);
  }

  /** Moves the last 32 KiB of output to the front of the window, so that there is room again. Returns by how much. */
  slide(): number {
    const by = Math.max(0, this.out - windowBytes);
    this.window.copyWithin(0, by, this.out);
    this.out -= by;
    this.history = Math.max(0, this.history - by);
    return by;
  }
}

/** Why a run ended. `final` is the border after the last block of a stream. */
export type Stop = "input" | "output" | "boundary" | "final";

/** Inflates a raw deflate stream and stops exactly where zlib's `inflate(Z_BLOCK)` stops: the positions are recorded in images. */
export interface Inflater extends OutputWindow {
  /** input that is decoded: bytes [at, end). Always the same memory */
  readonly input: Uint8Array;
  at: number;
  end: number;
  /** the code after the last byte of output does not end in this piece of input, all of which zlib would have taken up */
  readonly starved: boolean;
  /** bits of the byte before `at` that were not used yet, at the border of a block */
  readonly unusedBits: number;
  /** Begins a new stream at `at`, which is at a byte border. */
  restart(): void;
  /**
   * Decodes until `out` reaches `limit`, which is beyond it, a block ends, or the input does; in that case the bytes from `at` on must come
   * again with more behind them.
   * @throws BuilderError BUILD_TAR
   */
  run(limit: number): Stop;
  /** Frees what the collector does not. Twice is harmless; nothing else may be called afterwards. */
  close(): void;
}

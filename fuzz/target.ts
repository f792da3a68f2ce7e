/** Bytes to start from, and what to do with the changed ones. */
export interface Seed {
  /** Where the bytes come from; stands in the report of a failure. */
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Reads the changed bytes: returns, or throws an error that the target accepts. Checks of its own throw others. */
  readonly read: (bytes: Uint8Array) => void | Promise<void>;
  /** Another way to change the seed, taken for every other case: one that keeps checksums or syntax, so that more is reached. */
  readonly mutate?: (bytes: Uint8Array, random: Random) => Uint8Array;
}

export interface Target {
  readonly name: string;
  /** @param golden  folder of golden data; without it only what the repository holds */
  seeds(golden: string | undefined): Seed[] | Promise<Seed[]>;
  /** Whether an error is one of the package's own, with a code. */
  accepts(error: unknown): boolean;
}

/** Whole numbers from 0, below `below`. */
export type Random = (below: number) => number;

/** Bytes from the start of a blob. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/**
 * Who waits for the bytes: a reader; nobody yet, a reader will soon; nobody. A back end serves `demand` first and may drop or slow the
 * others, `prefetch` more than `ahead`.
 */
export type ReadPriority = "demand" | "ahead" | "prefetch";

export interface BlobReadOptions {
  /** For the whole call, retries and all hosts included. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  readonly priority: ReadPriority;
  /** Fires when somebody begins to wait for what `ahead` or `prefetch` was asked for: from then on it is `demand`. */
  readonly demanded?: AbortSignal;
  /**
   * Memory of exactly `range.length` bytes for the answer. A back end may answer with memory of its own instead. When the call rejects,
   * somebody may still write into it.
   */
  readonly into?: Uint8Array;
  /**
   * Called with the first bytes of the range, again and again as more of them come; whoever listens can use them while the rest is on its
   * way. What was shown does not change any more: a second attempt shows memory of its own. A back end may never call it. Must not throw.
   */
  readonly onPart?: (bytes: Uint8Array) => void;
}

/**
 * Where the stored bytes of blobs come from. `blobBackendSuite` of `@nydus-ts/chunk-store/testing` is what every form must do.
 * `registry-client` has an adapter of this shape without importing it.
 */
export interface BlobBackend {
  /** Names the form in metrics and messages: `registry`, `localfs`. */
  readonly kind: string;

  /**
   * Reads exactly `range.length` stored bytes of the blob. A short answer is an error, never a short result.
   *
   * @param blobId  lower-case hex, without `sha256:`
   * @throws Error with a stable `code` and `retryable`; the message names blob, host, status and attempts, and carries no credentials.
   *   When `signal` fires: its reason, or an error with a code whose `cause` is the reason
   */
  read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array>;

  /** Size of the stored blob in bytes. */
  size(blobId: string, options: BlobReadOptions): Promise<number>;

  /** Ends running reads; closing twice is harmless. */
  [Symbol.asyncDispose](): Promise<void>;
}

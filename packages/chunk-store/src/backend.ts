/** Bytes from the start of a blob. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** Who waits for the bytes. A back end serves `demand` before `prefetch` and may drop or slow `prefetch`. */
export type ReadPriority = "demand" | "prefetch";

export interface BlobReadOptions {
  /** For the whole call, retries and all hosts included. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  readonly priority: ReadPriority;
  /** Fires when somebody begins to wait for what `prefetch` was asked for: from then on it is `demand`. */
  readonly demanded?: AbortSignal;
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

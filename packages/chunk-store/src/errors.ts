export type ChunkStoreErrorCode =
  | "CHUNK_DIGEST"
  | "CHUNK_DEADLINE"
  | "CHUNK_BACKEND"
  | "CHUNK_NO_SPACE"
  | "CHUNK_META"
  | "CHUNK_DECODE"
  | "CHUNK_RANGE"
  | "CHUNK_CACHE"
  | "CHUNK_CLOSED"
  | "CHUNK_UNSUPPORTED";

/** A chunk could not be had for a reason outside this program. `message` names blob, chunk and cause, and carries no credentials. */
export class ChunkStoreError extends Error {
  override readonly name = "ChunkStoreError";
  readonly code: ChunkStoreErrorCode;
  /** Whether the same call may succeed later without anybody changing anything. */
  readonly retryable: boolean;

  constructor(code: ChunkStoreErrorCode, message: string, options?: ErrorOptions & { readonly retryable?: boolean }) {
    super(message, options);
    this.code = code;
    this.retryable = options?.retryable ?? retryableByCode[code];
  }
}

const retryableByCode = {
  CHUNK_DIGEST: true,
  CHUNK_DEADLINE: true,
  CHUNK_BACKEND: true,
  CHUNK_NO_SPACE: true,
  CHUNK_META: true,
  CHUNK_DECODE: true,
  CHUNK_RANGE: false,
  CHUNK_CACHE: true,
  CHUNK_CLOSED: false,
  CHUNK_UNSUPPORTED: false,
} as const satisfies Record<ChunkStoreErrorCode, boolean>;

/** Text of any thrown value, for messages. */
export const describeCause = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

import type { ReadPriority } from "./backend.ts";
import type { BlobCacheOptions } from "./blob-cache-options.ts";
import { ChunkStoreError, describeCause } from "./errors.ts";

/** A range of a stored blob that somebody wants. */
export interface BlobRequest {
  readonly what: "chunks" | "meta";
  readonly blobId: string;
  readonly offset: number;
  readonly length: number;
  readonly priority: ReadPriority;
  readonly deadlineMs: number;
  readonly chunkCount: number;
  /** Fires when a reader waits for a request that nobody waited for. */
  readonly demanded?: AbortSignal | undefined;
  readonly into?: Uint8Array;
  readonly onPart?: (bytes: Uint8Array) => void;
}

/** The requests of a cache to its back end: counted, reported, and what fails is a ChunkStoreError. */
export class BlobRequests {
  readonly counts = { fetchRequests: 0, fetchErrors: 0 };
  readonly #options: Pick<BlobCacheOptions, "backend" | "onFetch">;
  readonly #closing: AbortSignal;

  /** @param closing  ends all requests */
  constructor(options: Pick<BlobCacheOptions, "backend" | "onFetch">, closing: AbortSignal) {
    this.#options = options;
    this.#closing = closing;
  }

  /** @returns exactly `length` bytes @throws ChunkStoreError CHUNK_BACKEND, CHUNK_DEADLINE; the closing signal's reason */
  async read(request: BlobRequest): Promise<Uint8Array> {
    const { what, blobId, offset, length, priority, deadlineMs, chunkCount, demanded, into, onPart } = request;
    const begin = performance.now();
    this.counts.fetchRequests++;
    let failure: Error | undefined;
    try {
      const landing = { ...(into === undefined ? {} : { into }), ...(onPart === undefined ? {} : { onPart }) };
      const options = { deadlineMs, priority, signal: this.#closing, ...landing, ...(demanded === undefined ? {} : { demanded }) };
      const bytes = await this.#options.backend.read(blobId, { offset, length }, options);
      if (bytes.length === length) return bytes;
      throw new ChunkStoreError("CHUNK_BACKEND", `blob ${blobId}: ${bytes.length} bytes came, ${length} were asked for`);
    } catch (cause) {
      this.counts.fetchErrors++;
      failure = this.asFailure(cause, `blob ${blobId} [${offset}..${offset + length})`);
      throw failure;
    } finally {
      const event = { blobId, what, priority, offset, length, chunkCount, durationMs: performance.now() - begin };
      this.#options.onFetch?.(failure === undefined ? event : { ...event, error: failure });
    }
  }

  /** What a back end threw, in the words of this package. */
  asFailure(cause: unknown, where: string): Error {
    if (cause instanceof ChunkStoreError) return cause;
    if (this.#closing.aborted) return this.#closing.reason as Error;
    const code = (cause as { code?: unknown }).code;
    const late = typeof code === "string" && code.endsWith("_DEADLINE");
    return new ChunkStoreError(late ? "CHUNK_DEADLINE" : "CHUNK_BACKEND", `${where}: ${describeCause(cause)}`, { cause });
  }
}

import type { BlobBackend, BlobReadOptions, ByteRange } from "@nydus-ts/chunk-store";
import { NydusdError } from "../errors.ts";

/**
 * One blob, several mounts that can fetch it: each brings the back end of its own configuration. The one that worked last is asked
 * first; when it fails quickly (credentials withdrawn, repository deleted) the others get their turn within the same deadline.
 * It owns none of them.
 */
export class SwitchingBackend implements BlobBackend {
  readonly #members: BlobBackend[] = [];

  get kind(): string {
    return this.#members[0]?.kind ?? "none";
  }

  /** Adds one use of a back end, in front: the newest credentials are the likeliest to work. */
  add(member: BlobBackend): void {
    this.#members.unshift(member);
  }

  /** Takes one use away. */
  remove(member: BlobBackend): void {
    const index = this.#members.indexOf(member);
    if (index >= 0) this.#members.splice(index, 1);
  }

  read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array> {
    return this.#inTurn(options, (member, rest) => member.read(blobId, range, rest));
  }

  size(blobId: string, options: BlobReadOptions): Promise<number> {
    return this.#inTurn(options, (member, rest) => member.size(blobId, rest));
  }

  /** The members belong to their mounts. */
  async [Symbol.asyncDispose](): Promise<void> {}

  async #inTurn<T>(options: BlobReadOptions, run: (member: BlobBackend, options: BlobReadOptions) => Promise<T>): Promise<T> {
    const until = performance.now() + options.deadlineMs;
    const { into, ...limits } = options;
    // Of the first attempt: one that failed may still write into it.
    let memory: Pick<BlobReadOptions, "into"> = into === undefined ? {} : { into };
    let failure: unknown = new NydusdError("MOUNT_BACKEND", "the image is being unmounted; nobody fetches its data any more");
    for (const member of new Set(this.#members)) {
      const deadlineMs = until - performance.now();
      if (deadlineMs <= 0) break;
      try {
        const result = await run(member, { ...limits, ...memory, deadlineMs });
        this.#prefer(member);
        return result;
      } catch (error) {
        failure = error;
        memory = {};
        if (options.signal?.aborted) break;
      }
    }
    throw failure;
  }

  #prefer(member: BlobBackend): void {
    if (this.#members[0] === member) return;
    // The one that worked goes to the front, all its uses with it.
    this.#members.sort((a, b) => Number(b === member) - Number(a === member));
  }
}

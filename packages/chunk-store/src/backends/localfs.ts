import { closeSync, constants, fstatSync } from "node:fs";
import { join } from "node:path";
import type { BlobBackend, BlobReadOptions, ByteRange } from "../backend.ts";
import { ChunkStoreError, describeCause } from "../errors.ts";
import { openFd, readAt } from "../file-io.ts";
import { waitFor } from "../wait.ts";

export interface LocalfsOptions {
  /** One file that is every blob. */
  readonly blobFile?: string | undefined;
  /** Folder of blobs named by id. */
  readonly dir?: string | undefined;
  /** Looked in after `dir`, in order. */
  readonly altDirs?: readonly string[] | undefined;
}

/**
 * Blobs as files: `blobFile` whatever the id, else the first folder that has a non-empty file of that name. Files are opened at their
 * first read and stay open.
 *
 * Source: spec/nydusd.md 13.5
 */
export function localfsBackend(options: LocalfsOptions): BlobBackend {
  if (options.blobFile === undefined && options.dir === undefined && !options.altDirs?.length) {
    throw new TypeError("localfs needs blobFile, dir or altDirs");
  }
  return new LocalfsBackend(options);
}

class LocalfsBackend implements BlobBackend {
  readonly kind = "localfs";
  readonly #options: LocalfsOptions;
  readonly #files = new Map<string, Promise<number>>();
  readonly #closing = new AbortController();
  readonly #reads = new Set<Promise<unknown>>();

  constructor(options: LocalfsOptions) {
    this.#options = options;
  }

  async read(blobId: string, range: ByteRange, options: BlobReadOptions): Promise<Uint8Array> {
    const read = this.#open(blobId).then(async (fd) => {
      const target = Buffer.allocUnsafeSlow(range.length);
      const count = await readAt(fd, target, range.offset);
      if (count === range.length) return target;
      throw new ChunkStoreError(
        "CHUNK_BACKEND",
        `localfs: blob ${blobId} ends at ${range.offset + count}, wanted [${range.offset}..+${range.length})`,
        {
          retryable: false,
        },
      );
    });
    return this.#limit(read, options, `localfs: blob ${blobId}`);
  }

  async size(blobId: string, options: BlobReadOptions): Promise<number> {
    return this.#limit(
      this.#open(blobId).then((fd) => fstatSync(fd).size),
      options,
      `localfs: size of blob ${blobId}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new ChunkStoreError("CHUNK_CLOSED", "localfs: closed"));
    await Promise.allSettled(this.#reads);
    for (const opened of await Promise.allSettled(this.#files.values())) if (opened.status === "fulfilled") closeSync(opened.value);
  }

  async #limit<T>(work: Promise<T>, options: BlobReadOptions, what: string): Promise<T> {
    const settled = work.then(
      () => undefined,
      () => undefined,
    );
    this.#reads.add(settled);
    void settled.then(() => this.#reads.delete(settled));
    const signal = options.signal === undefined ? this.#closing.signal : AbortSignal.any([options.signal, this.#closing.signal]);
    return waitFor(work, { deadlineAt: performance.now() + options.deadlineMs, signal }, what);
  }

  #open(blobId: string): Promise<number> {
    if (this.#closing.signal.aborted) return Promise.reject(this.#closing.signal.reason);
    let opened = this.#files.get(blobId);
    if (opened === undefined) {
      opened = this.#find(blobId);
      this.#files.set(blobId, opened);
      // A blob may appear later.
      opened.catch(() => this.#files.delete(blobId));
    }
    return opened;
  }

  async #find(blobId: string): Promise<number> {
    if (blobId === "" || blobId === "." || blobId === ".." || blobId.includes("/") || blobId.includes("\0")) {
      throw new ChunkStoreError("CHUNK_BACKEND", `localfs: ${JSON.stringify(blobId)} is no blob id`, { retryable: false });
    }
    const { blobFile, dir, altDirs = [] } = this.#options;
    const paths =
      blobFile === undefined ? [...(dir === undefined ? [] : [dir]), ...altDirs].map((folder) => join(folder, blobId)) : [blobFile];
    const faults: string[] = [];
    for (const path of paths) {
      try {
        const fd = await openFd(path, constants.O_RDONLY);
        if (fstatSync(fd).isFile() && (fstatSync(fd).size > 0 || paths.length === 1)) return fd;
        closeSync(fd);
        faults.push(`${path} is empty or no file`);
      } catch (error) {
        faults.push(describeCause(error));
      }
    }
    throw new ChunkStoreError("CHUNK_BACKEND", `localfs: blob ${blobId} not found: ${faults.join("; ")}`, { retryable: false });
  }
}

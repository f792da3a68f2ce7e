import { realpathSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { BlobCache, type BlobCacheOptions } from "@nydus-ts/chunk-store";
import type { BlobRecord, ChunkRecord } from "@nydus-ts/rafs-format";
import type { ConfigV2 } from "../config/index.ts";
import { describeError, NydusdError } from "../errors.ts";
import type { Log } from "../log/log.ts";
import type { ImageBackend } from "./backends.ts";
import { SwitchingBackend } from "./switching-backend.ts";

/** Least `batch_size` (v1: `merging_size`) that counts. Source: spec/nydusd.md 12.2 */
const mergeBytesMin = 131_072;

/** What one mount brings to a shared blob cache. */
export interface CacheUse {
  readonly config: ConfigV2;
  /** With its effective id. */
  readonly blob: BlobRecord;
  /** What its cache files are called. */
  readonly cacheName: string;
  /** The blob that holds the chunk info. */
  readonly metaBlobId: string;
  readonly backend: ImageBackend;
  readonly digestOf: (chunkIndex: number) => Uint8Array | undefined;
  /** Of a blob with blob meta: where this image's bootstrap says that its chunks lie. */
  readonly placeOf: BlobCacheOptions["placeOf"];
  /** Of a blob without blob meta: what this image's bootstrap says of its chunks. */
  readonly chunkRecords: readonly ChunkRecord[] | undefined;
}

/** A blob cache as one mount holds it. */
export interface CacheHandle {
  readonly cache: BlobCache;
  readonly directory: string;
  readonly use: CacheUse;
  /** Fetches through another back end from now on (remount). */
  exchange(backend: ImageBackend): void;
  release(): Promise<void>;
}

interface Shared {
  readonly opening: Promise<BlobCache>;
  readonly fingerprint: string;
  readonly switching: SwitchingBackend;
  readonly uses: CacheUse[];
}

/**
 * The blob caches of the daemon: one for each blob and directory, however many images and containers read it, so each chunk is
 * fetched once. Closed with its last use; the files stay.
 */
export class CachePool {
  readonly #shared = new Map<string, Shared>();
  readonly #log: Log;
  #processEnds = false;

  constructor(log: Log) {
    this.#log = log;
  }

  /** From now on no cache that is closed waits for its disk. */
  hurry(): void {
    this.#processEnds = true;
  }

  /** @throws NydusdError MOUNT_BACKEND (cache directory, or the blob is already in use with another description), UNSUPPORTED */
  async acquire(use: CacheUse): Promise<CacheHandle> {
    const directory = await cacheDirectory(use.config);
    const key = join(directory, use.cacheName);
    const fingerprint = describe(use.blob);
    let shared = this.#shared.get(key);
    if (shared === undefined) {
      const switching = new SwitchingBackend();
      const uses: CacheUse[] = [];
      shared = { fingerprint, switching, uses, opening: this.#open(directory, use, switching, uses) };
      this.#shared.set(key, shared);
    } else if (shared.fingerprint !== fingerprint) {
      const hint = "give the images different cache directories";
      throw new NydusdError(
        "MOUNT_BACKEND",
        `blob ${use.blob.id} in ${directory} is in use by an image that describes it otherwise; ${hint}`,
      );
    }
    shared.uses.push(use);
    shared.switching.add(use.backend.reader);
    const handle = new Handle(directory, use, shared, () => this.#drop(key, shared));
    try {
      handle.opened = await shared.opening;
      if (use.chunkRecords !== undefined) handle.opened.addChunkRecords(use.chunkRecords);
      return handle;
    } catch (cause) {
      await handle.release();
      throw new NydusdError("MOUNT_BACKEND", `blob ${use.blob.id}: ${describeError(cause)}`, { cause });
    }
  }

  #open(directory: string, use: CacheUse, backend: SwitchingBackend, uses: readonly CacheUse[]): Promise<BlobCache> {
    return BlobCache.open({
      directory,
      blob: use.blob,
      cacheName: use.cacheName,
      metaBlobId: use.metaBlobId,
      backend,
      // Images that share a blob may each know only the digests of the chunks they use.
      digestOf: (chunkIndex) => {
        for (const each of uses) {
          const digest = each.digestOf(chunkIndex);
          if (digest !== undefined) return digest;
        }
        return undefined;
      },
      digester: use.blob.digester,
      placeOf: (chunkIndex) => {
        for (const each of uses) {
          const place = each.placeOf?.(chunkIndex);
          if (place !== undefined) return place;
        }
        return undefined;
      },
      validate: use.config.cache?.validate ?? true,
      amplifyBytesMax: use.config.rafs?.batch_size ?? 1_048_576,
      prefetchRequestBytesMax: Math.max(mergeBytesMin, use.config.cache?.prefetch.batch_size ?? 1_048_576),
      onWarning: (line) => this.#log.warn(line),
      onFetch: ({ blobId, what, priority, offset, length, chunkCount, durationMs }) =>
        this.#log.debug(
          `${priority} ${what} of blob ${blobId.slice(0, 12)} [${offset}..${offset + length}): ${chunkCount} chunks in ${durationMs.toFixed(1)} ms`,
        ),
    });
  }

  async #drop(key: string, shared: Shared): Promise<void> {
    this.#shared.delete(key);
    try {
      const cache = await shared.opening.catch(() => undefined);
      await cache?.close({ processEnds: this.#processEnds });
    } catch (error) {
      this.#log.warn(`cache ${key}: not closed cleanly: ${describeError(error)}`);
    }
  }
}

class Handle implements CacheHandle {
  readonly directory: string;
  #use: CacheUse;
  readonly #shared: Shared;
  readonly #onLast: () => Promise<void>;
  #released = false;
  opened: BlobCache | undefined;

  constructor(directory: string, use: CacheUse, shared: Shared, onLast: () => Promise<void>) {
    this.directory = directory;
    this.#use = use;
    this.#shared = shared;
    this.#onLast = onLast;
  }

  get cache(): BlobCache {
    if (this.opened === undefined) throw new TypeError("the blob cache is not open yet");
    return this.opened;
  }

  get use(): CacheUse {
    return this.#use;
  }

  exchange(backend: ImageBackend): void {
    if (this.#released) return;
    this.#shared.switching.add(backend.reader);
    this.#shared.switching.remove(this.#use.backend.reader);
    this.#use = { ...this.#use, backend };
  }

  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    this.#shared.switching.remove(this.#use.backend.reader);
    const index = this.#shared.uses.findIndex((use) => use.digestOf === this.#use.digestOf);
    if (index >= 0) this.#shared.uses.splice(index, 1);
    if (this.#shared.uses.length === 0) await this.#onLast();
  }
}

async function cacheDirectory(config: ConfigV2): Promise<string> {
  const { cache } = config;
  if (cache?.type !== "blobcache" && cache?.type !== "filecache") {
    throw new NydusdError("UNSUPPORTED", `cache.type ${JSON.stringify(cache?.type ?? "")}: images need "blobcache" with a work_dir`);
  }
  if (cache.compressed || cache.filecache?.enable_encryption) {
    throw new NydusdError(
      "UNSUPPORTED",
      "cache.compressed and cache.filecache.enable_encryption are not built in this version; remove them",
    );
  }
  const directory = cache.filecache?.work_dir ?? ".";
  try {
    await mkdir(directory, { recursive: true, mode: 0o755 });
    return realpathSync(directory);
  } catch (cause) {
    throw new NydusdError("MOUNT_BACKEND", `cache directory ${directory}: ${describeError(cause)}`, { cause });
  }
}

function describe(blob: BlobRecord): string {
  const { chunkCount, chunkSize, uncompressedSize, ciUncompressedSize, ciOffset, compressor } = blob;
  return [chunkCount, chunkSize, uncompressedSize, ciUncompressedSize, ciOffset, compressor].join(" ");
}

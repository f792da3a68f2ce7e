import type { MountRequest } from "@nydus-ts/nydus-api";
import { effectiveBlobId, hasBlobMeta, metaBlobId } from "@nydus-ts/rafs-format";
import type { ConfigV2 } from "../config/index.ts";
import type { RafsMount } from "../engines/engine.ts";
import { describeError, NydusdError } from "../errors.ts";
import { probeDeadlineMs } from "../limits.ts";
import type { Log } from "../log/log.ts";
import { type BackendPool, type ImageBackend, readDeadlineMs } from "./backends.ts";
import type { CacheHandle, CachePool } from "./caches.ts";
import { type DescribedBlob, describeBlobs } from "./chunk-records.ts";
import { prefetchImage } from "./prefetch.ts";
import { asImageFault, type ImageSource, openImageSource } from "./source.ts";
import { verifyInodes } from "./verify-inodes.ts";

export interface ImagePools {
  readonly backends: BackendPool;
  readonly caches: CachePool;
}

/** `ended early`: not all that was listed could be fetched; its readers will. */
export type PrefetchState = "off" | "running" | "done" | "ended early";

/** An image that is open: its bootstrap, its blobs, its back end. Owned by the daemon, served by the engine. */
export class Image {
  readonly mountpoint: string;
  readonly mountedTime: string;
  readonly blobs: readonly CacheHandle[];
  readonly source: ImageSource;
  readonly #pools: ImagePools;
  readonly #log: Log;
  readonly #abort = new AbortController();
  #request: MountRequest;
  #config: ConfigV2;
  #backend: ImageBackend;
  #auth: string | undefined;
  #prefetching: Promise<void> = Promise.resolve();
  #prefetchState: PrefetchState = "off";
  /** Index in the virtual tree, known once the engine serves it. */
  vfsIndex = 0;

  private constructor(open: {
    mountpoint: string;
    mountedTime: string;
    request: MountRequest;
    config: ConfigV2;
    source: ImageSource;
    blobs: readonly CacheHandle[];
    backend: ImageBackend;
    pools: ImagePools;
    log: Log;
  }) {
    this.mountpoint = open.mountpoint;
    this.mountedTime = open.mountedTime;
    this.source = open.source;
    this.blobs = open.blobs;
    this.#request = open.request;
    this.#config = open.config;
    this.#backend = open.backend;
    this.#pools = open.pools;
    this.#log = open.log;
  }

  /**
   * Opens bootstrap, back end and cache files; a registry is not contacted.
   * @throws NydusdError MOUNT_SOURCE, MOUNT_IMAGE, MOUNT_BACKEND, UNSUPPORTED, CONFIG_INVALID
   */
  static async open(
    mountpoint: string,
    request: MountRequest,
    config: ConfigV2,
    pools: ImagePools,
    log: Log,
    mountedTime = utcNow(),
  ): Promise<Image> {
    const source = await openImageSource(request.source);
    const blobs: CacheHandle[] = [];
    let backend: ImageBackend | undefined;
    try {
      backend = await pools.backends.acquire(config, mountpoint);
      for (const { blob: record, chunkRecords, cacheSuffix } of await describeImage(source, request.source, config)) {
        const blob = { ...record, id: effectiveBlobId(record, source.name) };
        const digestOf = source.bootstrap.chunkDigests(record.index);
        const placeOf = hasBlobMeta(record) ? source.bootstrap.recordedChunks(record.index) : undefined;
        const cacheName = `${blob.id}${cacheSuffix}`;
        const use = { config, blob, cacheName, metaBlobId: metaBlobId(record, source.name), backend, digestOf, placeOf, chunkRecords };
        blobs.push(await pools.caches.acquire(use));
      }
      return new Image({ mountpoint, mountedTime, request, config, source, blobs, backend, pools, log });
    } catch (error) {
      for (const blob of blobs) await blob.release();
      if (backend !== undefined) await pools.backends.release(backend);
      await source[Symbol.asyncDispose]();
      throw error;
    }
  }

  get request(): MountRequest {
    return this.#request;
  }
  get config(): ConfigV2 {
    return this.#config;
  }
  get backend(): ImageBackend {
    return this.#backend;
  }
  /** Credentials given by the API since the mount. */
  get auth(): string | undefined {
    return this.#auth;
  }

  get prefetchState(): PrefetchState {
    return this.#prefetchState;
  }

  /** As the engine wants it. */
  rafsMount(vfsIndex?: number): RafsMount {
    return {
      mountpoint: this.mountpoint,
      bootstrapPath: this.source.bootstrapPath,
      blobs: this.blobs.map(({ cache }) => cache),
      readDeadlineMs: readDeadlineMs(this.#config),
      xattr: this.#config.rafs?.enable_xattr ?? false,
      ...(vfsIndex === undefined ? {} : { vfsIndex }),
    };
  }

  /**
   * Proves that the image's data can be had: chunks of the first blob are in the cache, or one small range of it is fetched.
   * @throws NydusdError MOUNT_BACKEND with host and cause
   */
  async probe(): Promise<void> {
    const first = this.blobs[0];
    if (first === undefined) return;
    if (first.cache.stats().readyCount > 0) return;
    const { blob } = first.use;
    const deadlineMs = Math.min(probeDeadlineMs, readDeadlineMs(this.#config));
    try {
      await this.#backend.reader.read(
        blob.id,
        { offset: 0, length: Math.min(4096, blob.compressedSize) },
        { deadlineMs, priority: "demand" },
      );
    } catch (cause) {
      const text = `${this.mountpoint}: the image's data can't be fetched, so it is not mounted: blob ${blob.id}: ${describeError(cause)}`;
      throw new NydusdError("MOUNT_BACKEND", text, { cause });
    }
  }

  /** Starts fetching in the background; `dispose` ends it. */
  startPrefetch(): void {
    const { rafs, cache } = this.#config;
    if (rafs?.prefetch.enable !== true) return;
    // The original needs a second switch and drops everything silently without it (spec/nydusd.md 18, row 34).
    if (cache?.prefetch.enable === false)
      this.#log.debug(`${this.mountpoint}: rafs.prefetch is on, cache.prefetch is off; prefetching all the same`);
    this.#prefetchState = "running";
    const running = prefetchImage({
      bootstrap: this.source.bootstrap,
      blobs: this.blobs,
      config: rafs.prefetch,
      files: this.#request.prefetch_files ?? undefined,
      signal: this.#abort.signal,
      log: this.#log,
      mountpoint: this.mountpoint,
    });
    this.#prefetching = running.then((whole) => {
      this.#prefetchState = whole ? "done" : "ended early";
    });
  }

  /** Uses another configuration: credentials, mirrors, back end. Readers go on; the tree stays as it is. */
  async reconfigure(request: MountRequest, config: ConfigV2): Promise<void> {
    const next = await this.#pools.backends.acquire(config, this.mountpoint);
    const previous = this.#backend;
    for (const blob of this.blobs) blob.exchange(next);
    this.#backend = next;
    this.#request = request;
    this.#config = config;
    this.#auth = undefined;
    await this.#pools.backends.release(previous);
    this.#prefetchAgain();
  }

  /** @throws NydusdError UNSUPPORTED when the back end has no credentials */
  setAuth(auth: string): void {
    this.#backend.setAuth(auth);
    this.#auth = auth;
    this.#prefetchAgain();
  }

  /** What could not be had with the old credentials or hosts may be had with the new ones. */
  #prefetchAgain(): void {
    if (this.#prefetchState === "ended early") this.startPrefetch();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#prefetching;
    for (const blob of this.blobs) await blob.release();
    await this.#pools.backends.release(this.#backend);
    await this.source[Symbol.asyncDispose]();
  }
}

/** @throws NydusdError MOUNT_IMAGE */
async function describeImage({ bootstrap }: ImageSource, path: string, config: ConfigV2): Promise<DescribedBlob[]> {
  try {
    if (config.rafs?.validate === true) await verifyInodes(bootstrap);
    return describeBlobs(bootstrap);
  } catch (cause) {
    throw asImageFault(cause, path);
  }
}

/** `2026-03-04 05:06:07.123000000 +00:00:00` */
export function utcNow(): string {
  return `${new Date().toISOString().replace("T", " ").replace("Z", "")}000000 +00:00:00`;
}

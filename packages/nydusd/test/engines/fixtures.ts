import { closeSync, copyFileSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EnsureOptions } from "@nydus-ts/chunk-store";
import { MNT_DETACH, mountInfo, umount2 } from "@nydus-ts/linux";
import { type BlobRecord, openBlobMeta, openBootstrap } from "@nydus-ts/rafs-format";
import { type GoldenCase, readBootstrap } from "@nydus-ts/testkit";
import type { Engine, RafsMount } from "../../src/engines/engine.ts";
import { createFuseEngine, type FuseEngineOptions } from "../../src/engines/fuse/index.ts";
import type { Log } from "../../src/log/log.ts";

/** A log that keeps its lines. */
export class MemoryLog implements Log {
  readonly lines: string[] = [];
  trace(text: string): void {
    this.lines.push(`trace ${text}`);
  }
  debug(text: string): void {
    this.lines.push(`debug ${text}`);
  }
  info(text: string): void {
    this.lines.push(`info ${text}`);
  }
  warn(text: string): void {
    this.lines.push(`warn ${text}`);
  }
  error(text: string): void {
    this.lines.push(`error ${text}`);
  }
  part(): Log {
    return this;
  }
}

/** A folder with a mount point, and an end that leaves no mount behind whatever happened. */
export class Stage {
  readonly directory = mkdtempSync(join(tmpdir(), "fuse-engine-"));
  readonly mountpoint = join(this.directory, "mnt");
  readonly log = new MemoryLog();
  readonly #engines: Engine[] = [];

  constructor() {
    mkdirSync(this.mountpoint);
  }

  engine(options: Partial<FuseEngineOptions> = {}): Engine {
    const engine = createFuseEngine({
      mountpoint: this.mountpoint,
      threads: 2,
      writable: false,
      failoverPolicy: "resend",
      supervised: false,
      workerUrl: new URL("./fuse-worker-entry.ts", import.meta.url),
      log: this.log,
      ...options,
    });
    this.#engines.push(engine);
    return engine;
  }

  isMounted(): boolean {
    return mountInfo().some((entry) => entry.mountpoint === this.mountpoint);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const engine of this.#engines) await engine.stop({ unmount: true }).catch(() => undefined);
    while (this.isMounted()) umount2(this.mountpoint, MNT_DETACH);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

type Blob = RafsMount["blobs"][number];

/** What a test wants to happen when a chunk is asked for that is not ready. */
export type Fetch = (chunks: readonly number[], onVerified: (chunk: number, data: Uint8Array) => void) => Promise<void>;

/** What the engine has asked of the blob. */
interface Told {
  readonly fetched: number[];
  readonly readOnCalls: readonly (readonly [chunk: number, sequentialBytes: number])[];
}

/**
 * A blob whose uncompressed data file is finished; the test decides which chunks count as ready and what fetching the others does.
 * The shape is that of BlobCache as the engine uses it.
 */
export function finishedBlob(options: {
  readonly blob: BlobRecord;
  readonly dataFile: string;
  /** Uncompressed offset and size, a pair for each chunk; undefined for a direct blob. */
  readonly chunks: readonly (readonly [number, number])[] | undefined;
  readonly ready: boolean;
  readonly fetch?: Fetch;
}): Blob & Told {
  const { blob, chunks } = options;
  const chunkCount = chunks?.length ?? blob.chunkCount;
  const ready = new Int32Array(new SharedArrayBuffer(Math.ceil(chunkCount / 32) * 4 + 4));
  const layout = new Uint32Array(new SharedArrayBuffer(chunkCount * 8 + 8));
  chunks?.forEach(([offset, size], index) => {
    layout[2 * index] = offset / 4096;
    layout[2 * index + 1] = size;
  });
  if (options.ready) ready.fill(-1);
  const fetched: number[] = [];
  const readOn: [chunk: number, sequentialBytes: number][] = [];
  const served = {
    blob,
    dataFd: openSync(options.dataFile, "r"),
    chunkCount,
    ready,
    touched: new Int32Array(new SharedArrayBuffer(ready.byteLength)),
    asked: new Int32Array(new SharedArrayBuffer(ready.byteLength)),
    readOn: (chunk: number, sequentialBytes: number) => void readOn.push([chunk, sequentialBytes]),
    readOnCalls: readOn,
    layout,
    direct: chunks === undefined,
    fetched,
    async ensure(wanted: readonly number[], { onVerified = () => undefined }: EnsureOptions): Promise<void> {
      fetched.push(...wanted);
      await options.fetch?.(wanted, onVerified);
      for (const chunk of wanted) Atomics.or(ready, chunk >> 5, 1 << (chunk & 31));
    },
    async [Symbol.asyncDispose](): Promise<void> {
      closeSync(served.dataFd);
    },
  };
  return served as unknown as Blob & Told;
}

/** The blob of a case that keeps the finished cache files of the original (`*-cachefiles`); with `dataFile` over a copy of them, made there. */
export function cachedBlob(
  entry: GoldenCase,
  options: { readonly ready: boolean; readonly fetch?: Fetch; readonly dataFile?: string },
): ReturnType<typeof finishedBlob> {
  const directory = entry.blobDirectory as string;
  const name = readdirSync(directory).find((file) => file.endsWith(".blob.data")) as string;
  const [blob] = openBootstrap(readBootstrap(entry)).blobs;
  if (blob === undefined) throw new TypeError(`${entry.name} has no blob`);
  const meta = readFileSync(join(directory, name.replace(/data$/, "meta")));
  const opened = openBlobMeta(meta.subarray(0, blob.ciUncompressedSize), meta.subarray(meta.length - 4096), blob);
  const chunks = Array.from(
    { length: opened.count },
    (_, index) => [opened.uncompressedOffset(index), opened.uncompressedSize(index)] as const,
  );
  if (options.dataFile !== undefined) copyFileSync(join(directory, name), options.dataFile);
  return finishedBlob({ blob, dataFile: join(directory, name), chunks, ...options });
}

export function mountOf(entry: { readonly bootstrapFile: string | undefined }, blobs: readonly Blob[], mountpoint = "/"): RafsMount {
  if (entry.bootstrapFile === undefined || statSync(entry.bootstrapFile).size === 0) throw new TypeError("no bootstrap file");
  return { mountpoint, bootstrapPath: entry.bootstrapFile, blobs, readDeadlineMs: 5000, xattr: false };
}

import type { BlobCache } from "@nydus-ts/chunk-store";

/** One image as an engine serves it. The daemon opens the blobs and owns them; the engine owns its kernel side only. */
export interface RafsMount {
  /** Path in the virtual tree, absolute, without trailing slash: `/`, `/42`. */
  readonly mountpoint: string;
  /** The bootstrap file; it stays in place while mounted (it is memory-mapped). */
  readonly bootstrapPath: string;
  /** In the order of the bootstrap's device table. */
  readonly blobs: readonly BlobCache[];
  /** Every wait for absent data ends after this many milliseconds with EIO for that reader. */
  readonly readDeadlineMs: number;
  /** Answer xattr calls even if the image lacks the flag HAS_XATTR. */
  readonly xattr: boolean;
  /** Fixed index in the virtual tree (1..255), given when a mount is rebuilt after a take-over so node ids stay valid. */
  readonly vfsIndex?: number;
}

/** Counters of one mounted file system, with the meanings and array lengths of spec/nydusd.md 17.1. */
export interface FsMetrics {
  readonly dataRead: number;
  readonly blockCountRead: readonly number[];
  readonly fopHits: readonly number[];
  readonly fopErrors: readonly number[];
  readonly readCumulativeLatencyUs: number;
  readonly readLatencyDist: readonly number[];
}

/** A request that is being served at this moment. */
export interface InflightRequest {
  readonly inode: number;
  readonly opcode: number;
  readonly unique: number;
  readonly timestampSecs: number;
}

/** What a successor needs besides the descriptor: node ids handed to the kernel must keep their meaning. */
export interface EngineState {
  readonly fuseConnectionId: number;
  /** Negotiated INIT flags; no INIT comes after a take-over. */
  readonly initFlags: string;
  /** Pseudo directories: path to pseudo inode. */
  readonly pseudoInodes: readonly { readonly path: string; readonly ino: number }[];
  readonly mounts: readonly { readonly mountpoint: string; readonly vfsIndex: number }[];
}

/** The kernel side of the daemon: one FUSE connection (or vhost-user device) that carries a tree of images. */
export interface Engine {
  /** Mounts the host mount point and begins to serve. */
  start(): Promise<void>;
  /** Serves on the descriptor of a predecessor instead of mounting (take-over); in-flight requests are re-sent per the fail-over policy. */
  resume(device: number, state: EngineState): Promise<void>;
  /** Resolves when every worker serves the image. Returns the index given to it. @throws NydusdError MOUNT_EXISTS */
  attach(mount: RafsMount): Promise<number>;
  /** Invalidates the kernel's view and forgets the image. @throws NydusdError MOUNT_NOT_FOUND */
  detach(mountpoint: string): Promise<void>;
  metrics(mountpoint: string): FsMetrics | undefined;
  inflight(): readonly InflightRequest[];
  /** The `/dev/fuse` descriptor and state for the supervisor. */
  state(): { readonly device: number; readonly state: EngineState };
  /** Ends the workers. With `unmount` the host mount is removed; without, it stays for a successor. Idempotent, at most 2 s. */
  stop(options: { readonly unmount: boolean }): Promise<void>;
  /** Settles when the session ended without `stop`: the mount was removed from outside, or a worker failed (rejects). */
  readonly ended: Promise<void>;
}

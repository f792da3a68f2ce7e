import type { Socket } from "node:net";
import { type BlobBackend, localfsBackend } from "@nydus-ts/chunk-store";
import { limitReceiveBuffer } from "@nydus-ts/linux";
import type { HostTraffic } from "@nydus-ts/registry-client";
import type { ConfigV2 } from "../config/index.ts";
import { describeError, NydusdError } from "../errors.ts";
import { readDeadlineDefaultMs } from "../limits.ts";
import type { Log } from "../log/log.ts";
import type { ErrorEvents } from "../metrics/events.ts";
import { MeteredBackend } from "../metrics/metered-backend.ts";
import { AlignedBackend } from "./aligned-backend.ts";
import type { Opened } from "./registry.ts";

/** A back end with its counters, shared by all mounts whose configuration is equal. Source: spec/nydusd.md 10.1. */
export interface ImageBackend {
  /** Mountpoint of the first mount that uses it; its name in metrics. */
  readonly name: string;
  readonly backend: MeteredBackend;
  /** What blobs are read through: `backend`, or what aligns its requests. */
  readonly reader: BlobBackend;
  /** Gives a registry other credentials (base64 of user:password), from the next request on; other kinds refuse. */
  setAuth(auth: string): void;
}

interface Entry {
  readonly opening: Promise<ImageBackend>;
  opened?: ImageBackend;
  uses: number;
}

/** Loads what talks to registries, which is most of the program, so that the first mount need not wait for it. */
export async function loadRegistryClient(): Promise<void> {
  await import("./registry.ts");
}

/** The back ends of the daemon: one for each distinct configuration, ended with its last use. */
export class BackendPool {
  readonly #entries = new Map<string, Entry>();
  #traffic: HostTraffic | undefined;
  readonly #log: Log;
  readonly #events: ErrorEvents;

  constructor(log: Log, events: ErrorEvents) {
    this.#log = log;
    this.#events = events;
  }

  /**
   * Opens the back end of a configuration, or shares the one that is there. Nothing is contacted.
   * @throws NydusdError UNSUPPORTED, CONFIG_INVALID
   */
  async acquire(config: ConfigV2, mountpoint: string): Promise<ImageBackend> {
    const key = JSON.stringify(config);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { opening: this.#open(config, mountpoint), uses: 0 };
      this.#entries.set(key, entry);
    }
    entry.uses += 1;
    try {
      entry.opened = await entry.opening;
      return entry.opened;
    } catch (error) {
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
      throw error;
    }
  }

  async release(backend: ImageBackend): Promise<void> {
    for (const [key, entry] of this.#entries) {
      if (entry.opened !== backend) continue;
      entry.uses -= 1;
      if (entry.uses > 0) return;
      this.#entries.delete(key);
      await backend.backend[Symbol.asyncDispose]();
    }
  }

  all(): readonly ImageBackend[] {
    return [...this.#entries.values()].flatMap((entry) => entry.opened ?? []);
  }

  async #open(config: ConfigV2, name: string): Promise<ImageBackend> {
    const { inner, setAuth, hosts } = await this.#openKind(config, (line) => this.#log.warn(`${name}: ${line}`));
    const backend = new MeteredBackend(
      inner,
      (blobId, range, error) => {
        const text = `${name}: blob ${blobId.slice(0, 12)} [${range.offset}..${range.offset + range.length}): ${describeError(error)}`;
        this.#events.push(text);
        // The engine logs the read that failed with this cause, and prefetch says when it rests or ends.
        this.#log.debug(text);
      },
      hosts,
    );
    const alignment = config.backend?.registry?.request_alignment ?? 0;
    return { name, backend, reader: alignment === 0 ? backend : new AlignedBackend(backend, alignment), setAuth };
  }

  /** Not to be able to costs readers time, no more. */
  #limitReceived(socket: Socket, bytes: number): void {
    try {
      limitReceiveBuffer(socket, bytes);
    } catch (error) {
      this.#log.debug(`a connection of prefetch keeps the system's receive buffer: ${describeError(error)}`);
    }
  }

  /** One for all images: readers of one go before prefetch of another. */
  async #sharedTraffic(): Promise<HostTraffic> {
    const { HostTraffic } = await import("./registry.ts");
    this.#traffic ??= new HostTraffic({ limitReceived: (socket, bytes) => this.#limitReceived(socket, bytes) });
    return this.#traffic;
  }

  async #openKind({ backend }: ConfigV2, onWarning: (line: string) => void): Promise<Opened> {
    if (backend?.type === "localfs" && backend.localfs != null) {
      const { blob_file, dir, alt_dirs } = backend.localfs;
      const inner = localfsBackend({
        ...(blob_file === "" ? {} : { blobFile: blob_file }),
        ...(dir === "" ? {} : { dir }),
        altDirs: alt_dirs,
      });
      const setAuth = (): never => {
        throw new NydusdError("UNSUPPORTED", "back end localfs has no credentials; they can be set for registries only");
      };
      return { inner, setAuth };
    }
    if (backend?.type === "registry" && backend.registry != null) {
      const { openRegistry } = await import("./registry.ts");
      return openRegistry(backend.registry, await this.#sharedTraffic(), onWarning);
    }
    if ((backend?.type === "oss" || backend?.type === "s3") && backend[backend.type] != null) {
      const { openObjectStore } = await import("./registry.ts");
      return openObjectStore(backend.type, backend[backend.type]!, await this.#sharedTraffic());
    }
    if (backend?.type === "http-proxy" && backend["http-proxy"] != null) {
      const { openHttpProxy } = await import("./registry.ts");
      return openHttpProxy(backend["http-proxy"], await this.#sharedTraffic());
    }
    const known = "localfs, registry, oss, s3 and http-proxy work";
    throw new NydusdError("UNSUPPORTED", `backend.type ${JSON.stringify(backend?.type)} is not built in this version; ${known}`);
  }
}

/** How long a read waits for absent data: a request and its retries over all hosts. 0 in the configuration means no limit there; here it is the default. */
export function readDeadlineMs(config: ConfigV2): number {
  const { backend } = config;
  const table = backend?.type === "localfs" || backend?.type === "localdisk" ? undefined : backend?.[backend.type];
  if (table == null || table.timeout === 0) return readDeadlineDefaultMs;
  return Math.min(300_000, table.timeout * 1000 * (1 + Math.max(2, table.retry_limit)));
}

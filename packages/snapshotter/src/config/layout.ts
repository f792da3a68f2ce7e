import { join } from "node:path";
import { SnapshotterError } from "../errors.ts";

/**
 * Ids of daemons and keys of instances become folders that are removed with all they hold, and they come from a store that may be
 * damaged: only names that can't lead anywhere else are made into paths.
 *
 * @throws SnapshotterError STORE_BROKEN
 */
function folderName(name: string): string {
  if (/^[0-9A-Za-z][0-9A-Za-z-]{0,63}$/.test(name)) return name;
  throw new SnapshotterError("STORE_BROKEN", `${JSON.stringify(name)} is no id of a daemon or image; nothing is done with it`);
}

/** Where everything lies below `root`. Source: spec/snapshotter.md 5.1. */
export class Layout {
  readonly root: string;
  readonly database: string;
  readonly snapshots: string;
  readonly cache: string;
  readonly config: string;
  readonly socket: string;
  readonly supervisor: string;
  /** The shared daemon's FUSE mount; instance KEY appears at `mnt/KEY`. */
  readonly mnt: string;
  readonly logs: string;

  constructor(options: { root: string; cache?: string | undefined; logs?: string | undefined }) {
    this.root = options.root;
    this.database = join(this.root, "metadata.sqlite");
    this.snapshots = join(this.root, "snapshots");
    this.cache = options.cache ?? join(this.root, "cache");
    this.config = join(this.root, "config");
    this.socket = join(this.root, "socket");
    this.supervisor = join(this.root, "supervisor");
    this.mnt = join(this.root, "mnt");
    this.logs = options.logs ?? join(this.root, "logs");
  }

  snapshot(id: number): string {
    return join(this.snapshots, String(id));
  }

  fs(id: number): string {
    return join(this.snapshot(id), "fs");
  }

  work(id: number): string {
    return join(this.snapshot(id), "work");
  }

  daemonSocketFolder(daemon: string): string {
    return join(this.socket, folderName(daemon));
  }

  daemonLogs(daemon: string): string {
    return join(this.logs, folderName(daemon));
  }

  daemonConfigs(daemon: string): string {
    return join(this.config, folderName(daemon));
  }

  /** Mount point of a dedicated daemon. */
  dedicatedMnt(id: number): string {
    return join(this.snapshot(id), "mnt");
  }

  apiSocket(daemon: string): string {
    return join(this.daemonSocketFolder(daemon), "api.sock");
  }

  supervisorSocket(daemon: string): string {
    return join(this.supervisor, `${folderName(daemon)}.sock`);
  }

  instanceFolder(daemon: string, key: string): string {
    return join(this.daemonConfigs(daemon), folderName(key));
  }

  instanceConfig(daemon: string, key: string): string {
    return join(this.instanceFolder(daemon, key), "config.json");
  }

  /**
   * Whether a daemon that the store names lies where this program puts daemons. Another place is one of another root, or damage:
   * what is there is not ours to unmount or remove.
   */
  owns(daemon: {
    readonly id: string;
    readonly mode: "shared" | "dedicated";
    readonly socket: string;
    readonly mountpoint: string;
  }): boolean {
    try {
      const mounted = daemon.mode === "shared" ? daemon.mountpoint === this.mnt : this.#isDedicatedMnt(daemon.mountpoint);
      return mounted && daemon.socket === this.apiSocket(daemon.id);
    } catch {
      return false;
    }
  }

  #isDedicatedMnt(mountpoint: string): boolean {
    const id = Number(mountpoint.slice(this.snapshots.length + 1).split("/")[0]);
    return Number.isSafeInteger(id) && mountpoint === this.dedicatedMnt(id);
  }
}

import { join } from "node:path";

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

  /** Mount point of a dedicated daemon. */
  dedicatedMnt(id: number): string {
    return join(this.snapshot(id), "mnt");
  }

  apiSocket(daemon: string): string {
    return join(this.socket, daemon, "api.sock");
  }

  supervisorSocket(daemon: string): string {
    return join(this.supervisor, `${daemon}.sock`);
  }

  instanceConfig(daemon: string, key: string): string {
    return join(this.config, daemon, key, "config.json");
  }
}

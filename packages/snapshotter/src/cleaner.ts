import { existsSync, readdirSync, rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { mountInfo, UMOUNT_NOFOLLOW, umount2 } from "@nydus-ts/linux";
import type { Layout } from "./config/layout.ts";
import { detachMounts } from "./daemons/daemon.ts";
import { daemonProcesses, endProcess } from "./daemons/process.ts";
import { messageOf } from "./errors.ts";
import { collectCache } from "./instances/cache.ts";
import type { RafsInstances } from "./instances/rafs-instances.ts";
import { daemonStopDeadlineMs } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Cleaner } from "./snapshotter.ts";
import type { InstanceStore } from "./store/instances.ts";
import type { SnapshotStore } from "./store/snapshots.ts";

export interface GarbageOptions {
  readonly snapshots: SnapshotStore;
  readonly instances: InstanceStore;
  readonly rafs: RafsInstances;
  readonly layout: Layout;
  readonly log: Log;
  readonly countBlobs?: (counts: { deleted: number; failed: number; used: number }) => void;
}

/**
 * Makes directories, mounts, daemons and cache follow the records; the records are the truth. Every step can be repeated, and one that fails is
 * logged and left for the next run. Runs beside the calls: what a call is making has its record first.
 */
export class Garbage implements Cleaner {
  readonly #options: GarbageOptions;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #closed = false;

  constructor(options: GarbageOptions) {
    this.#options = options;
  }

  run(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    if (this.#running === undefined) return this.#start();
    // A run in progress may have passed what the caller wants gone: one more follows, shared by all who wait.
    this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      return this.#start();
    });
    return this.#next;
  }

  kick(): void {
    void this.run();
  }

  /** Waits for the run in progress; later calls do nothing. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#running;
  }

  #start(): Promise<void> {
    const running = this.#collect().finally(() => {
      if (this.#running === running) this.#running = undefined;
    });
    this.#running = running;
    return running;
  }

  async #collect(): Promise<void> {
    await this.#step("unmount images nobody needs", () => this.#removeInstances());
    await this.#step("stop idle daemons", () => this.#options.rafs.removeIdleDaemons());
    await this.#step("remove directories without a snapshot", () => this.#removeDirectories());
    await this.#step("collect the blob cache", async () => this.#collectCache());
  }

  async #step(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.log.error({ error: messageOf(error) }, `clean-up: could not ${what}; it is tried again`);
    }
  }

  async #removeInstances(): Promise<void> {
    const { snapshots, instances, rafs } = this.#options;
    for (const record of instances.instances()) {
      const ids = snapshots.ids();
      if (!ids.has(record.snapshotId)) await this.#step(`unmount image ${record.key}`, () => rafs.removeInstance(record));
    }
  }

  async #removeDirectories(): Promise<void> {
    const { snapshots, instances, layout } = this.#options;
    // Listed before the records are read: a directory made in between has its record by then, and a temporary one is renamed in the same turn.
    const names = readdirSync(layout.snapshots);
    const keep = new Set([...snapshots.ids(), ...instances.instances().map((record) => record.snapshotId)].map(String));
    for (const name of names) {
      if (keep.has(name)) continue;
      await this.#step(`remove ${name}`, async () => {
        const path = join(layout.snapshots, name);
        this.#unmountBelow(path);
        await rm(path, { recursive: true, force: true });
      });
    }
  }

  /** Never descends into a mount: what is mounted there is not ours to delete. */
  #unmountBelow(path: string): void {
    for (const entry of mountInfo().reverse())
      if (entry.mountpoint === path || entry.mountpoint.startsWith(`${path}/`)) umount2(entry.mountpoint, UMOUNT_NOFOLLOW);
  }

  #collectCache(): void {
    const { instances, layout, log, countBlobs } = this.#options;
    const used = new Set(instances.instances().flatMap((record) => record.blobs));
    const { removed, failed } = collectCache(layout.cache, used);
    for (const { path, error } of failed) log.warn({ path, error: messageOf(error) }, "cache file could not be removed");
    if (removed.length > 0) log.info({ files: removed.length }, "cache files of unused blobs removed");
    countBlobs?.({ deleted: removed.length, failed: failed.length, used: used.size });
  }
}

/**
 * Makes the three lists - records, mount table, live daemons - agree after a start; also the repair for everything else. Never needs the network,
 * and nothing broken stops it: broken images are set aside, visible and removable.
 *
 * Source: spec/snapshotter.md 10; users.md rows 1, 7, 9
 */
export async function reconcile(options: GarbageOptions): Promise<void> {
  const { instances, snapshots, layout, rafs, log } = options;
  const daemons = instances.daemons();
  // Daemons of this root that no record knows: a start that was cut off before it could be written down.
  const known = new Set(daemons.map((record) => record.process.pid));
  for (const stray of daemonProcesses(`${layout.socket}/`)) {
    if (known.has(stray.pid)) continue;
    log.warn({ pid: stray.pid }, "nydusd without a record: ended");
    await endProcess(stray, daemonStopDeadlineMs).catch((error) =>
      log.error({ pid: stray.pid, error: messageOf(error) }, "stray nydusd does not end"),
    );
  }
  // FUSE mounts below our root whose daemon no record names.
  const mountpoints = new Set(daemons.map((record) => record.mountpoint));
  for (const entry of mountInfo().reverse()) {
    if (!entry.mountpoint.startsWith(`${layout.root}/`) || !entry.type.startsWith("fuse") || mountpoints.has(entry.mountpoint)) continue;
    log.warn({ mountpoint: entry.mountpoint }, "mount without a daemon: removed");
    try {
      detachMounts(entry.mountpoint);
    } catch (error) {
      log.error({ mountpoint: entry.mountpoint, error: messageOf(error) }, "stray mount cannot be removed");
    }
  }
  // Directories of daemons that are no more.
  const ids = new Set(daemons.map((record) => record.id));
  for (const directory of [layout.socket, layout.config]) {
    for (const name of existsSync(directory) ? readdirSync(directory) : [])
      if (!ids.has(name)) rmSync(join(directory, name), { recursive: true, force: true });
  }
  for (const name of existsSync(layout.supervisor) ? readdirSync(layout.supervisor) : [])
    if (!ids.has(name.replace(/\.sock$/, ""))) rmSync(join(layout.supervisor, name), { force: true });
  for (const record of instances.instances()) {
    if (!snapshots.ids().has(record.snapshotId)) continue;
    if (!existsSync(layout.fs(record.snapshotId)))
      instances.setBroken(record.key, `${layout.fs(record.snapshotId)} is missing; remove the image and pull it again`);
  }
  await rafs.restore();
}

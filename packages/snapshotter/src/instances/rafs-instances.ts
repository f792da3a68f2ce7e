import { randomBytes } from "node:crypto";
import { chmodSync, copyFileSync, lstatSync, mkdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { DaemonInfo } from "@nydus-ts/nydus-api";
import { NydusApiError } from "@nydus-ts/nydus-api";
import type { Layout } from "../config/layout.ts";
import { Daemon, type DaemonMode, type DaemonSettings } from "../daemons/daemon.ts";
import { isAlive } from "../daemons/process.ts";
import { messageOf, SnapshotterError } from "../errors.ts";
import type { Labels } from "../layers/labels.ts";
import { daemonPollMs, daemonStartDeadlineMs, idleDaemonMs, mountAttemptsMax, mountDeadlineMs, restoresInFlightMax } from "../limits.ts";
import type { Log } from "../log.ts";
import type { Instances } from "../snapshotter.ts";
import type { DaemonRecord, InstanceRecord, InstanceStore } from "../store/instances.ts";
import type { Snapshot } from "../store/snapshots.ts";
import { measureUsage, type Usage } from "../store/usage.ts";
import { type BootstrapFile, readBootstrap } from "./bootstrap.ts";
import { blobIdOf, cacheFilesOf } from "./cache.ts";
import type { ConfigSource } from "./config-source.ts";
import { PullProbes } from "./pull-probe.ts";

export interface RafsInstancesOptions {
  readonly store: InstanceStore;
  readonly layout: Layout;
  readonly configs: ConfigSource;
  readonly settings: DaemonSettings;
  readonly mode: DaemonMode | "none";
  readonly log: Log;
  readonly countEvent?: (event: "RUNNING" | "DIED" | "DESTROYED") => void;
}

/**
 * Mounted images and the daemons that serve them. Invariants:
 * - a record is stored before its mount is made, so neither a mount nor a cache file is ever without an owner;
 * - one attempt per image at a time, however many containers ask; readers of a mounted image wait for nothing but its daemon;
 * - how many use an image is never counted: it is wanted for as long as its bootstrap's snapshot exists.
 */
export class RafsInstances implements Instances {
  readonly #options: RafsInstancesOptions;
  readonly #daemons = new Map<string, Daemon>();
  readonly #mounting = new Map<string, Promise<string>>();
  /** Keys that are mounted in their daemon, as far as this process knows. */
  readonly #mounted = new Set<string>();
  /** Keys on their first mount: their own call mounts them, with a look at the network. */
  readonly #firstMounts = new Set<string>();
  /** Daemons being stopped: whoever needs one waits, since a successor would use the same mount point. */
  #stops: Promise<unknown> = Promise.resolve();
  /** Prefetch lists for the next mount of a reference. */
  readonly #prefetch = new Map<string, string[]>();
  readonly #probes: PullProbes;
  #expectedUntilMs = 0;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(options: RafsInstancesOptions) {
    this.#options = options;
    this.#probes = new PullProbes({ cache: options.layout.cache, configs: options.configs, log: options.log });
    // Known from the first call on, so that nobody starts a second daemon beside one that lives.
    for (const record of options.store.daemons()) {
      if (options.layout.owns(record)) this.#daemon(record);
      else this.#forget(record);
    }
  }

  ensure(bootstrap: Snapshot, labels: Labels): Promise<string> {
    const key = String(bootstrap.id);
    const running = this.#mounting.get(key);
    if (running !== undefined) return running;
    const mounting = this.#ensure(key, bootstrap, labels).finally(() => this.#mounting.delete(key));
    this.#mounting.set(key, mounting);
    return mounting;
  }

  expect(): void {
    const { mode, log } = this.#options;
    if (mode !== "shared") return;
    this.#expectedUntilMs = Math.max(this.#expectedUntilMs, performance.now() + idleDaemonMs);
    this.#idleTimer ??= setTimeout(() => {
      this.#idleTimer = undefined;
      this.removeIdleDaemons().catch((error) => log.warn({ error: messageOf(error) }, "an idle daemon could not be stopped"));
    }, idleDaemonMs + 1_000).unref();
    this.#stops
      .then(() => this.#sharedDaemon().ready({ deadlineMs: daemonStartDeadlineMs }))
      .catch((error) => log.warn({ error: messageOf(error) }, "nydusd could not be started ahead of need"));
  }

  /**
   * Starts the shared daemon although no image is there yet, as the original does: the first container need not wait for a program to
   * start. It goes when the last image goes, like any other.
   */
  startAhead(): void {
    const { mode, log } = this.#options;
    if (mode !== "shared") return;
    this.#expectedUntilMs = Number.POSITIVE_INFINITY;
    this.#sharedDaemon()
      .ready({ deadlineMs: daemonStartDeadlineMs })
      .catch((error) =>
        log.warn({ error: messageOf(error) }, "nydusd could not be started ahead of need; it is tried again with the first image"),
      );
  }

  expectNoMore(): void {
    this.#expectedUntilMs = 0;
  }

  probe(labels: Labels): Promise<void> {
    return this.#options.mode === "none" ? Promise.resolve() : this.#probes.look(labels);
  }

  async cacheUsage(layerDigest: string): Promise<Usage> {
    const id = blobIdOf(layerDigest);
    if (id === undefined)
      throw new SnapshotterError(
        "SNAPSHOT_INVALID",
        `label with layer digest ${JSON.stringify(layerDigest)}: expected sha256:<64 hex digits>`,
      );
    let total: Usage = { size: 0, inodes: 0 };
    for (const path of cacheFilesOf(this.#options.layout.cache, id)) {
      const usage = await measureUsage(path);
      total = { size: total.size + usage.size, inodes: total.inodes + usage.inodes };
    }
    return total;
  }

  /** The next mount of exactly this reference fetches these files first. */
  setPrefetch(image: string, files: readonly string[]): void {
    this.#prefetch.set(image, [...files]);
  }

  daemons(): readonly Daemon[] {
    return [...this.#daemons.values()];
  }

  /**
   * After a start: live daemons are adopted, dead ones replaced, their images mounted again. Needs no network; what fails is marked broken and
   * tried again when it is asked for. Resolves when all are settled; calls for an image wait for that image only.
   */
  async restore(): Promise<void> {
    const { store, log } = this.#options;
    const records = store.daemons();
    await Promise.all(
      records.map(async (record) => {
        const daemon = this.#daemon(record);
        try {
          const images = store.instances().some((instance) => instance.daemon === record.id);
          if (images || isAlive(record.process)) await daemon.refresh({ deadlineMs: daemonStartDeadlineMs });
          else await this.#stopDaemon(daemon);
        } catch (error) {
          log.error(
            { daemon: record.id, error: messageOf(error) },
            "daemon could not be restored; it is tried again when an image of it is needed",
          );
          for (const instance of store.instances()) if (instance.daemon === record.id) store.setBroken(instance.key, messageOf(error));
        }
      }),
    );
  }

  /** Unmounts the image of a snapshot that is gone. Idempotent; a dead daemon is no obstacle. */
  async removeInstance(record: InstanceRecord): Promise<void> {
    const { store, layout, log } = this.#options;
    await this.#mounting.get(record.key)?.catch(() => undefined);
    const daemon = this.#daemons.get(record.daemon);
    if (daemon?.running && daemon.place.mode === "shared") await unmountIn(daemon, record.key);
    this.#mounted.delete(record.key);
    this.#expectedUntilMs = 0;
    if (daemon?.place.mode === "dedicated") await this.#stopDaemon(daemon);
    store.removeInstance(record.key);
    rmSync(layout.instanceFolder(record.daemon, record.key), { recursive: true, force: true });
    log.info({ key: record.key, image: record.image, daemon: record.daemon }, "image unmounted");
    if (daemon?.running) void daemon.collect();
  }

  /** Stops daemons that serve no image and are not expected to. */
  async removeIdleDaemons(): Promise<void> {
    const { store, log } = this.#options;
    for (const record of store.daemons()) {
      if (this.#mounting.size > 0 || performance.now() < this.#expectedUntilMs) return;
      if (store.instances().some((instance) => instance.daemon === record.id)) continue;
      await this.#stopDaemon(this.#daemon(record));
      log.info({ daemon: record.id }, "daemon without images stopped");
    }
  }

  /** Lets every daemon that serves an image go on without this program. */
  async release(): Promise<void> {
    clearTimeout(this.#idleTimer);
    this.#expectedUntilMs = 0;
    await this.removeIdleDaemons().catch((error) =>
      this.#options.log.warn({ error: messageOf(error) }, "an idle daemon could not be stopped; the next start removes it"),
    );
    await Promise.all(this.daemons().map((daemon) => daemon.release()));
  }

  /** Unmounts everything and stops all daemons (`cleanup_on_close`). Records stay: images are mounted again after the next start. */
  async stopAll(): Promise<void> {
    clearTimeout(this.#idleTimer);
    for (const daemon of this.daemons()) await daemon.stop();
  }

  async #ensure(key: string, bootstrap: Snapshot, labels: Labels): Promise<string> {
    const { store } = this.#options;
    const record = store.instance(key);
    const daemon = record && this.#daemons.get(record.daemon);
    if (record !== undefined && daemon !== undefined) {
      await daemon.ready({ deadlineMs: daemonStartDeadlineMs });
      if (this.#mounted.has(key)) return record.mountpoint;
    }
    return this.#mount(key, bootstrap, labels);
  }

  async #mount(key: string, bootstrap: Snapshot, labels: Labels): Promise<string> {
    const { store, layout, configs, log, mode } = this.#options;
    if (mode === "none")
      throw new SnapshotterError(
        "SNAPSHOT_UNSUPPORTED",
        `image of snapshot ${bootstrap.key}: daemon_mode is "none", so nothing serves nydus images; set "shared" or "dedicated"`,
      );
    const startedMs = performance.now();
    const file = await readBootstrap(layout.fs(bootstrap.id));
    const { text, image } = await configs.configure({ key, bootstrap, labels });
    await this.#stops;
    const known = store.instance(key);
    const daemon =
      (known && this.#daemons.get(known.daemon)) ?? (mode === "shared" ? this.#sharedDaemon() : this.#dedicatedDaemon(bootstrap.id));
    const record: InstanceRecord = {
      key,
      snapshotId: bootstrap.id,
      image,
      daemon: daemon.place.id,
      mountpoint: join(daemon.place.mountpoint, key),
      blobs: file.blobs,
      broken: undefined,
    };
    store.putInstance(record);
    this.#firstMounts.add(key);
    try {
      writePrivate(layout.instanceConfig(record.daemon, key), text);
      copyMetas(file, layout.cache, log);
      await daemon.ready({ deadlineMs: daemonStartDeadlineMs });
      // A start of the daemon mounts what the store knows, so it may be there already.
      if (!this.#mounted.has(key)) await this.#mountFirst(daemon, record, file);
    } catch (error) {
      await this.#withdraw(daemon, record);
      throw error;
    } finally {
      this.#firstMounts.delete(key);
    }
    this.#expectedUntilMs = 0;
    store.setBroken(key, undefined);
    log.info(
      { key, image, daemon: record.daemon, blobs: file.blobs.length, ms: Math.round(performance.now() - startedMs) },
      "image mounted",
    );
    void daemon.collect();
    return record.mountpoint;
  }

  /** A daemon that dies in the middle of a mount is back soon: the caller need not know. */
  async #mountFirst(daemon: Daemon, record: InstanceRecord, file: BootstrapFile): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#mountIn(daemon, record, file, { probe: !this.#probes.fetchedJustNow(record.image) });
      } catch (error) {
        const cause = error instanceof Error ? error.cause : undefined;
        const died = cause instanceof NydusApiError && cause.code === "API_UNREACHABLE";
        if (!died || attempt === mountAttemptsMax) throw error;
        // Its socket is gone a moment before its process is.
        await pause(daemonPollMs * 2 ** attempt);
        await daemon.ready({ deadlineMs: daemonStartDeadlineMs });
      }
    }
  }

  async #mountIn(daemon: Daemon, record: InstanceRecord, file: BootstrapFile, options: { probe: boolean }): Promise<void> {
    const prefetch = this.#prefetch.get(record.image);
    const request = {
      fs_type: "rafs",
      source: file.path,
      config: readFileSync(this.#options.layout.instanceConfig(record.daemon, record.key), "utf8"),
      probe: options.probe,
      ...(prefetch === undefined ? {} : { prefetch_files: prefetch }),
    };
    try {
      await daemon.client.mount(`/${record.key}`, request, { timeoutMs: mountDeadlineMs });
    } catch (error) {
      throw new SnapshotterError("INSTANCE_MOUNT", `image ${record.image || record.key} cannot be mounted: ${ownWords(error)}`, {
        cause: error,
      });
    }
    this.#prefetch.delete(record.image);
    this.#mounted.add(record.key);
  }

  /** Undoes a mount that failed. */
  async #withdraw(daemon: Daemon, record: InstanceRecord): Promise<void> {
    const { store, layout, log } = this.#options;
    try {
      if (daemon.running) await unmountIn(daemon, record.key);
      store.removeInstance(record.key);
      rmSync(layout.instanceFolder(record.daemon, record.key), { recursive: true, force: true });
      if (daemon.place.mode === "dedicated") await this.#stopDaemon(daemon);
    } catch (error) {
      log.warn({ key: record.key, error: messageOf(error) }, "a failed mount could not be undone; clean-up tries again");
    }
  }

  /** Called by a daemon that runs anew or was adopted: what the store has and the daemon lacks is mounted, what only the daemon has is removed. */
  async #mountAgain(daemon: Daemon, info: DaemonInfo, kept: boolean): Promise<void> {
    const { store, layout, log } = this.#options;
    const present = new Set(Object.keys(info.backend_collection ?? {}).map((path) => path.replace(/^\//, "")));
    const records = store.instances().filter((record) => record.daemon === daemon.place.id);
    for (const record of records) this.#mounted.delete(record.key);
    for (const key of present) if (!records.some((record) => record.key === key)) await unmountIn(daemon, key);
    const pending = records.filter((record) => {
      if (kept && present.has(record.key)) {
        this.#mounted.add(record.key);
        if (record.broken !== undefined) store.setBroken(record.key, undefined);
        return false;
      }
      // The one that is being mounted for the first time is mounted by its own call, with a look at the network.
      return !this.#firstMounts.has(record.key);
    });
    const next = pending.values();
    const worker = async (): Promise<void> => {
      for (const record of next) {
        try {
          const file = await readBootstrap(layout.fs(record.snapshotId));
          await this.#mountIn(daemon, record, file, { probe: false });
          store.setBroken(record.key, undefined);
        } catch (error) {
          store.setBroken(record.key, messageOf(error));
          log.error(
            { key: record.key, image: record.image, error: messageOf(error) },
            "image could not be mounted again; it is set aside until it is asked for or removed",
          );
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(restoresInFlightMax, pending.length) }, worker));
    if (pending.length > 0) log.info({ daemon: daemon.place.id, images: pending.length }, "images mounted again");
  }

  #sharedDaemon(): Daemon {
    const present = this.daemons().find((daemon) => daemon.place.mode === "shared");
    if (present !== undefined) return present;
    const id = newDaemonId();
    return this.#daemon(this.#newRecord({ id, mode: "shared", mountpoint: this.#options.layout.mnt }));
  }

  #dedicatedDaemon(snapshotId: number): Daemon {
    return this.#daemon(
      this.#newRecord({ id: newDaemonId(), mode: "dedicated", mountpoint: this.#options.layout.dedicatedMnt(snapshotId) }),
    );
  }

  #newRecord(place: { id: string; mode: DaemonMode; mountpoint: string }): DaemonRecord {
    const { store, layout } = this.#options;
    const record: DaemonRecord = { ...place, socket: layout.apiSocket(place.id), process: { pid: 0, start: "" } };
    store.putDaemon(record);
    return record;
  }

  /** The record goes, and nothing else: images that it served are mounted anew when they are needed. */
  #forget(record: DaemonRecord): void {
    const { store, layout, log } = this.#options;
    const { id, socket, mountpoint } = record;
    log.error(
      { daemon: id, socket, mountpoint, root: layout.root },
      "a daemon is recorded at a place outside the root: forgotten, and left alone",
    );
    store.removeDaemon(id);
  }

  #daemon(record: DaemonRecord): Daemon {
    const present = this.#daemons.get(record.id);
    if (present !== undefined) return present;
    const { store, layout, settings, log, countEvent } = this.#options;
    const daemon: Daemon = new Daemon(
      {
        id: record.id,
        mode: record.mode,
        mountpoint: record.mountpoint,
        socket: record.socket,
        supervisorSocket: layout.supervisorSocket(record.id),
        logDirectory: layout.daemonLogs(record.id),
      },
      settings,
      {
        started: (process) => store.putDaemon({ ...record, process }),
        mountAgain: (info, kept) => this.#mountAgain(daemon, info, kept),
        count: (event) => countEvent?.(event),
      },
      log,
      record.process.pid === 0 ? undefined : record.process,
    );
    this.#daemons.set(record.id, daemon);
    return daemon;
  }

  #stopDaemon(daemon: Daemon): Promise<void> {
    this.#daemons.delete(daemon.place.id);
    const stopping = this.#stopAndForget(daemon);
    this.#stops = Promise.allSettled([this.#stops, stopping]);
    return stopping;
  }

  async #stopAndForget(daemon: Daemon): Promise<void> {
    const { store, layout } = this.#options;
    await daemon.stop();
    rmSync(layout.daemonConfigs(daemon.place.id), { recursive: true, force: true });
    try {
      rmdirSync(daemon.place.mountpoint);
    } catch {
      // It is gone, or the clean-up of its snapshot removes it.
    }
    store.removeDaemon(daemon.place.id);
  }
}

/** The daemon's own message where it gave one; else what happened to the request. */
function ownWords(error: unknown): string {
  return (error instanceof NydusApiError ? error.daemonMessage : undefined) ?? messageOf(error);
}

async function unmountIn(daemon: Daemon, key: string): Promise<void> {
  try {
    await daemon.client.umount(`/${key}`);
  } catch (error) {
    // Not mounted is what was wanted; a daemon that died in between has no mounts.
    if (!(error instanceof NydusApiError)) throw error;
    const info = await daemon.client.info().catch(() => undefined);
    if (info?.backend_collection?.[`/${key}`] !== undefined) throw error;
  }
}

/** Whole or not at all, readable by root only. */
function writePrivate(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const temporary = `${path}.${randomBytes(4).toString("hex")}`;
  writeFileSync(temporary, text, { mode: 0o600 });
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
}

/** Blob metadata that came with the image spares the daemon a request per blob. Failure only costs that. */
function copyMetas(file: BootstrapFile, cache: string, log: Log): void {
  for (const meta of file.metas) {
    const target = join(cache, basename(meta));
    const temporary = `${target}.${randomBytes(4).toString("hex")}.tmp`;
    try {
      if (lstatSync(target, { throwIfNoEntry: false })?.size === lstatSync(meta).size) continue;
      copyFileSync(meta, temporary);
      chmodSync(temporary, 0o644);
      renameSync(temporary, target);
    } catch (error) {
      rmSync(temporary, { force: true });
      log.warn({ meta, error: messageOf(error) }, "blob metadata could not be copied into the cache; the daemon will fetch it");
    }
  }
}

/** 20 characters, in order of time: the sockets of `ls` sort by age. */
function newDaemonId(): string {
  const time = Math.floor(Date.now() / 1000)
    .toString(32)
    .padStart(7, "0");
  return (
    time +
    BigInt(`0x${randomBytes(9).toString("hex")}`)
      .toString(32)
      .padStart(13, "0")
  ).slice(0, 20);
}

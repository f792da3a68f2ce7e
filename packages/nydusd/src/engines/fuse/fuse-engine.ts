import { closeSync, fstatSync, openSync, writeFileSync } from "node:fs";
import {
  abortConnection,
  type FuseMount,
  mountFuse,
  notifyInvalidEntry,
  notifyInvalidInode,
  notifyResend,
  unmountFuse,
} from "@nydus-ts/fuse";
import { type FileMap, findMount, mapFile, setNonblocking } from "@nydus-ts/linux";
import { superFlags } from "@nydus-ts/rafs-format";
import { describeError, NydusdError } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import type { Engine, EngineState, FsMetrics, InflightRequest, RafsMount } from "../engine.ts";
import { countersBuffer, sumCounters } from "./counters.ts";
import { type OpenedCursor, openCursor } from "./image-cursor.ts";
import type { ImageView, Report } from "./messages.ts";
import { MissServer } from "./misses.ts";
import { VirtualTree } from "./virtual-tree.ts";
import { Workers } from "./workers.ts";

/** What a successor does about requests its predecessor had read and not answered: nothing, or let the kernel deliver them again. */
export type FailoverPolicy = "none" | "flush" | "resend";

export interface FuseEngineOptions {
  /** The host mount point; exists. */
  readonly mountpoint: string;
  readonly threads: number;
  /** Without it the host mount is read-only. The images are read-only in any case. */
  readonly writable: boolean;
  readonly failoverPolicy: FailoverPolicy;
  /** A supervisor keeps the device for a successor. */
  readonly supervised: boolean;
  /** Program of the worker threads; it calls `runFuseWorker(workerData)`. */
  readonly workerUrl: URL;
  readonly log: Log;
  /** Workers on clones of the device instead of one shared; not with a supervisor. Default: shared. */
  readonly device?: "shared" | "cloned";
  /** Gets each request as one line. Costs much: for hunting a fault. */
  readonly trace?: (line: string) => void;
}

interface AttachedImage {
  readonly mount: RafsMount;
  readonly index: number;
  readonly map: FileMap;
  readonly view: ImageView;
  readonly cursor: OpenedCursor;
  readonly counters: SharedArrayBuffer;
}

const indexMax = 255;
const initDeadlineMs = 10_000;

/**
 * The FUSE engine: N worker threads answer what mapped bootstraps and cache files can answer; this thread mounts, attaches and detaches
 * images, and answers reads that must fetch first.
 *
 * Invariants: a bootstrap stays mapped until every worker has confirmed that it forgot the image; an index is given to the next image
 * only after a full round, so a node id the kernel still holds does not come to mean another file.
 */
export class FuseEngine implements Engine {
  readonly ended: Promise<void>;
  readonly #options: FuseEngineOptions;
  readonly #log: Log;
  readonly #tree = new VirtualTree();
  readonly #images = new Map<string, AttachedImage>();
  readonly #indexes = new Set<number>();
  readonly #misses: MissServer;
  readonly #end = Promise.withResolvers<void>();
  readonly #init = Promise.withResolvers<void>();
  #lastIndex = 0;
  #session: FuseMount | undefined;
  #workers: Workers | undefined;
  #initFlags = "";
  #threadsStopped: Promise<void> | undefined;

  constructor(options: FuseEngineOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#misses = new MissServer(options.log);
    this.ended = this.#end.promise;
    this.ended.catch(() => undefined);
    this.#init.promise.catch(() => undefined);
  }

  async start(): Promise<void> {
    const { mountpoint, writable } = this.#options;
    if (this.#session !== undefined) throw new NydusdError("STATE_REFUSED", `${mountpoint}: the engine serves already`);
    try {
      this.#session = mountFuse({ mountpoint, source: "rafs", readOnly: !writable });
    } catch (cause) {
      throw new NydusdError("MOUNTPOINT", `${mountpoint}: FUSE can't be mounted there (${describeError(cause)})`, { cause });
    }
    try {
      await this.#serve(this.#session);
      await this.#initDone();
    } catch (error) {
      await this.stop({ unmount: true });
      throw error;
    }
  }

  async resume(device: number, state: EngineState): Promise<void> {
    if (this.#session !== undefined) throw new NydusdError("STATE_REFUSED", `${this.#options.mountpoint}: the engine serves already`);
    this.#tree.restore(state.pseudoInodes);
    this.#initFlags = state.initFlags;
    this.#init.resolve();
    const entry = findMount(this.#options.mountpoint);
    setNonblocking(device, true);
    this.#session = { device, mountpoint: entry?.mountpoint ?? this.#options.mountpoint, connectionId: state.fuseConnectionId };
    try {
      await this.#serve(this.#session);
    } catch (error) {
      await this.stop({ unmount: false });
      throw error;
    }
    await this.#recoverRequests(this.#session);
  }

  async #recoverRequests({ device, connectionId }: FuseMount): Promise<void> {
    const { failoverPolicy } = this.#options;
    if (failoverPolicy === "none") return;
    try {
      if (failoverPolicy === "resend") await notifyResend(device);
      else writeFileSync(`/sys/fs/fuse/connections/${connectionId}/flush`, "1");
    } catch (error) {
      this.#log.warn(
        `requests of the predecessor can't be recovered by "${failoverPolicy}": ${describeError(error)}; their readers may hang`,
      );
    }
  }

  async #serve({ device }: FuseMount): Promise<void> {
    const { threads, workerUrl, supervised, trace } = this.#options;
    this.#workers = new Workers({
      count: threads,
      workerUrl,
      device,
      clone: this.#options.device === "cloned" && !supervised,
      trace: trace !== undefined,
      onReport: (report) => this.#receive(report),
      onFailure: (error) => this.#end.reject(error),
    });
    const tree = this.#tree.snapshot();
    const orders = [...this.#images.values()].map((image) => this.#workers?.order({ kind: "attach", image: image.view, tree }));
    await Promise.all([this.#workers.up(), ...orders]);
  }

  async #initDone(): Promise<void> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new NydusdError("ENGINE", "the kernel sent no FUSE INIT within 10 s")), initDeadlineMs);
    await Promise.race([this.#init.promise, late.promise]).finally(() => clearTimeout(timer));
  }

  #receive(report: Report): void {
    switch (report.kind) {
      case "miss":
        void this.#misses.serve(report.miss);
        break;
      case "readOn":
        this.#misses.readOn(report.readOn);
        break;
      case "interrupt":
        this.#misses.interrupt(report.uniqueLo, report.uniqueHi);
        break;
      case "init":
        this.#initFlags = `7.${report.minor}:0x${report.flags.toString(16)}`;
        this.#init.resolve();
        break;
      case "fault":
        this.#log.error(`a request failed with EIO: ${report.text}`);
        break;
      case "trace":
        this.#options.trace?.(report.line);
        break;
      case "ended":
        if (report.how === "unmounted") this.#end.resolve();
        break;
      case "ready":
      case "done":
        break;
    }
  }

  async attach(mount: RafsMount): Promise<number> {
    const { mountpoint } = mount;
    if (this.#images.has(mountpoint)) throw new NydusdError("MOUNT_EXISTS", `${mountpoint}: an image is mounted there already`);
    const index = this.#takeIndex(mount);
    const image = this.#open(mount, index);
    this.#images.set(mountpoint, image);
    const changed = this.#tree.place(mountpoint, index);
    this.#misses.attach(index, mount, image.counters, this.#options.threads);
    try {
      await this.#workers?.order({ kind: "attach", image: image.view, tree: this.#tree.snapshot() });
    } catch (error) {
      await this.detach(mountpoint).catch(() => undefined);
      throw error;
    }
    await this.#invalidate(mountpoint, changed, undefined);
    return index;
  }

  async detach(mountpoint: string): Promise<void> {
    const image = this.#images.get(mountpoint);
    if (image === undefined) throw new NydusdError("MOUNT_NOT_FOUND", `${mountpoint}: no image is mounted there`);
    const parent = this.#tree.find(mountpoint)?.parent ?? 0;
    this.#images.delete(mountpoint);
    this.#tree.clear(mountpoint);
    this.#misses.detach(image.index);
    await this.#workers?.order({ kind: "detach", index: image.index, tree: this.#tree.snapshot() });
    await this.#invalidate(mountpoint, parent === 0 ? [] : [parent], image);
    image.map.unmap();
    this.#indexes.delete(image.index);
  }

  #takeIndex(mount: RafsMount): number {
    const wanted = mount.vfsIndex;
    if (wanted !== undefined) {
      if (this.#indexes.has(wanted))
        throw new NydusdError("MOUNT_EXISTS", `${mount.mountpoint}: index ${wanted} is taken by another image`);
      this.#indexes.add(wanted);
      this.#lastIndex = Math.max(this.#lastIndex, wanted);
      return wanted;
    }
    for (let step = 1; step <= indexMax; step++) {
      const index = ((this.#lastIndex + step - 1) % indexMax) + 1;
      if (this.#indexes.has(index)) continue;
      this.#indexes.add(index);
      this.#lastIndex = index;
      return index;
    }
    throw new NydusdError(
      "MOUNT_LIMIT",
      `${mount.mountpoint}: ${indexMax} images are mounted, more have no place in one FUSE mount; start another daemon`,
    );
  }

  #open(mount: RafsMount, index: number): AttachedImage {
    let map: FileMap | undefined;
    try {
      map = mapBootstrap(mount.bootstrapPath);
      const cursor = openCursor(map.bytes);
      if (cursor.blobs.length !== mount.blobs.length) {
        throw new NydusdError("MOUNT_IMAGE", `${mount.bootstrapPath}: ${cursor.blobs.length} blobs, ${mount.blobs.length} were opened`);
      }
      const counters = countersBuffer(this.#options.threads + 1);
      const { flags } = cursor.superblock;
      const view: ImageView = {
        index,
        address: map.address,
        length: map.length,
        blobs: mount.blobs.map(({ dataFd, ready, touched, asked, layout, direct, chunkCount }) => ({
          dataFd,
          ready,
          touched,
          asked,
          layout,
          direct,
          chunkCount,
        })),
        counters,
        xattr: mount.xattr || (flags & superFlags.hasXattr) !== 0n,
        owner: (flags & superFlags.explicitUidGid) === 0n ? { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 } : undefined,
      };
      return { mount, index, map, view, cursor, counters };
    } catch (cause) {
      map?.unmap();
      this.#indexes.delete(index);
      if (cause instanceof NydusdError) throw cause;
      throw new NydusdError(
        "MOUNT_IMAGE",
        `${mount.mountpoint}: the bootstrap ${mount.bootstrapPath} can't be served (${describeError(cause)})`,
        {
          cause,
        },
      );
    }
  }

  /** Drops what the kernel remembers of changed pseudo directories and of the names at a mount point. Failures only cost freshness. */
  async #invalidate(mountpoint: string, directories: readonly number[], gone: AttachedImage | undefined): Promise<void> {
    const device = this.#session?.device;
    if (device === undefined || this.#threadsStopped !== undefined) return;
    const steps: Promise<void>[] = [];
    const node = this.#tree.find(mountpoint);
    if (node === undefined || node.ino === 1) {
      const names =
        gone === undefined
          ? this.#tree
              .snapshot()
              .filter(({ parent }) => parent === 1)
              .map(({ name }) => Buffer.from(name))
          : rootNames(gone);
      for (const name of names) steps.push(notifyInvalidEntry(device, 1n, name));
      steps.push(notifyInvalidInode(device, 1n));
    } else steps.push(notifyInvalidEntry(device, BigInt(node.parent), Buffer.from(node.name)));
    for (const ino of directories) steps.push(notifyInvalidInode(device, BigInt(ino)));
    for (const result of await Promise.allSettled(steps)) {
      if (result.status === "rejected")
        this.#log.debug(`${mountpoint}: the kernel's memory can't be cleared: ${describeError(result.reason)}`);
    }
  }

  metrics(mountpoint: string): FsMetrics | undefined {
    const image = this.#images.get(mountpoint);
    return image === undefined ? undefined : sumCounters(image.counters);
  }

  inflight(): readonly InflightRequest[] {
    const current = this.#workers?.table.current() ?? [];
    const inHand = current.map(({ node, opcode, unique, sinceSeconds }) => ({ inode: node, opcode, unique, timestampSecs: sinceSeconds }));
    return [...inHand, ...this.#misses.inflight()];
  }

  state(): { readonly device: number; readonly state: EngineState } {
    if (this.#session === undefined || this.#initFlags === "") {
      throw new NydusdError("NOT_READY", "the kernel has not finished FUSE INIT; try again");
    }
    return {
      device: this.#session.device,
      state: {
        fuseConnectionId: this.#session.connectionId,
        initFlags: this.#initFlags,
        pseudoInodes: this.#tree.inodes(),
        mounts: [...this.#images.values()].map(({ mount, index }) => ({ mountpoint: mount.mountpoint, vfsIndex: index })),
      },
    };
  }

  async stop(options: { readonly unmount: boolean }): Promise<void> {
    const session = this.#session;
    if (options.unmount && session !== undefined) {
      try {
        unmountFuse(session.mountpoint, session.connectionId);
      } catch (error) {
        this.#log.warn(`${session.mountpoint}: can't be unmounted: ${describeError(error)}`);
      }
      // Open files would keep the session, and their readers waiting for us.
      abortConnection(session.connectionId);
    }
    this.#threadsStopped ??= this.#stopThreads();
    await this.#threadsStopped;
  }

  async #stopThreads(): Promise<void> {
    this.#misses.close();
    const clean = (await this.#workers?.stop()) ?? true;
    this.#workers = undefined;
    // A worker that hangs on a dead disk still uses the maps and descriptors.
    if (clean) {
      for (const image of this.#images.values()) image.map.unmap();
      if (this.#session !== undefined) closeSync(this.#session.device);
    } else this.#log.error("a FUSE worker did not end in time; it is left to the end of the process");
    this.#images.clear();
    this.#end.resolve();
  }
}

function mapBootstrap(path: string): FileMap {
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    if (size === 0) throw new NydusdError("MOUNT_IMAGE", `${path}: the file is empty, no bootstrap`);
    return mapFile(fd, size);
  } finally {
    closeSync(fd);
  }
}

/** Names in the root of an image, as far as it can be read. */
function rootNames({ cursor }: AttachedImage): Buffer[] {
  const names: Buffer[] = [];
  try {
    cursor.load(cursor.rootNid);
    for (let block = 0; block < cursor.blockCount; block++) {
      cursor.openBlock(block);
      for (let index = 0; index < cursor.entryCount; index++) {
        cursor.entry(index);
        names.push(Buffer.from(cursor.entryBytes.subarray(cursor.entryNameStart, cursor.entryNameEnd)));
      }
    }
  } catch {
    // A damaged root directory has no more names than these.
  }
  return names.filter((name) => ![".", ".."].includes(name.toString()));
}

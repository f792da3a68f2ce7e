import { closeSync } from "node:fs";
import { posix } from "node:path";
import type {
  BackendMetricsAnswer,
  BlobcacheMetricsAnswer,
  DaemonInfo,
  FsMetricsAnswer,
  MountRequest,
  RuntimeConfig,
} from "@nydus-ts/nydus-api";
import { exportConfig, parseConfig } from "./config/index.ts";
import type { Engine, InflightRequest } from "./engines/engine.ts";
import { NydusdError } from "./errors.ts";
import { BackendPool } from "./images/backends.ts";
import { CachePool } from "./images/caches.ts";
import { Image } from "./images/image.ts";
import { superblockSummary } from "./images/summary.ts";
import { type LogLevel, logLevels, type RootLog } from "./log/log.ts";
import { blobcacheAnswer } from "./metrics/blobcache.ts";
import { ErrorEvents } from "./metrics/events.ts";
import { fsMetricsAnswer } from "./metrics/fs.ts";
import { prometheusText } from "./metrics/prometheus.ts";
import { StateMachine } from "./state-machine.ts";
import { decodeState, encodeState, type SavedState } from "./takeover/state.ts";
import { fetchFromSupervisor, saveToSupervisor } from "./takeover/supervisor.ts";
import { version } from "./version.ts";

export interface DaemonOptions {
  /** The kernel side; undefined in singleton mode. */
  readonly engine: Engine | undefined;
  readonly log: RootLog;
  readonly id: string | undefined;
  readonly supervisor: string | undefined;
  /** Ends the process with its exit code; called once. */
  readonly onFinish: () => void;
}

/** What a predecessor left, between `takeover` and `start`. */
interface Inheritance {
  readonly device: number;
  readonly saved: SavedState;
}

/**
 * Many images, one kernel mount. Holds the mounts, the pools they share, and the state machine; the engine serves the kernel.
 *
 * Invariants: a mountpoint is in `#images` exactly while the engine (or the take-over to come) serves it; changes of one mountpoint
 * happen one after the other, changes of different ones in parallel.
 */
export class Daemon {
  readonly events = new ErrorEvents();
  readonly #options: DaemonOptions;
  readonly #machine = new StateMachine();
  readonly #images = new Map<string, Image>();
  readonly #locks = new Map<string, Promise<void>>();
  readonly #backends: BackendPool;
  readonly #caches: CachePool;
  readonly #runtime = new Map<string, RuntimeConfig>();
  #inheritance: Inheritance | undefined;
  #ending: Promise<void> | undefined;
  #finished = false;
  /** Supervisor and daemon have had the device at the same time. */
  #shared = false;

  constructor(options: DaemonOptions) {
    this.#options = options;
    this.#backends = new BackendPool(options.log.part("backend"), this.events);
    this.#caches = new CachePool(options.log.part("cache"));
  }

  /** Starts to serve the host mount point: INIT → RUNNING. Images mounted before are there from the first request on. */
  async serve(): Promise<void> {
    await this.#machine.handle("mount", () => undefined);
    await this.#machine.handle("start", async () => this.#options.engine?.start());
  }

  info(): DaemonInfo {
    const { id, supervisor, engine } = this.#options;
    const mounts = [...this.#images.values()].map((image) => [
      image.mountpoint,
      {
        backend_type: "Rafs",
        mountpoint: image.mountpoint,
        mounted_time: image.mountedTime,
        config: exportConfig(image.config),
      },
    ]);
    return {
      version: { ...version },
      id: id ?? null,
      supervisor: supervisor ?? null,
      state: this.#machine.reported,
      backend_collection: engine === undefined ? null : Object.fromEntries(mounts),
    };
  }

  setLogLevel(level: string): void {
    const name = level.toLowerCase();
    const known = ["off", ...logLevels];
    if (!known.includes(name)) {
      throw new NydusdError("CONFIG_INVALID", `log_level: expected ${known.join(", ")}; found ${JSON.stringify(level.slice(0, 40))}`);
    }
    this.#options.log.setLevel(name as LogLevel | "off");
  }

  /** READY → RUNNING, after a take-over. */
  start(): Promise<void> {
    return this.#machine.handle("start", async () => {
      const inheritance = this.#inheritance;
      if (inheritance === undefined) return this.#options.engine?.start();
      await this.#options.engine?.resume(inheritance.device, inheritance.saved.engine);
      this.#inheritance = undefined;
      this.#options.log.info(`serving again: ${this.#images.size} images taken over`);
      // What the predecessor brought is in the cache; the rest of what it began is still wanted.
      for (const image of this.#images.values()) image.startPrefetch();
    });
  }

  /**
   * Mounts an image; when it resolves every worker serves it. With `request.probe` its data were reached once before.
   * @throws NydusdError UNSUPPORTED, MOUNT_EXISTS, CONFIG_INVALID, MOUNT_SOURCE, MOUNT_IMAGE, MOUNT_BACKEND
   */
  async mount(path: string, request: MountRequest): Promise<void> {
    const mountpoint = virtualPath(path);
    const engine = this.#engineFor(request.fs_type ?? "");
    checkPrefetchFiles(request.prefetch_files ?? []);
    await this.#exclusive(mountpoint, async () => {
      if (this.#images.has(mountpoint))
        throw new NydusdError("MOUNT_EXISTS", `${mountpoint}: an image is mounted there already; umount it first`);
      const image = await this.#open(mountpoint, request);
      try {
        if (request.probe === true) await image.probe();
        image.vfsIndex = await engine.attach(image.rafsMount());
      } catch (error) {
        await image[Symbol.asyncDispose]();
        throw error;
      }
      this.#images.set(mountpoint, image);
      this.#options.log.info(`${mountpoint}: mounted ${request.source}`);
      image.startPrefetch();
    });
  }

  /** @throws NydusdError MOUNT_NOT_FOUND, CONFIG_INVALID, UNSUPPORTED (another bootstrap) */
  async remount(path: string, request: MountRequest): Promise<void> {
    const mountpoint = virtualPath(path);
    this.#engineFor(request.fs_type ?? "");
    await this.#exclusive(mountpoint, async () => {
      const image = this.#image(mountpoint);
      if (request.source !== image.request.source) {
        const hint = "umount and mount to change the image";
        throw new NydusdError("UNSUPPORTED", `${mountpoint}: remount can't replace ${image.request.source} by ${request.source}; ${hint}`);
      }
      await image.reconfigure(request, this.#parse(mountpoint, request.config));
      this.#options.log.info(`${mountpoint}: uses a new configuration`);
    });
  }

  /** @throws NydusdError MOUNT_NOT_FOUND */
  async umount(path: string): Promise<void> {
    const mountpoint = virtualPath(path);
    const engine = this.#engineFor("rafs");
    await this.#exclusive(mountpoint, async () => {
      const image = this.#image(mountpoint);
      await engine.detach(mountpoint);
      this.#images.delete(mountpoint);
      this.#runtime.delete(mountpoint);
      await image[Symbol.asyncDispose]();
      this.#options.log.info(`${mountpoint}: unmounted`);
    });
  }

  imageInfo(path: string): Record<string, unknown> {
    const image = this.#image(virtualPath(path));
    return superblockSummary(image.source, image.config);
  }

  fsMetrics(id: string | undefined): FsMetricsAnswer {
    const { engine } = this.#options;
    if (engine === undefined) throw notFound("metrics", id, []);
    const image = pick("file system metrics", id, this.#images);
    const metrics = engine.metrics(image.mountpoint);
    if (metrics === undefined) throw notFound("file system metrics", id, [...this.#images.keys()]);
    return fsMetricsAnswer(image.mountpoint, metrics);
  }

  /** Per-file counters are not kept in this version: what the original answers when they are disabled. */
  filesMetrics(id: string | undefined, list: boolean): unknown {
    pick("file system metrics", id, this.#images);
    return list ? [] : {};
  }

  backendMetrics(id: string | undefined): BackendMetricsAnswer {
    // The second mount of an equal configuration finds the shared object under its own mountpoint too.
    const all = new Map(this.#backends.all().map((backend) => [backend.name, backend]));
    const image = id === undefined ? undefined : this.#images.get(virtualPath(id));
    return (image?.backend ?? pick("back end metrics", id, all)).backend.answer();
  }

  blobcacheMetrics(id: string | undefined): BlobcacheMetricsAnswer {
    const groups = new Map<string, Image[]>();
    for (const image of this.#images.values()) {
      const key = image.backend.name;
      groups.set(key, [...(groups.get(key) ?? []), image]);
    }
    const byConfig = [...groups.values()].find(([first]) => id !== undefined && first?.config.id === id);
    const byMount = id === undefined ? undefined : [...groups.values()].find((images) => images.some((image) => image.mountpoint === id));
    return blobcacheAnswer(byConfig ?? byMount ?? pick("blob cache metrics", id, groups));
  }

  inflight(): readonly InflightRequest[] {
    if (this.#options.engine === undefined) throw new NydusdError("UNSUPPORTED", "this mode serves no FUSE requests");
    return this.#options.engine.inflight();
  }

  runtimeConfig(id: string | undefined): Record<string, string> {
    const shown: Record<string, string> = {};
    for (const [name, config] of this.#runtime) {
      if (id !== undefined && name !== id) continue;
      // The original shows secrets here in clear; only that they are set is shown.
      for (const [key, value] of Object.entries(config))
        shown[id === undefined ? `${name}:${key}` : key] = key === "registry_auth" ? "***" : String(value);
    }
    return shown;
  }

  /** @throws NydusdError CONFIG_INVALID, UNSUPPORTED */
  setRuntimeConfig(id: string, config: RuntimeConfig): void {
    const { registry_auth } = config;
    if (registry_auth !== undefined) {
      if (!Buffer.from(registry_auth, "base64").includes(":")) {
        throw new NydusdError("CONFIG_INVALID", "registry_auth: expected base64 of user:password");
      }
      // It may come before its mount and is then applied there.
      this.#images.get(virtualPath(id === "" ? "/" : id))?.setAuth(registry_auth);
    }
    this.#runtime.set(id === "" ? "" : virtualPath(id), { ...this.#runtime.get(id), ...config });
  }

  prometheus(): Promise<string> {
    return prometheusText({ engine: this.#options.engine, images: [...this.#images.values()], backends: this.#backends.all() });
  }

  /** Sends state and device to the supervisor. @throws NydusdError SUPERVISOR, NOT_READY, UNSUPPORTED */
  async sendFd(): Promise<void> {
    const { engine, supervisor } = this.#options;
    if (engine === undefined) throw new NydusdError("UNSUPPORTED", "this mode has no FUSE device to send");
    if (supervisor === undefined) {
      throw new NydusdError("SUPERVISOR", "the daemon has no supervisor; start it with --id and --supervisor");
    }
    const { device, state } = engine.state();
    const mounts = [...this.#images.values()].map((image) => ({
      mountpoint: image.mountpoint,
      vfsIndex: image.vfsIndex,
      source: image.request.source,
      config: image.request.config,
      mountedTime: image.mountedTime,
      ...(image.request.prefetch_files == null ? {} : { prefetchFiles: image.request.prefetch_files }),
      ...(image.auth === undefined ? {} : { registryAuth: image.auth }),
    }));
    await saveToSupervisor(supervisor, encodeState({ mounts, engine: state }), device);
    this.#shared = true;
  }

  /** INIT → READY: fetches what the predecessor left and opens its images; `start` then serves them. */
  takeover(): Promise<void> {
    const { engine, supervisor } = this.#options;
    return this.#machine.handle("takeover", async () => {
      if (engine === undefined) throw new NydusdError("UNSUPPORTED", "this mode has nothing to take over");
      if (supervisor === undefined) {
        throw new NydusdError("SUPERVISOR", "the daemon has no supervisor; start it with --id, --supervisor and --upgrade");
      }
      const { state, device } = await fetchFromSupervisor(supervisor);
      try {
        const saved = decodeState(state);
        for (const mount of saved.mounts) await this.#restore(engine, mount);
        this.#inheritance = { device, saved };
        this.#shared = true;
      } catch (error) {
        closeSync(device);
        await this.#closeImages();
        throw error;
      }
    });
  }

  /** Whether it serves, and a supervisor was given the device: it may hold it still. */
  get mayBeFollowed(): boolean {
    return this.#shared && this.#machine.reported === "RUNNING";
  }

  /** Whether `exit` or `stop` was called: then the end of the session is no surprise. */
  get ending(): boolean {
    return this.#ending !== undefined;
  }

  /** Stops serving and leaves the kernel mount for a successor. Whichever of `exit` and `stop` comes first counts. */
  exit(): Promise<void> {
    this.#ending ??= this.#end(false);
    return this.#ending;
  }

  /** Stops serving and removes the kernel mount. */
  stop(): Promise<void> {
    this.#ending ??= this.#end(true);
    return this.#ending;
  }

  async #end(unmount: boolean): Promise<void> {
    this.#caches.hurry();
    const { reported } = this.#machine;
    if (reported === "RUNNING") await this.#machine.handle("stop", () => this.#stopEngine(unmount));
    await this.#machine.handle(unmount || reported === "INIT" ? "stop" : "exit", () => this.#stopEngine(unmount));
    await this.#closeImages();
  }

  /** Lets the process end. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#options.onFinish();
  }

  async #stopEngine(unmount: boolean): Promise<void> {
    // A successor that has not begun to serve must not unmount what its predecessor left.
    const serving = this.#machine.reported === "RUNNING" || (this.#machine.reported === "READY" && this.#inheritance === undefined);
    if (serving) await this.#options.engine?.stop({ unmount });
    if (this.#inheritance !== undefined) closeSync(this.#inheritance.device);
    this.#inheritance = undefined;
  }

  async #closeImages(): Promise<void> {
    const images = [...this.#images.values()];
    this.#images.clear();
    await Promise.allSettled(images.map((image) => image[Symbol.asyncDispose]()));
  }

  async #restore(engine: Engine, mount: SavedState["mounts"][number]): Promise<void> {
    const request: MountRequest = {
      source: mount.source,
      fs_type: "rafs",
      config: mount.config,
      ...(mount.prefetchFiles === undefined ? {} : { prefetch_files: mount.prefetchFiles }),
    };
    const image = await this.#open(mount.mountpoint, request, mount.mountedTime);
    this.#images.set(mount.mountpoint, image);
    if (mount.registryAuth !== undefined) image.setAuth(mount.registryAuth);
    image.vfsIndex = await engine.attach(image.rafsMount(mount.vfsIndex));
  }

  async #open(mountpoint: string, request: MountRequest, mountedTime?: string): Promise<Image> {
    const config = this.#parse(mountpoint, request.config);
    const image = await Image.open(
      mountpoint,
      request,
      config,
      { backends: this.#backends, caches: this.#caches },
      this.#options.log.part("image"),
      mountedTime,
    );
    const auth = this.#runtime.get(mountpoint)?.registry_auth;
    if (auth !== undefined && config.backend?.registry != null) image.setAuth(auth);
    return image;
  }

  #parse(mountpoint: string, text: string): ReturnType<typeof parseConfig>["config"] {
    const { config, warnings } = parseConfig(text, `configuration of ${mountpoint}`);
    for (const warning of warnings) this.#options.log.warn(warning);
    for (const table of ["backend", "cache", "rafs"] as const) {
      if (config[table] == null)
        throw new NydusdError("CONFIG_INVALID", `configuration of ${mountpoint}: ${table}: is missing, a mount needs it`);
    }
    if (config.overlay != null)
      throw new NydusdError("UNSUPPORTED", `${mountpoint}: overlay (writable images) is not built in this version`);
    return config;
  }

  #engineFor(fsType: string): Engine {
    const { engine } = this.#options;
    if (engine === undefined) throw new NydusdError("UNSUPPORTED", "this mode mounts no images; start `nydusd fuse --mountpoint DIR`");
    if (fsType === "rafs") return engine;
    if (/^passthrough(_?fs)?$/.test(fsType)) throw new NydusdError("UNSUPPORTED", "passthrough mounts are not built in this version");
    throw new NydusdError("REQUEST_INVALID", `fs_type: expected "rafs", found ${JSON.stringify(fsType.slice(0, 40))}`);
  }

  #image(mountpoint: string): Image {
    const image = this.#images.get(mountpoint);
    if (image !== undefined) return image;
    const others = [...this.#images.keys()].slice(0, 20).join(", ") || "nothing";
    throw new NydusdError("MOUNT_NOT_FOUND", `${mountpoint}: no image is mounted there; mounted: ${others}`);
  }

  async #exclusive(mountpoint: string, run: () => Promise<void>): Promise<void> {
    const previous = this.#locks.get(mountpoint) ?? Promise.resolve();
    const result = previous.then(run);
    const settled = result.catch(() => undefined);
    this.#locks.set(mountpoint, settled);
    await result.finally(() => {
      if (this.#locks.get(mountpoint) === settled) this.#locks.delete(mountpoint);
    });
  }
}

/** A path of the virtual tree: absolute, without `.`, `..`, double and trailing slashes. @throws NydusdError REQUEST_INVALID */
export function virtualPath(path: string): string {
  if (!path.startsWith("/") || path.includes("\0")) {
    throw new NydusdError("REQUEST_INVALID", `mountpoint: expected an absolute path, found ${JSON.stringify(path.slice(0, 200))}`);
  }
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith("/") ? normal.slice(0, -1) : normal;
}

function checkPrefetchFiles(files: readonly string[]): void {
  const relative = files.find((file) => !file.startsWith("/"));
  if (relative !== undefined) {
    throw new NydusdError("CONFIG_INVALID", `prefetch_files: expected absolute paths, found ${JSON.stringify(relative.slice(0, 200))}`);
  }
}

/** Selection by id: without one there must be exactly one object. Source: spec/nydusd.md 4.3. */
function pick<T>(what: string, id: string | undefined, objects: ReadonlyMap<string, T>): T {
  if (id !== undefined) {
    const found = objects.get(id);
    if (found !== undefined) return found;
  } else if (objects.size === 1) return objects.values().next().value as T;
  throw notFound(what, id, [...objects.keys()]);
}

function notFound(what: string, id: string | undefined, ids: readonly string[]): NydusdError {
  const there = ids.length === 0 ? "there are none" : `there are: ${ids.slice(0, 50).join(", ")}`;
  return new NydusdError("METRICS_NOT_FOUND", `${what}: ${id === undefined ? "an id is needed" : `none of id ${id}`}; ${there}`);
}

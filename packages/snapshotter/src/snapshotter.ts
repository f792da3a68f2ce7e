import type { Layout } from "./config/layout.ts";
import type { FoundLayer } from "./containerd/image-lookup.ts";
import { messageOf, SnapshotterError } from "./errors.ts";
import { type IdMap, idMapOf } from "./layers/id-map.ts";
import { containerdKey, INHERITED, LABELS, type Labels } from "./layers/labels.ts";
import { layerKindOf, reasonOf } from "./layers/layer.ts";
import { planServe, type ServePlan } from "./layers/plan.ts";
import type { Log } from "./log.ts";
import { type Mount, mountList } from "./mounts/mount-list.ts";
import { makeSnapshotDirectory } from "./store/directories.ts";
import type { Snapshot, SnapshotStore } from "./store/snapshots.ts";
import { measureUsage, type Usage } from "./store/usage.ts";

/** Who mounts RAFS images. The snapshotter only asks; it never knows a daemon. */
export interface Instances {
  /**
   * The directory where the image of this bootstrap snapshot appears, mounted if it is not yet. Callers of one image share one mount.
   * @param labels  of the container or layer that asks: credentials may be among them
   * @throws SnapshotterError INSTANCE_MOUNT (with the daemon's own words), BOOTSTRAP_*, IMAGE_UNKNOWN, DAEMON_*
   */
  ensure(bootstrap: Snapshot, labels: Labels): Promise<string>;
  /** A nydus image is being pulled: a daemon will be needed soon. */
  expect(): void;
  /** A layer of a nydus image was removed: what was expected may not come. */
  expectNoMore(): void;
  /**
   * Whether the data of a blob layer can be had from where the daemon will ask, by the layer's labels; nothing is known without an image reference
   * among them. Callers for one blob share one look. @throws SnapshotterError IMAGE_DATA (with host and cause), IMAGE_UNKNOWN
   */
  probe(labels: Labels): Promise<void>;
  /** Bytes and inodes of a blob's files in the cache. */
  cacheUsage(layerDigest: string): Promise<Usage>;
}

/** Removes what no snapshot needs any more. */
export interface Cleaner {
  /** Runs now; a call during a run waits for the next one. */
  run(): Promise<void>;
  /** Runs soon, without anybody waiting. */
  kick(): void;
}

export interface SnapshotterOptions {
  readonly store: SnapshotStore;
  readonly layout: Layout;
  readonly instances: Instances;
  readonly cleaner: Cleaner;
  /** Asks containerd which layer of a nydus image is about to be unpacked into a snapshot with this key. */
  readonly findLayer: (key: string) => Promise<FoundLayer | undefined>;
  readonly log: Log;
  /** Remove waits until the directory is gone. */
  readonly syncRemove: boolean;
  /** Every writable mount is volatile, not only those whose label asks for it. */
  readonly volatile: boolean;
}

/** A layer that needs no download was committed under its target name; containerd expects this as "already exists". */
export class LayerIsThere extends Error {
  override readonly name = "LayerIsThere";
}

/**
 * containerd's snapshot calls. State lives in the store; a call only waits for the instance of its own image.
 * Source: spec/snapshotter.md 8, spec/containerd.md 1-5.
 */
export class Snapshotter {
  readonly #options: SnapshotterOptions;
  /** Usage of committed snapshots being measured, by id. */
  readonly #measuring = new Map<number, Promise<Usage>>();

  constructor(options: SnapshotterOptions) {
    this.#options = options;
  }

  /** @throws LayerIsThere for a nydus data blob of an image; SnapshotterError */
  async prepare(request: { key: string; parent: string; labels: Labels }): Promise<Mount[]> {
    const { store, log } = this.#options;
    const target = request.labels[LABELS.target];
    if (target === undefined) return this.#create({ ...request, labels: await this.#labelsOf(request), kind: "active" });
    const kind = layerKindOf(request.labels);
    log.info({ key: request.key, layer: request.labels[LABELS.layerDigest], kind, reason: reasonOf(kind, request.labels) }, "layer");
    if (kind !== "ordinary") this.#options.instances.expect();
    if (kind === "nydus-bootstrap") await this.#expectData(request.parent);
    if (kind !== "nydus-blob") return this.#create({ ...request, kind: "active" });
    // The lowest one, before anything of the image is there: then the pull fails and leaves nothing, not a container an hour later.
    if (request.parent === "") await this.#options.instances.probe(request.labels);
    if (store.findTarget(target, request.parent) === undefined) this.#commitWithoutData(target, request);
    throw new LayerIsThere(`target snapshot ${JSON.stringify(target)}`);
  }

  /** A read-only snapshot; the mounts equal those that `mounts` answers. */
  view(request: { key: string; parent: string; labels: Labels }): Promise<Mount[]> {
    return this.#create({ ...request, kind: "view" });
  }

  /** @throws SnapshotterError SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE (committed) and what mounting an instance throws */
  async mounts(key: string): Promise<Mount[]> {
    const snapshot = this.#options.store.get(key);
    if (snapshot.kind === "committed")
      throw new SnapshotterError("SNAPSHOT_STATE", `snapshot ${key} is committed: it has no mounts; prepare or view one on top of it`);
    return this.#mountsOf(snapshot);
  }

  /** Quick: usage is measured afterwards, in the background. */
  commit(request: { key: string; name: string; labels: Labels; parent: string }): void {
    const { store, log } = this.#options;
    // A bootstrap that was looked up has its kind in its record only: the client gives no labels here either.
    const lazy = layerKindOf(request.labels) !== "ordinary" || (store.find(request.key)?.layer ?? "ordinary") !== "ordinary";
    const labels = withMode(request.name, request.labels, lazy ? "lazy" : "overlay");
    const committed = store.commit({ ...request, labels });
    log.debug({ key: request.key, name: request.name, id: committed.id }, "committed");
    this.#measure(committed).catch((error) =>
      log.warn({ id: committed.id, error: messageOf(error) }, "usage could not be measured; it is tried again when asked for"),
    );
  }

  /** Quick: only the record goes; directory, mount and cache are the cleaner's. @throws SnapshotterError SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE */
  async remove(key: string): Promise<void> {
    const { store, log, cleaner, syncRemove } = this.#options;
    const removed = store.remove(key);
    log.debug({ key, id: removed.id }, "removed");
    if (removed.layer !== "ordinary") this.#options.instances.expectNoMore();
    if (syncRemove) await cleaner.run();
    else cleaner.kick();
  }

  stat(key: string): Snapshot {
    return this.#options.store.get(key);
  }

  list(): Snapshot[] {
    return this.#options.store.all();
  }

  /**
   * Changes labels; nothing else can be changed.
   *
   * @param paths  "labels" or "labels.KEY" (KEY is opaque, dots and slashes belong to it); empty replaces all labels
   * @throws SnapshotterError SNAPSHOT_INVALID (another path), SNAPSHOT_NOT_FOUND
   */
  update(request: { key: string; labels: Labels; paths: readonly string[] }): Snapshot {
    const prefix = "labels.";
    const wrong = request.paths.find((path) => path !== "labels" && !(path.startsWith(prefix) && path.length > prefix.length));
    if (wrong !== undefined)
      throw new SnapshotterError(
        "SNAPSHOT_INVALID",
        `update of ${request.key}: field ${JSON.stringify(wrong)} cannot be changed, only labels can`,
      );
    return this.#options.store.updateLabels(request.key, (old) => {
      const mode: Labels = old[LABELS.mode] === undefined ? {} : { [LABELS.mode]: old[LABELS.mode] };
      if (request.paths.length === 0 || request.paths.includes("labels")) return { ...mode, ...request.labels };
      const changed: Record<string, string> = { ...old };
      for (const path of request.paths) {
        const name = path.slice(prefix.length);
        const value = request.labels[name];
        if (value === undefined) delete changed[name];
        else changed[name] = value;
      }
      return changed;
    });
  }

  /** Bytes and inodes. A nydus data blob counts the files of its cache. */
  async usage(key: string): Promise<Usage> {
    const { store, layout, instances } = this.#options;
    const snapshot = store.get(key);
    if (snapshot.kind === "view") return { size: 0, inodes: 0 };
    if (snapshot.kind === "active") return measureUsage(layout.fs(snapshot.id));
    const own = snapshot.usage ?? (await this.#measure(snapshot));
    const digest = snapshot.labels[LABELS.layerDigest];
    if (snapshot.layer !== "nydus-blob" || digest === undefined) return own;
    const cached = await instances.cacheUsage(digest);
    return { size: own.size + cached.size, inodes: own.inodes + cached.inodes };
  }

  cleanup(): Promise<void> {
    return this.#options.cleaner.run();
  }

  /**
   * The labels of a Prepare without a target. A client that unpacks layer by layer gives none: those that containerd's other clients inherit from
   * the layer's annotations are looked up. @throws SnapshotterError SNAPSHOT_UNSUPPORTED: such a client cannot skip a data layer
   */
  async #labelsOf(request: { key: string; labels: Labels }): Promise<Labels> {
    const layer = await this.#options.findLayer(request.key);
    if (layer === undefined) return request.labels;
    const inherited = Object.fromEntries(Object.entries(layer.annotations).filter(([name]) => name.startsWith(INHERITED)));
    if (layerKindOf(inherited) === "nydus-blob") throw blobUnsupported(layer);
    return { ...inherited, [LABELS.imageRef]: layer.image, [LABELS.layerDigest]: layer.digest, ...request.labels };
  }

  /** The data of the image's lowest blob can be had; asked when that layer was there before this pull, else known already. @throws SnapshotterError IMAGE_DATA. Source: users.md row 61 */
  async #expectData(parentKey: string): Promise<void> {
    const { store, instances } = this.#options;
    const parent = parentKey === "" ? undefined : store.find(parentKey);
    const lowest = parent && store.chain(parent.id).findLast(({ layer }) => layer === "nydus-blob");
    if (lowest !== undefined) await instances.probe(lowest.labels);
  }

  /** One step, so no active record of a skipped layer is ever left behind. */
  #commitWithoutData(target: string, request: { parent: string; labels: Labels }): void {
    const { store, layout } = this.#options;
    const parent = store.find(request.parent);
    // containerd looks for label and parent, not for the name; the plain chain id is only taken when the same layer was pulled on another parent.
    const key = store.find(target) === undefined ? target : `${target}@${parent?.id ?? 0}`;
    store.createCommitted({ key, parent: request.parent, labels: { ...request.labels, [LABELS.mode]: "lazy" } }, (id, parentId) =>
      makeSnapshotDirectory(layout, { id, parentId, work: false, idMap: undefined }),
    );
  }

  async #create(request: { kind: "active" | "view"; key: string; parent: string; labels: Labels }): Promise<Mount[]> {
    const { store, layout, log } = this.#options;
    const idMap = idMapOf(request.labels);
    const isBootstrap = layerKindOf(request.labels) === "nydus-bootstrap";
    // Decided before anything is made: a chain that cannot be served leaves no record.
    const parent = request.parent === "" ? undefined : store.find(request.parent);
    const plan: ServePlan = isBootstrap || parent === undefined ? { mode: "overlay", lowers: [] } : planServe(store.chain(parent.id));
    if (plan.mode === "lazy" && idMap !== undefined) throw idMapUnsupported(request.key);
    const labels = withMode(request.key, request.labels, isBootstrap ? "lazy" : plan.mode);
    const snapshot = store.create({ ...request, labels }, (id, parentId) =>
      makeSnapshotDirectory(layout, { id, parentId, work: request.kind === "active", idMap }),
    );
    try {
      const mounts = await this.#mountsOf(snapshot, { plan, idMap });
      if (plan.mode === "lazy") log.info({ key: request.key, id: snapshot.id, image: plan.bootstrap.id }, "served lazily");
      return mounts;
    } catch (error) {
      // containerd does not know a snapshot whose creation failed: undo it, so the same key can be tried again.
      this.#undo(snapshot, request.key);
      throw error;
    }
  }

  #undo(snapshot: Snapshot, key: string): void {
    const { store, log, cleaner } = this.#options;
    try {
      if (store.find(key)?.id === snapshot.id) store.remove(key);
      cleaner.kick();
    } catch (error) {
      log.warn(
        { key, error: messageOf(error) },
        "a snapshot whose creation failed could not be removed; containerd's garbage collection will",
      );
    }
  }

  /** The one place where mounts are made, for Prepare, View and Mounts alike. */
  async #mountsOf(snapshot: Snapshot, known?: { plan: ServePlan; idMap: IdMap | undefined }): Promise<Mount[]> {
    const { store, layout, instances, volatile } = this.#options;
    const plan =
      known?.plan ?? (snapshot.layer === "nydus-bootstrap" ? { mode: "overlay", lowers: [] } : planServe(store.ancestors(snapshot)));
    const idMap = known === undefined ? idMapOf(snapshot.labels) : known.idMap;
    const fs = layout.fs(snapshot.id);
    const own = {
      kind: snapshot.kind === "view" ? ("view" as const) : ("active" as const),
      fs,
      work: layout.work(snapshot.id),
      volatile: volatile || LABELS.volatile in snapshot.labels,
      idMap,
    };
    if (plan.mode === "overlay") return mountList({ ...own, lowers: plan.lowers.map((lower) => layout.fs(lower.id)) });
    const image = await instances.ensure(plan.bootstrap, snapshot.labels);
    const lowers = [...plan.above.map((lower) => layout.fs(lower.id)), image];
    // A view of one directory would be a bind mount; the empty directory below keeps it an overlay like every other use of the image.
    return mountList({ ...own, lowers: own.kind === "view" ? [...lowers, fs] : lowers });
  }

  /** One measurement per snapshot, however many ask. */
  #measure(snapshot: Snapshot): Promise<Usage> {
    const running = this.#measuring.get(snapshot.id);
    if (running !== undefined) return running;
    const { store, layout } = this.#options;
    const measuring = measureUsage(layout.fs(snapshot.id))
      .then((usage) => {
        store.setUsage(snapshot.id, usage);
        return usage;
      })
      .finally(() => this.#measuring.delete(snapshot.id));
    this.#measuring.set(snapshot.id, measuring);
    return measuring;
  }
}

/** Says on the snapshot how it is served. Only on containerd's own keys: other clients get back exactly the labels they gave. */
function withMode(key: string, labels: Labels, mode: ServePlan["mode"]): Labels {
  return containerdKey(key) === undefined ? labels : { ...labels, [LABELS.mode]: mode };
}

const blobUnsupported = (layer: FoundLayer) =>
  new SnapshotterError(
    "SNAPSHOT_UNSUPPORTED",
    `layer ${layer.digest} of ${layer.image} is data of a nydus image: it is no tar, and this client unpacks every layer itself (as "ctr images pull" of containerd 1.6 and "Image.Unpack" do); pull with crictl, nerdctl or a client that unpacks while it pulls, then run it with any client in the same namespace`,
  );

const idMapUnsupported = (key: string) =>
  new SnapshotterError(
    "SNAPSHOT_UNSUPPORTED",
    `snapshot ${key}: user namespace mapping of a lazily loaded image is not supported by this version; run the container without a user namespace, or use the overlayfs snapshotter`,
  );

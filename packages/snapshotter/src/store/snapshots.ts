import type { DatabaseSync, StatementSync } from "node:sqlite";
import { nowUs } from "../clock.ts";
import { SnapshotterError } from "../errors.ts";
import { LABELS, type Labels } from "../layers/labels.ts";
import { type LayerKind, layerKindOf } from "../layers/layer.ts";
import { chainLengthMax } from "../limits.ts";
import { transaction } from "./database.ts";

export type SnapshotKind = "view" | "active" | "committed";

export interface Snapshot {
  readonly id: number;
  readonly key: string;
  /** Key of the parent, "" without one. */
  readonly parent: string;
  readonly parentId: number | undefined;
  readonly kind: SnapshotKind;
  readonly labels: Labels;
  /** Decided once, when the record is made or committed. */
  readonly layer: LayerKind;
  readonly createdUs: number;
  readonly updatedUs: number;
  /** Bytes on disk and inodes, measured after Commit; undefined until then. */
  readonly usage: { readonly size: number; readonly inodes: number } | undefined;
}

interface Row {
  id: number;
  key: string;
  parent: number | null;
  parent_key: string | null;
  kind: number;
  labels: string;
  layer: LayerKind;
  created_us: number;
  updated_us: number;
  size: number | null;
  inodes: number | null;
}

const KINDS = { view: 1, active: 2, committed: 3 } as const satisfies Record<SnapshotKind, number>;
const KIND_NAMES: readonly (SnapshotKind | undefined)[] = [undefined, "view", "active", "committed"];
const SELECT = "SELECT s.*, p.key AS parent_key FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

/**
 * The snapshots' metadata with containerd's rules. Source: spec/snapshotter.md 5.2, 8.
 * Every method is one transaction and durable when it returns; `prepareDirectory` runs inside it, so a record and its directory appear together.
 */
export class SnapshotStore {
  readonly #db: DatabaseSync;
  readonly #byKey: StatementSync;
  readonly #byId: StatementSync;

  constructor(db: DatabaseSync) {
    this.#db = db;
    this.#byKey = db.prepare(`${SELECT} WHERE s.key = ?`);
    this.#byId = db.prepare(`${SELECT} WHERE s.id = ?`);
  }

  /** @throws SnapshotterError SNAPSHOT_NOT_FOUND */
  get(key: string): Snapshot {
    const found = this.find(key);
    if (found === undefined) throw notFound(key);
    return found;
  }

  find(key: string): Snapshot | undefined {
    const row = this.#byKey.get(key) as Row | undefined;
    return row && snapshotOf(row);
  }

  byId(id: number): Snapshot | undefined {
    const row = this.#byId.get(id) as Row | undefined;
    return row && snapshotOf(row);
  }

  /** All snapshots in order of id: a consistent picture, taken at once. */
  all(): Snapshot[] {
    return (this.#db.prepare(`${SELECT} ORDER BY s.id`).all() as unknown as Row[]).map(snapshotOf);
  }

  /** Ancestors of a snapshot, the direct parent first. */
  ancestors(snapshot: Snapshot): Snapshot[] {
    return snapshot.parentId === undefined ? [] : this.chain(snapshot.parentId);
  }

  /** The snapshot with this id and its ancestors, itself first. */
  chain(id: number): Snapshot[] {
    const chain: Snapshot[] = [];
    for (let next: number | undefined = id; next !== undefined; ) {
      const snapshot = this.byId(next);
      if (snapshot === undefined) throw new SnapshotterError("STORE_BROKEN", `snapshot ${next} is missing below ${chain[0]?.key ?? id}`);
      chain.push(snapshot);
      if (chain.length > chainLengthMax)
        throw new SnapshotterError("SNAPSHOT_INVALID", `snapshot ${chain[0].key} has more than ${chainLengthMax} ancestors`);
      next = snapshot.parentId;
    }
    return chain;
  }

  /**
   * A new active or view snapshot.
   *
   * @param prepareDirectory  makes the directory of the id; runs before the commit, its error undoes the record
   * @throws SnapshotterError SNAPSHOT_NOT_FOUND (parent), SNAPSHOT_INVALID (parent not committed, empty key), SNAPSHOT_EXISTS
   */
  create(
    request: { kind: "active" | "view"; key: string; parent: string; labels: Labels },
    prepareDirectory: (id: number, parentId: number | undefined) => void,
  ): Snapshot {
    return this.#insert(request, prepareDirectory);
  }

  /** A committed snapshot made in one step, for a layer whose data is fetched lazily. Same errors as `create`. */
  createCommitted(
    request: { key: string; parent: string; labels: Labels },
    prepareDirectory: (id: number, parentId: number | undefined) => void,
  ): Snapshot {
    return this.#insert({ ...request, kind: "committed" }, prepareDirectory);
  }

  /** The committed layer that answers for `target` on this parent, if there is one. */
  findTarget(target: string, parent: string): Snapshot | undefined {
    const rows = this.#db.prepare(`${SELECT} WHERE s.target = ? AND s.kind = 3 ORDER BY s.id`).all(target) as unknown as Row[];
    return rows.map(snapshotOf).find((snapshot) => snapshot.parent === parent);
  }

  /**
   * Turns the active snapshot `key` into the committed `name`: same id, labels replaced, both times set anew, the key vanishes.
   *
   * @param parent  "" to keep; on a snapshot without a parent it becomes the parent (rebase); another than the present one is refused
   * @throws SnapshotterError SNAPSHOT_EXISTS (name), SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE (not active), SNAPSHOT_INVALID (parent)
   */
  commit(request: { key: string; name: string; labels: Labels; parent: string }): Snapshot {
    if (request.name === "") throw new SnapshotterError("SNAPSHOT_INVALID", `commit of ${request.key}: the new name is empty`);
    return transaction(this.#db, () => {
      if (this.find(request.name) !== undefined) throw exists(request.name);
      const active = this.get(request.key);
      if (active.kind !== "active")
        throw new SnapshotterError("SNAPSHOT_STATE", `snapshot ${request.key} is ${active.kind}; only an active one can be committed`);
      let parentId = active.parentId ?? null;
      if (request.parent !== "" && request.parent !== active.parent) {
        if (active.parentId !== undefined)
          throw new SnapshotterError(
            "SNAPSHOT_INVALID",
            `snapshot ${request.key} has parent ${active.parent}; it cannot become ${request.parent}`,
          );
        parentId = this.#committedParent(request.parent);
      }
      const us = nowUs();
      const labels = cleanLabels(request.labels);
      const decided = layerKindOf(request.labels);
      const layer = decided === "ordinary" ? active.layer : decided;
      this.#db
        .prepare(
          "UPDATE snapshots SET key=?, parent=?, kind=3, labels=?, target=?, layer=?, created_us=?, updated_us=?, size=NULL, inodes=NULL WHERE id=?",
        )
        .run(request.name, parentId, JSON.stringify(labels), labels[LABELS.target] ?? null, layer, us, us, active.id);
      return this.get(request.name);
    });
  }

  /** Usage of a committed snapshot, measured after the commit so that Commit itself is quick. Unknown ids are ignored. */
  setUsage(id: number, usage: { size: number; inodes: number }): void {
    this.#db.prepare("UPDATE snapshots SET size=?, inodes=? WHERE id=?").run(usage.size, usage.inodes, id);
  }

  /** @throws SnapshotterError SNAPSHOT_NOT_FOUND, SNAPSHOT_STATE (it has children) */
  remove(key: string): Snapshot {
    return transaction(this.#db, () => {
      const snapshot = this.get(key);
      const child = this.#db.prepare("SELECT key FROM snapshots WHERE parent=? LIMIT 1").get(snapshot.id) as { key: string } | undefined;
      if (child !== undefined)
        throw new SnapshotterError("SNAPSHOT_STATE", `snapshot ${key} has children, ${child.key} is one; remove them first`);
      this.#db.prepare("DELETE FROM snapshots WHERE id=?").run(snapshot.id);
      return snapshot;
    });
  }

  /** Replaces the labels by `change(old)`. @throws SnapshotterError SNAPSHOT_NOT_FOUND */
  updateLabels(key: string, change: (labels: Labels) => Labels): Snapshot {
    return transaction(this.#db, () => {
      const snapshot = this.get(key);
      const labels = cleanLabels(change(snapshot.labels));
      const target = snapshot.kind === "committed" ? (labels[LABELS.target] ?? null) : null;
      this.#db
        .prepare("UPDATE snapshots SET labels=?, target=?, updated_us=? WHERE id=?")
        .run(JSON.stringify(labels), target, nowUs(), snapshot.id);
      return this.get(key);
    });
  }

  ids(): Set<number> {
    return new Set((this.#db.prepare("SELECT id FROM snapshots").all() as { id: number }[]).map((row) => row.id));
  }

  #insert(
    request: { kind: SnapshotKind; key: string; parent: string; labels: Labels },
    prepareDirectory: (id: number, parentId: number | undefined) => void,
  ): Snapshot {
    if (request.key === "") throw new SnapshotterError("SNAPSHOT_INVALID", "the snapshot key is empty");
    return transaction(this.#db, () => {
      const parentId = request.parent === "" ? null : this.#committedParent(request.parent);
      if (this.find(request.key) !== undefined) throw exists(request.key);
      const us = nowUs();
      const labels = cleanLabels(request.labels);
      const target = request.kind === "committed" ? (labels[LABELS.target] ?? null) : null;
      const { lastInsertRowid } = this.#db
        .prepare("INSERT INTO snapshots (key, parent, kind, labels, target, layer, created_us, updated_us) VALUES (?,?,?,?,?,?,?,?)")
        .run(request.key, parentId, KINDS[request.kind], JSON.stringify(labels), target, layerKindOf(request.labels), us, us);
      prepareDirectory(Number(lastInsertRowid), parentId ?? undefined);
      return this.get(request.key);
    });
  }

  #committedParent(key: string): number {
    const parent = this.find(key);
    if (parent === undefined)
      throw new SnapshotterError(
        "SNAPSHOT_NOT_FOUND",
        `missing parent ${JSON.stringify(key)}: containerd knows a snapshot this store does not; pull the image again`,
      );
    if (parent.kind !== "committed")
      throw new SnapshotterError("SNAPSHOT_INVALID", `parent ${JSON.stringify(key)} is ${parent.kind}, not committed`);
    return parent.id;
  }
}

function snapshotOf(row: Row): Snapshot {
  const kind = KIND_NAMES[row.kind];
  if (kind === undefined) throw new SnapshotterError("STORE_BROKEN", `snapshot ${row.id} has kind ${row.kind}`);
  return {
    id: row.id,
    key: row.key,
    parent: row.parent_key ?? "",
    parentId: row.parent ?? undefined,
    kind,
    labels: JSON.parse(row.labels) as Labels,
    layer: row.layer,
    createdUs: row.created_us,
    updatedUs: row.updated_us,
    usage: row.size === null || row.inodes === null ? undefined : { size: row.size, inodes: row.inodes },
  };
}

/** A label with an empty value is no label, as in containerd's own store. */
function cleanLabels(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== ""));
}

const notFound = (key: string) => new SnapshotterError("SNAPSHOT_NOT_FOUND", `snapshot ${JSON.stringify(key)} does not exist`);
const exists = (key: string) => new SnapshotterError("SNAPSHOT_EXISTS", `snapshot ${JSON.stringify(key)}: already exists`);

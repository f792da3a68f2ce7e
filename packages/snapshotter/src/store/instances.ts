import type { DatabaseSync } from "node:sqlite";
import type { DaemonMode } from "../daemons/daemon.ts";
import type { ProcessId } from "../daemons/process.ts";
import { transaction } from "./database.ts";

export interface DaemonRecord {
  readonly id: string;
  readonly mode: DaemonMode;
  /** The process that was started last for it; `pid` 0 when none was. */
  readonly process: ProcessId;
  readonly socket: string;
  readonly mountpoint: string;
}

export interface InstanceRecord {
  /** The snapshot id of its bootstrap, as text; also its name in the daemon's tree. */
  readonly key: string;
  readonly snapshotId: number;
  /** Reference of the image it was mounted for, "" when the back end needs none. */
  readonly image: string;
  readonly daemon: string;
  /** Where the image appears on the host. */
  readonly mountpoint: string;
  /** Ids of the blobs whose cache files it needs. */
  readonly blobs: readonly string[];
  /** Why it could not be mounted again; undefined while it is well. */
  readonly broken: string | undefined;
}

interface DaemonRow {
  id: string;
  mode: string;
  pid: number;
  pid_start: string;
  socket: string;
  mountpoint: string;
}

interface InstanceRow {
  key: string;
  snapshot: number;
  image: string;
  daemon: string;
  mountpoint: string;
  blobs: string;
  broken: string | null;
}

/** Daemons and instances: what has to be found again after a restart. Durable when a method returns. Source: spec/snapshotter.md 5.3 */
export class InstanceStore {
  readonly #db: DatabaseSync;

  constructor(db: DatabaseSync) {
    this.#db = db;
  }

  daemons(): DaemonRecord[] {
    return (this.#db.prepare("SELECT * FROM daemons ORDER BY id").all() as unknown as DaemonRow[]).map((row) => ({
      id: row.id,
      mode: row.mode === "dedicated" ? "dedicated" : "shared",
      process: { pid: row.pid, start: row.pid_start },
      socket: row.socket,
      mountpoint: row.mountpoint,
    }));
  }

  putDaemon(record: DaemonRecord): void {
    this.#db
      .prepare(
        "INSERT INTO daemons (id, mode, pid, pid_start, socket, mountpoint) VALUES (?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET pid=excluded.pid, pid_start=excluded.pid_start",
      )
      .run(record.id, record.mode, record.process.pid, record.process.start, record.socket, record.mountpoint);
  }

  /** Its instances go with it. */
  removeDaemon(id: string): void {
    transaction(this.#db, () => {
      this.#db.prepare("DELETE FROM instances WHERE daemon=?").run(id);
      this.#db.prepare("DELETE FROM daemons WHERE id=?").run(id);
    });
  }

  /** In the order they were first mounted. */
  instances(): InstanceRecord[] {
    return (this.#db.prepare("SELECT * FROM instances ORDER BY seq").all() as unknown as InstanceRow[]).map(instanceOf);
  }

  instance(key: string): InstanceRecord | undefined {
    const row = this.#db.prepare("SELECT * FROM instances WHERE key=?").get(key) as InstanceRow | undefined;
    return row && instanceOf(row);
  }

  putInstance(record: InstanceRecord): void {
    this.#db
      .prepare(
        `INSERT INTO instances (key, snapshot, image, daemon, mountpoint, blobs, broken) VALUES (?,?,?,?,?,?,?)
         ON CONFLICT(key) DO UPDATE SET image=excluded.image, daemon=excluded.daemon, mountpoint=excluded.mountpoint, blobs=excluded.blobs, broken=excluded.broken`,
      )
      .run(
        record.key,
        record.snapshotId,
        record.image,
        record.daemon,
        record.mountpoint,
        JSON.stringify(record.blobs),
        record.broken ?? null,
      );
  }

  setBroken(key: string, reason: string | undefined): void {
    this.#db.prepare("UPDATE instances SET broken=? WHERE key=?").run(reason ?? null, key);
  }

  removeInstance(key: string): void {
    this.#db.prepare("DELETE FROM instances WHERE key=?").run(key);
  }
}

function instanceOf(row: InstanceRow): InstanceRecord {
  return {
    key: row.key,
    snapshotId: row.snapshot,
    image: row.image,
    daemon: row.daemon,
    mountpoint: row.mountpoint,
    blobs: JSON.parse(row.blobs) as string[],
    broken: row.broken ?? undefined,
  };
}

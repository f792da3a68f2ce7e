import { DatabaseSync } from "node:sqlite";
import { messageOf, SnapshotterError } from "../errors.ts";

// Invariants: a row of `snapshots` exists only with its directory (made before the commit); ids are never reused (AUTOINCREMENT);
// `parent` names a committed snapshot. What containerd relies on is on disk when the call returns (WAL, synchronous=FULL).
const SCHEMA = `
CREATE TABLE IF NOT EXISTS snapshots (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  parent INTEGER REFERENCES snapshots(id),
  kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),
  labels TEXT NOT NULL,
  target TEXT,
  layer TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  updated_us INTEGER NOT NULL,
  size INTEGER,
  inodes INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS snapshots_parent ON snapshots(parent);
CREATE INDEX IF NOT EXISTS snapshots_target ON snapshots(target) WHERE target IS NOT NULL;
CREATE TABLE IF NOT EXISTS daemons (
  id TEXT PRIMARY KEY,
  mode TEXT NOT NULL,
  pid INTEGER NOT NULL,
  pid_start TEXT NOT NULL,
  socket TEXT NOT NULL,
  mountpoint TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS instances (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  snapshot INTEGER NOT NULL,
  image TEXT NOT NULL,
  daemon TEXT NOT NULL REFERENCES daemons(id),
  mountpoint TEXT NOT NULL,
  blobs TEXT NOT NULL,
  broken TEXT
) STRICT;
`;
const SCHEMA_VERSION = 1;

/** Opens (or makes) `metadata.sqlite`. @throws SnapshotterError STORE_BROKEN: not a database, made by a newer version, disk full */
export function openDatabase(path: string): DatabaseSync {
  let db: DatabaseSync | undefined;
  try {
    db = new DatabaseSync(path, { timeout: 4_000 });
    db.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;");
    const version = Number((db.prepare("PRAGMA user_version").get() as { user_version: number }).user_version);
    if (version > SCHEMA_VERSION) throw new Error(`made by a newer version (schema ${version}, this program knows ${SCHEMA_VERSION})`);
    transaction(db, () => db?.exec(`${SCHEMA} PRAGMA user_version=${SCHEMA_VERSION};`));
    return db;
  } catch (error) {
    db?.close();
    throw new SnapshotterError("STORE_BROKEN", `${path}: cannot open the metadata store: ${messageOf(error)}`, { cause: error });
  }
}

/** Runs `work` in one exclusive transaction; what it throws rolls back. The whole program shares one connection and one thread. */
export function transaction<T>(db: DatabaseSync, work: () => T): T {
  db.exec("BEGIN IMMEDIATE");
  try {
    const result = work();
    db.exec("COMMIT");
    return result;
  } catch (error) {
    if (db.isTransaction) db.exec("ROLLBACK");
    throw error;
  }
}

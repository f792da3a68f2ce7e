// A process that works on a store and kills itself with SIGKILL at the given step. Arguments: root, step.
import { renameSync } from "node:fs";
import { Layout } from "../../src/config/layout.ts";
import { openDatabase } from "../../src/store/database.ts";
import { makeSnapshotDirectory } from "../../src/store/directories.ts";
import { InstanceStore } from "../../src/store/instances.ts";
import { SnapshotStore } from "../../src/store/snapshots.ts";

const [root, killAt] = process.argv.slice(2);
const layout = new Layout({ root });
let step = 0;
const point = (): void => {
  if (++step === Number(killAt)) process.kill(process.pid, "SIGKILL");
};
const db = openDatabase(layout.database);
const store = new SnapshotStore(db);
const instances = new InstanceStore(db);
const make = (id: number, parentId: number | undefined): void => {
  point();
  makeSnapshotDirectory(layout, { id, parentId, work: true, idMap: undefined });
  point();
};
const labels = { "containerd.io/snapshot.ref": "sha256:t", "containerd.io/snapshot/nydus-blob": "true" };

point();
store.create({ kind: "active", key: "a", parent: "", labels: {} }, make);
point();
store.commit({ key: "a", name: "A", labels: {}, parent: "" });
point();
store.createCommitted({ key: "sha256:t", parent: "A", labels }, make);
point();
store.create({ kind: "active", key: "c", parent: "sha256:t", labels: {} }, make);
point();
instances.putDaemon({
  id: "d",
  mode: "shared",
  process: { pid: 0, start: "" },
  socket: `${layout.socket}/d/api.sock`,
  mountpoint: `${root}/mnt/d`,
});
point();
instances.putInstance({ key: "2", snapshotId: 2, image: "i", daemon: "d", mountpoint: `${layout.mnt}/2`, blobs: [], broken: undefined });
point();
store.remove("c");
point();
// As clean-up does: what goes is renamed by nobody; the directory is removed after the record.
renameSync(layout.snapshot(3), `${layout.snapshots}/new-half-removed`);
point();
process.stdout.write(`steps ${step}\n`);

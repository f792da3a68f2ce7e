import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Layout } from "../src/config/layout.ts";
import { openDatabase } from "../src/store/database.ts";
import { InstanceStore } from "../src/store/instances.ts";
import { startStack } from "./support/stack.ts";
import { makeDirectories, temporaryRoot } from "./support/world.ts";

/** Paths that a damaged or moved store could name. `outside` is a folder that is nobody's to remove. */
const poisons: Record<string, (layout: Layout, outside: string) => { id: string; socket: string; mountpoint: string }> = {
  "a socket elsewhere": (layout, outside) => ({ id: "d", socket: join(outside, "api.sock"), mountpoint: layout.mnt }),
  "a socket elsewhere, in a folder of the daemon's name": (layout, outside) => ({
    id: "outside",
    socket: join(outside, "api.sock"),
    mountpoint: layout.mnt,
  }),
  "a mount point elsewhere": (layout, outside) => ({ id: "d", socket: layout.apiSocket("d"), mountpoint: outside }),
  "an id that climbs": (layout, outside) => ({ id: "../../outside", socket: join(outside, "api.sock"), mountpoint: layout.mnt }),
  "no id": (layout) => ({ id: "", socket: join(layout.socket, "api.sock"), mountpoint: layout.mnt }),
};

test.for(Object.entries(poisons))("a daemon's record with %s removes nothing, is forgotten, and work goes on", async ([, poison]) => {
  await using directory = temporaryRoot();
  const root = join(directory.path, "root");
  const outside = join(directory.path, "outside");
  const layout = new Layout({ root });
  makeDirectories(root);
  mkdirSync(outside);
  writeFileSync(join(outside, "keep"), "mine");
  const db = openDatabase(layout.database);
  const store = new InstanceStore(db);
  store.putDaemon({ mode: "shared", process: { pid: 0, start: "" }, ...poison(layout, outside) });
  db.close();

  await using stack = await startStack(directory.path, { nydusd: "/bin/false" });
  await stack.client.call("Cleanup", {});
  expect(existsSync(join(outside, "keep"))).toBe(true);
  for (const own of [layout.socket, layout.config, layout.snapshots]) expect(existsSync(own), own).toBe(true);
  expect((await stack.client.call("Prepare", { key: "next" })).mounts).toHaveLength(1);
  const again = openDatabase(layout.database);
  expect(new InstanceStore(again).daemons().filter((daemon) => !layout.owns(daemon))).toEqual([]);
  again.close();
});

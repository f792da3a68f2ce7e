import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { mount, umount2 } from "@nydus-ts/linux";
import { expect, test } from "vitest";
import { Daemon, type DaemonEvents, type RecoverPolicy } from "../src/daemons/daemon.ts";
import { isAlive, type ProcessId } from "../src/daemons/process.ts";
import { silentLog } from "../src/log.ts";
import { temporaryRoot, tinyNydusd, until } from "./support/world.ts";

function world(root: string, options: { policy?: RecoverPolicy; orders?: object } = {}) {
  const tiny = tinyNydusd(root, options.orders);
  const started: ProcessId[] = [];
  const again: { kept: boolean; keys: string[] }[] = [];
  const counts: string[] = [];
  const events: DaemonEvents = {
    started: (process) => started.push(process),
    mountAgain: async (info, kept) => {
      again.push({ kept, keys: Object.keys(info.backend_collection ?? {}) });
    },
    count: (event) => counts.push(event),
  };
  const make = (earlier?: ProcessId): Daemon =>
    new Daemon(
      {
        id: "d1",
        mode: "shared",
        mountpoint: join(root, "mnt"),
        socket: join(root, "socket/d1/api.sock"),
        supervisorSocket: join(root, "supervisor/d1.sock"),
        logDirectory: join(root, "logs/d1"),
      },
      {
        command: tiny.command,
        logLevel: "info",
        logRotationMiB: 0,
        threads: 0,
        failoverPolicy: "resend",
        recoverPolicy: options.policy ?? "failover",
      },
      events,
      silentLog,
      earlier,
    );
  return { ...tiny, started, again, counts, make };
}

test("a daemon is started once for all who need it at the same time", async () => {
  await using root = temporaryRoot();
  const { make, started } = world(root.path);
  const daemon = make();
  await Promise.all(Array.from({ length: 50 }, () => daemon.ready({ deadlineMs: 20_000 })));
  expect(started).toHaveLength(1);
  expect((await daemon.client.info()).state).toBe("RUNNING");
  await daemon.stop();
  expect(isAlive(started[0])).toBe(false);
  expect(existsSync(join(root.path, "socket/d1"))).toBe(false);
  expect(existsSync(join(root.path, "logs/d1"))).toBe(false);
});

test("a daemon that ends while starting fails the call with its own last words", async () => {
  await using root = temporaryRoot();
  const { make } = world(root.path, { orders: { dieAtStart: "cannot open /dev/fuse: EPERM" } });
  const daemon = make();
  await expect(daemon.ready({ deadlineMs: 20_000 })).rejects.toMatchObject({
    code: "DAEMON_START",
    message: expect.stringContaining("cannot open /dev/fuse: EPERM"),
  });
  await daemon.stop();
});

test("a program that is not there is named with the key that sets it", async () => {
  await using root = temporaryRoot();
  const { make } = world(root.path);
  const daemon = make();
  const absent = new Daemon(
    daemon.place,
    {
      command: join(root.path, "no-such-program"),
      logLevel: "info",
      logRotationMiB: 0,
      threads: 0,
      failoverPolicy: "resend",
      recoverPolicy: "none",
    },
    { started: () => undefined, mountAgain: async () => undefined, count: () => undefined },
    silentLog,
  );
  await expect(absent.ready({ deadlineMs: 5_000 })).rejects.toMatchObject({
    code: "DAEMON_START",
    message: expect.stringContaining("daemon.nydusd_path"),
  });
});

test("after SIGKILL a successor takes over with the state that was saved, mounts included", async () => {
  await using root = temporaryRoot();
  const { make, started, again, counts } = world(root.path);
  const daemon = make();
  await daemon.ready({ deadlineMs: 20_000 });
  await daemon.client.mount("/7", { source: "/b", config: "{}", fs_type: "rafs" });
  await daemon.collect();
  process.kill(started[0].pid, "SIGKILL");
  await until(() => started.length === 2 && daemon.running, "a successor");
  expect(again.at(-1)).toEqual({ kept: true, keys: ["/7"] });
  expect(counts).toEqual(["RUNNING", "DIED", "RUNNING"]);
  await daemon.stop();
});

test("a daemon that unmounted before it ended, as SIGTERM makes it, is followed by a fresh one at once", async () => {
  await using root = temporaryRoot();
  const { make, started, again } = world(root.path);
  const daemon = make();
  await daemon.ready({ deadlineMs: 20_000 });
  mount({ source: "none", target: daemon.place.mountpoint, type: "tmpfs", flags: 0 });
  await daemon.collect();
  umount2(daemon.place.mountpoint, 0);
  process.kill(started[0].pid, "SIGTERM");
  await until(() => started.length === 2 && daemon.running, "a successor");
  expect(again.at(-1)).toEqual({ kept: false, keys: [] });
  await daemon.stop();
});

test("a call that comes between the death and its discovery waits for the successor", async () => {
  await using root = temporaryRoot();
  const { make, started } = world(root.path);
  const daemon = make();
  await daemon.ready({ deadlineMs: 20_000 });
  await until(() => daemon.protected, "the state to be saved");
  process.kill(started[0].pid, "SIGKILL");
  await until(() => !isAlive(started[0]), "the end of the first");
  await daemon.ready({ deadlineMs: 20_000 });
  expect(started).toHaveLength(2);
  expect((await daemon.client.info()).state).toBe("RUNNING");
  await daemon.stop();
});

test("a successor that refuses the state is tried three times, then a fresh one serves new containers", async () => {
  await using root = temporaryRoot();
  const { make, started, again, order } = world(root.path);
  const daemon = make();
  await daemon.ready({ deadlineMs: 20_000 });
  await until(() => daemon.protected, "the state to be saved");
  order({ refuseTakeover: true });
  process.kill(started[0].pid, "SIGKILL");
  await until(() => started.length === 5 && daemon.running, "a fresh daemon", 20_000);
  expect(again.at(-1)?.kept).toBe(false);
  expect(started.slice(0, 4).some(isAlive)).toBe(false);
  await daemon.stop();
});

test("with policy none a dead daemon stays away until somebody needs one", async () => {
  await using root = temporaryRoot();
  const { make, started } = world(root.path, { policy: "none" });
  const daemon = make();
  await daemon.ready({ deadlineMs: 20_000 });
  process.kill(started[0].pid, "SIGKILL");
  await until(() => !isAlive(started[0]), "the end of the first");
  expect(daemon.running).toBe(false);
  await daemon.ready({ deadlineMs: 20_000 });
  expect(started).toHaveLength(2);
  await daemon.stop();
});

test.for(["none", "restart", "failover"] as const)(
  "with policy %s a living daemon is adopted by the next snapshotter, and watched again",
  async (policy) => {
    await using root = temporaryRoot();
    const { make, started, again } = world(root.path, { policy });
    const first = make();
    await first.ready({ deadlineMs: 20_000 });
    await first.client.mount("/7", { source: "/b", config: "{}", fs_type: "rafs" });
    await first.release();
    expect(isAlive(started[0])).toBe(true);
    const second = make(started[0]);
    await second.ready({ deadlineMs: 20_000 });
    expect(again.at(-1)).toEqual({ kept: true, keys: ["/7"] });
    expect(second.running).toBe(true);
    if (policy === "failover") {
      await until(() => second.protected, "the state to be collected again");
      process.kill(started[0].pid, "SIGKILL");
      await until(() => started.length === 2 && second.running, "a successor");
      expect(again.at(-1)).toEqual({ kept: true, keys: ["/7"] });
    }
    await second.stop();
    expect(started.some(isAlive)).toBe(false);
  },
);

test("a record whose number now belongs to another process starts a new daemon and leaves that process alone", async () => {
  await using root = temporaryRoot();
  const { make, started, again } = world(root.path);
  mkdirSync(join(root.path, "socket/d1"), { recursive: true });
  const daemon = make({ pid: process.pid, start: "1" });
  await daemon.ready({ deadlineMs: 20_000 });
  expect(started).toHaveLength(1);
  expect(again.at(-1)?.kept).toBe(false);
  await daemon.stop();
});

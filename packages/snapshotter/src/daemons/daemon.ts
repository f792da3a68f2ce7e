import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { findMount, MNT_DETACH, umount2 } from "@nydus-ts/linux";
import { type DaemonInfo, NydusdClient } from "@nydus-ts/nydus-api";
import { withDeadline } from "../deadline.ts";
import { messageOf, SnapshotterError } from "../errors.ts";
import {
  daemonPollMs,
  daemonRequestDeadlineMs,
  daemonStartDeadlineMs,
  daemonStopDeadlineMs,
  recoverPausesMs,
  recoverStableMs,
} from "../limits.ts";
import type { Log } from "../log.ts";
import { endProcess, isAlive, type ProcessId, spawnDetached, untilExit } from "./process.ts";
import { Supervisor } from "./supervisor.ts";

export type DaemonMode = "shared" | "dedicated";
export type RecoverPolicy = "none" | "restart" | "failover";

export interface DaemonSettings {
  /** Program and leading arguments. */
  readonly command: string;
  readonly logLevel: string;
  readonly logRotationMiB: number;
  /** 0: the daemon's own default. */
  readonly threads: number;
  readonly failoverPolicy: string;
  readonly recoverPolicy: RecoverPolicy;
}

/** Made by `Layout`, or checked by its `owns`: stopping a daemon removes these folders and unmounts the mount point. */
export interface DaemonPlace {
  readonly id: string;
  readonly mode: DaemonMode;
  readonly mountpoint: string;
  readonly socket: string;
  readonly supervisorSocket: string;
  readonly logDirectory: string;
}

export interface DaemonEvents {
  /** A process was started for this daemon; to be stored before anything else happens, so that it is found again after a crash. */
  started(process: ProcessId): void;
  /** The daemon runs anew: mount what is missing. `kept`: the kernel mount survived (take-over or adoption). */
  mountAgain(info: DaemonInfo, kept: boolean): Promise<void>;
  count(event: "RUNNING" | "DIED" | "DESTROYED"): void;
}

/**
 * One nydusd: started, watched, brought back, stopped. Invariants:
 * - at most one process runs for an id; the record of it is written before its socket is used;
 * - `#work` is the one transition in progress (start, recovery, adoption); everybody who needs the daemon waits for it;
 * - it is never stopped because this program stops.
 */
export class Daemon {
  readonly place: DaemonPlace;
  readonly client: NydusdClient;
  readonly #settings: DaemonSettings;
  readonly #events: DaemonEvents;
  readonly #log: Log;
  readonly #supervisor: Supervisor | undefined;
  /** A process that was started for this daemon by an earlier run of this program, until it has been looked at. */
  #earlier: ProcessId | undefined;
  #process: ProcessId | undefined;
  #work: Promise<void> | undefined;
  #watch: AbortController | undefined;
  #stopping = false;
  #attempts = 0;
  #runningSinceMs = 0;
  /** The kernel mount was there when the daemon's state was saved last. */
  #mountSeen = false;

  constructor(place: DaemonPlace, settings: DaemonSettings, events: DaemonEvents, log: Log, earlier?: ProcessId) {
    this.place = place;
    this.#earlier = earlier;
    this.client = new NydusdClient(place.socket, { timeoutMs: daemonRequestDeadlineMs });
    this.#settings = settings;
    this.#events = events;
    this.#log = log;
    this.#supervisor = settings.recoverPolicy === "failover" ? new Supervisor(place.supervisorSocket) : undefined;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get running(): boolean {
    return this.#work === undefined && this.#process !== undefined && isAlive(this.#process);
  }

  /** Whether a successor could take over the kernel mount at this moment. */
  get protected(): boolean {
    return this.#supervisor?.holds ?? false;
  }

  /** Resolves when the daemon serves: adopts the process of an earlier run, starts one, or waits for the start or recovery in progress. @throws SnapshotterError DAEMON_START, DAEMON_DEADLINE */
  ready(options: { deadlineMs: number }): Promise<void> {
    if (this.#process !== undefined && !isAlive(this.#process)) this.#died(this.#process);
    if (this.#work === undefined && this.#process !== undefined) return Promise.resolve();
    return withDeadline(
      this.#work ?? this.#transition(() => this.#begin()),
      options.deadlineMs,
      () =>
        new SnapshotterError(
          "DAEMON_DEADLINE",
          `nydusd ${this.place.id} was not ready within ${options.deadlineMs} ms; see ${this.place.logDirectory}`,
        ),
    );
  }

  /** For repair: a running daemon is asked what it has mounted, and what is missing is mounted; one that does not run is brought up. */
  async refresh(options: { deadlineMs: number }): Promise<void> {
    if (!this.running) return this.ready(options);
    await this.#transition(async () => this.#events.mountAgain(await this.client.info(), true));
  }

  async #begin(): Promise<void> {
    const earlier = this.#earlier;
    this.#earlier = undefined;
    const info = earlier !== undefined && isAlive(earlier) ? await this.client.info().catch(() => undefined) : undefined;
    if (earlier !== undefined && info?.state === "RUNNING") {
      this.#settle(earlier);
      this.#log.info({ daemon: this.place.id, pid: earlier.pid }, "daemon found alive and adopted");
      await this.#events.mountAgain(info, true);
      return;
    }
    // Not answering as it should: whoever it is, its mount goes with it.
    if (earlier !== undefined) await endProcess(earlier, daemonStopDeadlineMs);
    await this.#startFresh();
  }

  /** After a mount or umount: the supervisor's copy of the state follows. Failure costs the fail-over, not the mount. */
  async collect(): Promise<void> {
    if (this.#supervisor === undefined || this.#stopping) return;
    this.#mountSeen = findMount(this.place.mountpoint) !== undefined;
    try {
      await this.#supervisor.collect(() => this.client.sendFd());
    } catch (error) {
      if (!this.#stopping)
        this.#log.warn(
          { daemon: this.place.id, error: messageOf(error) },
          "the daemon's state could not be saved; if it dies now its mounts are lost",
        );
    }
  }

  /** Ends the process and removes its mount, socket and logs. Twice is harmless. @throws SnapshotterError DAEMON_DEADLINE */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#work?.catch(() => undefined);
    this.#watch?.abort();
    const process = this.#process ?? this.#earlier;
    this.#process = undefined;
    this.#earlier = undefined;
    // While a second descriptor is held here the kernel keeps the connection open, and the daemon's own unmount could not end it.
    await this.#supervisor?.drop();
    if (process !== undefined) {
      await endProcess(process, daemonStopDeadlineMs);
      this.#events.count("DESTROYED");
    }
    detachMounts(this.place.mountpoint);
    for (const path of [dirname(this.place.socket), this.place.logDirectory]) rmSync(path, { recursive: true, force: true });
    rmSync(this.place.supervisorSocket, { force: true });
  }

  /** Stops watching and lets go of the held state; the process goes on. */
  async release(): Promise<void> {
    this.#stopping = true;
    this.#watch?.abort();
    await this.#supervisor?.drop();
  }

  #transition(work: () => Promise<void>): Promise<void> {
    const running = work().finally(() => {
      if (this.#work === running) this.#work = undefined;
    });
    running.catch(() => undefined);
    this.#work = running;
    return running;
  }

  async #startFresh(): Promise<void> {
    await this.#supervisor?.drop();
    detachMounts(this.place.mountpoint);
    rmSync(this.place.socket, { force: true });
    mkdirSync(this.place.mountpoint, { recursive: true });
    const process = await this.#spawn([]);
    const info = await this.#until("RUNNING", process);
    this.#settle(process);
    await this.#events.mountAgain(info, false);
  }

  /** A successor continues the kernel mount of the dead daemon. */
  async #takeOver(supervisor: Supervisor): Promise<void> {
    const process = await this.#spawn(["--upgrade"]);
    try {
      await this.#until("INIT", process);
      await supervisor.offer(() => this.client.takeover());
      await this.client.start();
      const info = await this.#until("RUNNING", process);
      this.#settle(process);
      await this.#events.mountAgain(info, true);
    } catch (error) {
      await endProcess(process, daemonStopDeadlineMs);
      throw error;
    }
  }

  #settle(process: ProcessId): void {
    this.#process = process;
    this.#runningSinceMs = performance.now();
    this.#events.count("RUNNING");
    this.#log.info({ daemon: this.place.id, pid: process.pid }, "nydusd serves");
    this.#watchFor(process);
    void this.collect();
  }

  #watchFor(process: ProcessId): void {
    this.#watch?.abort();
    const watch = new AbortController();
    this.#watch = watch;
    untilExit(process, watch.signal).then(
      () => {
        if (!watch.signal.aborted && !this.#stopping) this.#died(process);
      },
      (error) => {
        if (!watch.signal.aborted) this.#log.error({ daemon: this.place.id, error: messageOf(error) }, "the daemon cannot be watched");
      },
    );
  }

  #died(process: ProcessId): void {
    if (this.#process !== process) return;
    this.#process = undefined;
    this.#watch?.abort();
    this.#events.count("DIED");
    if (performance.now() - this.#runningSinceMs > recoverStableMs) this.#attempts = 0;
    this.#log.error({ daemon: this.place.id, pid: process.pid, policy: this.#settings.recoverPolicy }, "nydusd died");
    if (this.#settings.recoverPolicy === "none") return;
    const earlier = this.#work;
    void this.#transition(async () => {
      await earlier?.catch(() => undefined);
      await this.#recover();
    });
  }

  /** Tries until it runs again, slower and slower. Take-over first; when that cannot work a fresh start serves new containers at least. */
  async #recover(): Promise<void> {
    let failures = 0;
    while (!this.#stopping) {
      await pause(recoverPausesMs[Math.min(this.#attempts, recoverPausesMs.length - 1)]);
      if (this.#stopping) break;
      this.#attempts++;
      const supervisor = this.#supervisor;
      const startedMs = performance.now();
      // A daemon that was told to end (SIGTERM) has unmounted and aborted the connection: the descriptor that is held leads nowhere.
      const unmounted = this.#mountSeen && findMount(this.place.mountpoint) === undefined;
      try {
        if (supervisor?.holds && failures < 3 && !unmounted) await this.#takeOver(supervisor);
        else {
          if (this.#settings.recoverPolicy === "failover")
            this.#log.error(
              { daemon: this.place.id, unmounted },
              "nothing to take over: mounts of running containers are lost, they have to be restarted",
            );
          await this.#startFresh();
        }
        this.#log.info({ daemon: this.place.id, pid: this.#process?.pid, ms: Math.round(performance.now() - startedMs) }, "nydusd is back");
        return;
      } catch (error) {
        failures++;
        this.#log.error(
          { daemon: this.place.id, attempt: this.#attempts, error: messageOf(error) },
          "nydusd could not be brought back, trying again",
        );
      }
    }
    throw new SnapshotterError("DAEMON_START", `daemon ${this.place.id} is being stopped`);
  }

  async #spawn(extra: readonly string[]): Promise<ProcessId> {
    const { command, threads, logLevel, logRotationMiB, failoverPolicy } = this.#settings;
    const { id, mountpoint, socket, supervisorSocket, logDirectory } = this.place;
    mkdirSync(dirname(socket), { recursive: true });
    mkdirSync(logDirectory, { recursive: true });
    // Order as in spec/snapshotter.md 9.2.
    const args = [
      "fuse",
      ...extra,
      ...(threads > 0 ? ["--thread-num", String(threads)] : []),
      ...(this.#supervisor === undefined ? [] : ["--id", id]),
      ...["--mountpoint", mountpoint, "--apisock", socket, "--log-level", logLevel],
      ...(logRotationMiB > 0 ? ["--log-rotation-size", String(logRotationMiB)] : []),
      ...(this.#supervisor === undefined ? [] : ["--supervisor", supervisorSocket]),
      ...["--log-file", join(logDirectory, "nydusd.log"), "--failover-policy", failoverPolicy],
    ];
    const process = await spawnDetached(command, args, join(logDirectory, "output.log"));
    this.#events.started(process);
    this.#log.info({ daemon: id, pid: process.pid, command, args: args.join(" ") }, "nydusd started");
    return process;
  }

  /** Looks until the daemon reports `state`; ends early, with the daemon's own last words, when the process is gone. */
  async #until(state: "INIT" | "RUNNING", process: ProcessId): Promise<DaemonInfo> {
    const until = performance.now() + daemonStartDeadlineMs;
    let last = "its socket does not answer";
    while (performance.now() < until) {
      try {
        const info = await this.client.info({ timeoutMs: Math.min(daemonRequestDeadlineMs, Math.max(1, until - performance.now())) });
        if (info.state === state) return info;
        last = `it reports ${info.state}`;
      } catch (error) {
        last = messageOf(error);
      }
      if (!isAlive(process)) throw new SnapshotterError("DAEMON_START", `nydusd ended while starting: ${this.#lastWords()}`);
      await pause(daemonPollMs);
    }
    const words = this.#lastWords();
    await endProcess(process, daemonStopDeadlineMs);
    throw new SnapshotterError("DAEMON_DEADLINE", `nydusd was not ${state} within ${daemonStartDeadlineMs} ms (${last}): ${words}`);
  }

  #lastWords(): string {
    for (const name of ["output.log", "nydusd.log"]) {
      try {
        const lines = readFileSync(join(this.place.logDirectory, name), "utf8").trim().split("\n");
        const text = lines.slice(-3).join(" | ");
        if (text !== "") return text.slice(-1_000);
      } catch {
        // The next file may have something.
      }
    }
    return `it left no message in ${this.place.logDirectory}`;
  }
}

/** Removes every mount on this path, also one whose server is dead. Lazily: readers keep what they have open. */
export function detachMounts(mountpoint: string): void {
  while (findMount(mountpoint) !== undefined) umount2(mountpoint, MNT_DETACH);
}

import { lstatSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MNT_DETACH, mountInfo, umount2 } from "@nydus-ts/linux";
import { apiRoutes } from "./api/routes.ts";
import { ApiServer } from "./api/server.ts";
import { type FuseOptions, type GlobalOptions, type Invocation, parseCommandLine } from "./cli.ts";
import { readConfigFile } from "./config/index.ts";
import { Daemon } from "./daemon.ts";
import type { Engine } from "./engines/engine.ts";
import { createFuseEngine } from "./engines/fuse/index.ts";
import { describeError, NydusdError } from "./errors.ts";
import { loadRegistryClient } from "./images/backends.ts";
import { stopDeadlineMs } from "./limits.ts";
import { createLog, type LogSink, type RootLog } from "./log/log.ts";
import { RotatingFile } from "./log/rotating-file.ts";
import { applyRlimitNofile } from "./rlimit.ts";
import { isHeldElsewhere } from "./takeover/held-elsewhere.ts";
import { hasCrashedPredecessor } from "./takeover/predecessor.ts";
import { versionText } from "./version.ts";
import { watchInflight } from "./watchdog.ts";

/** What an executable is given by its caller. */
export interface MainIo {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Module that worker threads start with (`fuse-worker.ts`); it has to call `runFuseWorker`. */
  readonly workerUrl: URL;
  writeOut(text: string): void;
  writeErr(text: string): void;
  /** Fires when the process is asked to end (SIGTERM, SIGINT). */
  readonly terminate: AbortSignal;
}

/** 0 ended as asked, 1 could not start or failed, 2 wrong command line. Source: spec/nydusd.md 2.3. */
export type ExitCode = 0 | 1 | 2;

/** Runs nydusd until it is told to end. */
export async function main(argv: readonly string[], io: MainIo): Promise<ExitCode> {
  const invocation = parseCommandLine(argv, { version: versionText(), writeOut: io.writeOut, writeErr: io.writeErr });
  if (invocation.mode === "done") return invocation.exitCode as ExitCode;
  if (invocation.mode === "absent") return notBuilt(`nydusd ${invocation.name}`, io);
  if (invocation.mode === "singleton" && invocation.options.fscache !== undefined) return notBuilt("--fscache", io);
  if (invocation.mode === "fuse" && invocation.options.sharedDir !== undefined) return notBuilt("--shared-dir", io);
  await using resources = new AsyncDisposableStack();
  let log: RootLog | undefined;
  try {
    const sink = openSink(invocation.options, io, resources);
    log = createLog(sink, { level: invocation.options.logLevel, format: invocation.options.logFormat });
    return await run(invocation, log, io, resources);
  } catch (error) {
    if (invocation.options.logFile !== undefined) log?.error(`nydusd ends: ${describeError(error)}`);
    // A fault of the program itself keeps its stack; faults of the world are one line.
    io.writeErr(`Error: ${error instanceof NydusdError ? describeError(error) : error instanceof Error ? error.stack : error}\n`);
    return 1;
  }
}

function notBuilt(what: string, io: MainIo): ExitCode {
  io.writeErr(`error: ${what} is not built in this version; \`nydusd fuse\` and \`nydusd singleton\` are\n`);
  return 2;
}

function openSink(options: GlobalOptions, io: MainIo, resources: AsyncDisposableStack): LogSink {
  if (options.logFile === undefined) return { write: io.writeErr };
  try {
    return resources.use(new RotatingFile(options.logFile, options.logRotationSize * 1024 * 1024));
  } catch (cause) {
    throw new NydusdError("CONFIG_INVALID", `--log-file ${options.logFile}: can't be opened (${describeError(cause)})`, { cause });
  }
}

async function run(
  invocation: Extract<Invocation, { mode: "fuse" | "singleton" }>,
  log: RootLog,
  io: MainIo,
  resources: AsyncDisposableStack,
): Promise<ExitCode> {
  const { options } = invocation;
  applyRlimitNofile(options.rlimitNofile, log);
  const fuse = invocation.mode === "fuse" ? invocation.options : undefined;
  const mountpoint = fuse === undefined ? undefined : hostMountpoint(fuse.mountpoint);
  const engine = fuse === undefined || mountpoint === undefined ? undefined : fuseEngine(fuse, mountpoint, log, io);
  const finished = Promise.withResolvers<void>();
  const daemon = new Daemon({ engine, log, id: options.id, supervisor: options.supervisor, onFinish: finished.resolve });
  const ended = engine?.ended ?? new Promise<void>(() => undefined);
  ended.catch(() => undefined);
  // From here on whatever fails leaves no mount and no thread behind.
  try {
    if (fuse === undefined || mountpoint === undefined) await daemon.serve();
    else if (await startsFresh(fuse, mountpoint, log)) {
      await startMount(daemon, fuse, io, log);
      const serving = daemon.serve();
      // While the first worker starts on another processor; without this the first mount over the API waits for it.
      if (options.apisock !== undefined) await Promise.all([loadRegistryClient(), serving]);
      await serving;
      log.info(`serving ${mountpoint} with ${fuse.fuseThreads} threads`);
    } else log.info("waiting for a take-over on the API socket");
    if (options.apisock !== undefined) {
      const server = resources.use(new ApiServer(options.apisock, apiRoutes(daemon), log.part("api")));
      await server.listen();
    }
    if (engine !== undefined) resources.use(watchInflight(engine, log.part("fuse")));
    const supervised = options.supervisor !== undefined;
    return await untilEnd({ daemon, engine, ended, finished: finished.promise, log, io, supervised, mountpoint });
  } catch (error) {
    await withinStopDeadline(daemon.stop(), mountpoint, log);
    throw error;
  }
}

/** Milliseconds for the answer to `exit` to leave. */
const answerMs = 1000;

interface Life {
  readonly daemon: Daemon;
  readonly engine: Engine | undefined;
  readonly ended: Promise<void>;
  readonly finished: Promise<void>;
  readonly log: RootLog;
  readonly io: MainIo;
  /** A supervisor may hold the device: then the kernel mount is left for a successor. */
  readonly supervised: boolean;
  readonly mountpoint: string | undefined;
}

async function untilEnd({ daemon, ended, finished, log, io, supervised, mountpoint }: Life): Promise<ExitCode> {
  const asked = Promise.withResolvers<"asked">();
  const onTerminate = (): void => asked.resolve("asked");
  if (io.terminate.aborted) onTerminate();
  io.terminate.addEventListener("abort", onTerminate, { once: true });
  let failure: unknown;
  const how = await Promise.race([
    asked.promise,
    finished.then(() => "finished" as const),
    ended.then(
      () => "unmounted" as const,
      (error: unknown) => {
        failure = error;
        return "failed" as const;
      },
    ),
  ]);
  io.terminate.removeEventListener("abort", onTerminate);
  // `exit` of the API has ended the session: its answer goes out first.
  if (how === "unmounted" && daemon.ending) await Promise.race([finished, sleep(answerMs)]);
  else if (how === "unmounted") log.info("the mount was removed from outside");
  if (how === "failed") log.error(`the FUSE session failed: ${describeError(failure)}`);
  const told = how === "asked" && daemon.mayBeFollowed;
  const stopping = told ? leave(daemon, mountpoint, log) : how === "failed" && supervised ? daemon.exit() : daemon.stop();
  const clean = await withinStopDeadline(stopping, undefined, log);
  log.info("nydusd quits");
  return how === "failed" || !clean ? 1 : 0;
}

/**
 * Told to end (SIGTERM, by systemd or a person) under a supervisor: if that holds the device, its mount goes on with a successor and the
 * containers with it, as after a crash. If it does not, or has closed it to have this daemon end for good, the mount goes.
 */
async function leave(daemon: Daemon, mountpoint: string | undefined, log: RootLog): Promise<void> {
  await daemon.exit();
  if (mountpoint === undefined || !isFuseMount(mountpoint)) return;
  if (await isHeldElsewhere(mountpoint)) log.info(`${mountpoint}: its supervisor holds the device, so the mount is left to a successor`);
  else detach(mountpoint, log);
}

/** Waits for an orderly stop, at most `stopDeadlineMs`; then the mount is detached by force, so nothing hangs on a dead daemon. */
async function withinStopDeadline(stopping: Promise<void>, mountpoint: string | undefined, log: RootLog): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), stopDeadlineMs - 300);
  const clean = await Promise.race([
    stopping.then(
      () => true,
      (error: unknown) => {
        log.error(`stopping: ${describeError(error)}`);
        return false;
      },
    ),
    late.promise,
  ]);
  clearTimeout(timer);
  if (!clean && mountpoint !== undefined && isFuseMount(mountpoint)) detach(mountpoint, log);
  return clean;
}

function fuseEngine(fuse: FuseOptions, mountpoint: string, log: RootLog, io: MainIo): Engine {
  return createFuseEngine({
    mountpoint,
    threads: fuse.fuseThreads,
    writable: fuse.writable,
    failoverPolicy: fuse.failoverPolicy,
    supervised: fuse.supervisor !== undefined,
    workerUrl: io.workerUrl,
    log: log.part("fuse"),
  });
}

/** Whether this process mounts by itself. False: it waits for `takeover`. Source: spec/nydusd.md 5. */
async function startsFresh(fuse: FuseOptions, mountpoint: string, log: RootLog): Promise<boolean> {
  if (fuse.apisock === undefined) return true;
  if (fuse.upgrade) return false;
  if (!(await hasCrashedPredecessor(mountpoint, fuse.apisock))) return true;
  if (fuse.supervisor !== undefined) return false;
  // Nobody holds the device of the dead daemon: its mount can only be removed.
  log.warn(`${mountpoint}: a daemon died and left its mount; it is removed and made anew`);
  detach(mountpoint, log);
  return true;
}

async function startMount(daemon: Daemon, fuse: FuseOptions, io: MainIo, log: RootLog): Promise<void> {
  if (fuse.dedupDb !== undefined) log.warn("--dedup-db is ignored: chunk deduplication over a database is not built in this version");
  if (fuse.bootstrap === undefined) return;
  const config = startConfig(fuse);
  const auth = io.env["IMAGE_PULL_AUTH"];
  if (auth !== undefined && auth !== "") daemon.setRuntimeConfig(fuse.virtualMountpoint, { registry_auth: auth });
  const prefetch = fuse.prefetchFiles === undefined ? {} : { prefetch_files: readPrefetchFiles(fuse.prefetchFiles) };
  await daemon.mount(fuse.virtualMountpoint, { source: fuse.bootstrap, fs_type: "rafs", config, ...prefetch });
}

function startConfig(fuse: FuseOptions): string {
  if (fuse.config !== undefined) return readConfigFile(fuse.config);
  if (fuse.localfsDir === undefined)
    throw new NydusdError("CONFIG_INVALID", "both --config and --localfs-dir are missing; --bootstrap needs one of them");
  return JSON.stringify({
    device: {
      backend: { type: "localfs", config: { dir: fuse.localfsDir } },
      cache: { type: "blobcache", config: { work_dir: fuse.localfsDir } },
    },
    mode: "direct",
  });
}

function readPrefetchFiles(path: string): string[] {
  try {
    const lines = readFileSync(path, "utf8").split("\n");
    return lines.map((line) => line.trim()).filter((line) => line !== "");
  } catch (cause) {
    throw new NydusdError("CONFIG_INVALID", `--prefetch-files ${path}: can't be read (${describeError(cause)})`, { cause });
  }
}

/**
 * The canonical host mount point. A mount that is there already is not touched: when its daemon is dead, looking at it would hang.
 * @throws NydusdError MOUNTPOINT
 */
function hostMountpoint(path: string): string {
  try {
    const direct = join(realpathSync(dirname(path)), basename(path));
    if (isFuseMount(direct)) return direct;
    const canonical = realpathSync(path);
    if (isFuseMount(canonical) || lstatSync(canonical).isDirectory()) return canonical;
  } catch (cause) {
    throw new NydusdError("MOUNTPOINT", `--mountpoint ${path}: ${describeError(cause)}; create the directory first`, { cause });
  }
  throw new NydusdError("MOUNTPOINT", `--mountpoint ${path}: is not a directory`);
}

function isFuseMount(path: string): boolean {
  return mountInfo().some((entry) => entry.mountpoint === path && entry.type.startsWith("fuse"));
}

function detach(mountpoint: string, log: RootLog): void {
  try {
    umount2(mountpoint, MNT_DETACH);
  } catch (error) {
    log.error(`${mountpoint}: can't be unmounted: ${describeError(error)}; run: umount -l ${mountpoint}`);
  }
}

import { accessSync, constants, mkdirSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { dockerConfigCredentials } from "@nydus-ts/registry-client";
import { Garbage, reconcile } from "./cleaner.ts";
import { parseCommandLine } from "./cli.ts";
import { Layout } from "./config/layout.ts";
import { type LoadedConfig, loadConfig } from "./config/load.ts";
import type { Config } from "./config/schema.ts";
import { findImage, findLayer, Manifests } from "./containerd/image-lookup.ts";
import { messageOf, SnapshotterError } from "./errors.ts";
import { RafsInstances } from "./instances/rafs-instances.ts";
import { RegistryConfig } from "./instances/registry-config.ts";
import { loadTemplate } from "./instances/template.ts";
import { createLog, type Log } from "./log.ts";
import { LogFile } from "./log-file.ts";
import { createServer, listen, stopListening } from "./service/server.ts";
import { removeStaleSocket } from "./service/stale-socket.ts";
import { Snapshotter } from "./snapshotter.ts";
import { openDatabase } from "./store/database.ts";
import { makeDirectory } from "./store/directories.ts";
import { InstanceStore } from "./store/instances.ts";
import { SnapshotStore } from "./store/snapshots.ts";
import { startController } from "./system/controller.ts";
import { Metrics, serveMetrics } from "./system/metrics.ts";
import { packageVersion } from "./version.ts";

/** What an executable is given by its caller. */
export interface MainIo {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The file that was started, to find sister programs beside it. */
  readonly program: string;
  writeOut(text: string): void;
  writeErr(text: string): void;
  /** Fires when the process is asked to end (SIGTERM, SIGINT). */
  readonly terminate: AbortSignal;
}

/** 0 ended as asked, 1 could not start, 2 wrong command line. */
export type ExitCode = 0 | 1 | 2;

/** Runs the snapshotter until it is told to end. Daemons go on without it. */
export async function main(argv: readonly string[], io: MainIo): Promise<ExitCode> {
  const invocation = parseCommandLine(argv, io);
  if (invocation.kind === "done") return invocation.exitCode;
  let loaded: LoadedConfig;
  try {
    loaded = loadConfig(invocation.config, invocation.overrides);
  } catch (error) {
    io.writeErr(`containerd-nydus-grpc: ${messageOf(error)}\n`);
    return 1;
  }
  const { config, warnings } = loaded;
  let log: Log | undefined;
  try {
    // Paths below root are made from the resolved one, so that they equal what the kernel shows in its mount table.
    mkdirSync(config.root, { recursive: true, mode: 0o700 });
    const root = realpathSync(config.root);
    const layout = new Layout({ root, cache: config.cache_manager.cache_dir || undefined, logs: config.log.dir || undefined });
    log = openLog(config, layout, io);
    for (const warning of warnings) log.warn({}, warning);
    const explicitTemplate = invocation.overrides.nydusdConfig !== undefined;
    return await run({ config, layout, log, explicitTemplate }, io);
  } catch (error) {
    const text = messageOf(error);
    log?.error({ error: text, code: error instanceof SnapshotterError ? error.code : undefined }, "failed to start nydus-snapshotter");
    io.writeErr(`containerd-nydus-grpc: ${text}\n`);
    return 1;
  }
}

async function run(start: { config: Config; layout: Layout; log: Log; explicitTemplate: boolean }, io: MainIo): Promise<ExitCode> {
  const { config, layout, log } = start;
  // At once: what a killed predecessor left refuses dials, and a living one is not to be disturbed.
  await removeStaleSocket(config.address);
  for (const directory of [layout.cache, layout.config, layout.socket, layout.supervisor]) makeDirectory(directory, 0o755);
  makeDirectory(layout.snapshots, 0o700);
  const db = openDatabase(layout.database);
  const snapshots = new SnapshotStore(db);
  const instances = new InstanceStore(db);
  const template = loadTemplate(config.daemon.nydusd_config, {
    optional: !start.explicitTemplate && config.daemon.nydusd_config === "/etc/nydus/nydusd-config.json",
  });
  const metrics = new Metrics();
  const manifests = new Manifests();
  const rafs = new RafsInstances({
    store: instances,
    layout,
    configs: new RegistryConfig({
      template,
      cache: layout.cache,
      mirrorsDir: config.remote.mirrors_config.dir,
      containerdConfigPath: config.remote.mirrors_config.containerd_config_path,
      credentials: [dockerConfigCredentials(dockerConfigOf(io.env))],
      findImage: (bootstrap) => findImage(config.containerd.address, bootstrap, log, manifests),
      log,
    }),
    settings: {
      command: config.daemon.nydusd_path || findProgram("nydusd", io),
      logLevel: NYDUSD_LEVELS[config.log.level],
      logRotationMiB: config.daemon.log_rotation_size,
      threads: config.daemon.threads_number,
      failoverPolicy: config.daemon.failover_policy,
      recoverPolicy: config.daemon.recover_policy,
    },
    mode: config.daemon_mode === "multiple" ? "dedicated" : config.daemon_mode,
    log,
    countEvent: (event) => metrics.countEvent(event),
  });
  const garbage = new Garbage({ snapshots, instances, rafs, layout, log, countBlobs: (counts) => metrics.countBlobs(counts) });
  metrics.use({ rafs, instances, cache: layout.cache, hungIoMs: config.metrics.hung_io_interval });
  const snapshotter = new Snapshotter({
    store: snapshots,
    layout,
    instances: rafs,
    cleaner: garbage,
    findLayer: (key) => findLayer(config.containerd.address, key, log, manifests),
    log,
    syncRemove: config.snapshot.sync_remove,
    volatile: config.snapshot.enable_overlayfs_volatile,
  });
  const server = createServer(snapshotter, { log, observe: (method, elapsedMs) => metrics.observe(method, elapsedMs) });
  const repair = async (): Promise<void> => {
    if (config.daemon_mode !== "none") await reconcile({ snapshots, instances, rafs, layout, log });
    await garbage.run();
  };
  await using side = new AsyncDisposableStack();
  if (config.metrics.address !== "") side.use(await serveMetrics(config.metrics.address, metrics, log));
  if (config.system.enable) side.use(await startController(config.system, { rafs, snapshots, instances, layout, reconcile: repair, log }));
  // It begins with a look through all processes and mounts, which takes the thread. That comes before the socket, since containerd waits for
  // a missing one, while who has dialled must hear from us within a second (its first back-off), also on a machine that is short of time.
  const repaired = repair().then(
    () => true,
    (error) => {
      log.error({ error: messageOf(error) }, "reconciling failed");
      return false;
    },
  );
  const socket = await listen(server, config.address, { uid: config.uid, gid: config.gid });
  log.info({ address: config.address, root: layout.root, version: packageVersion, mode: config.daemon_mode }, "nydus-snapshotter is ready");
  // Restoring goes on beside the first calls: each waits for its own image only. A daemon ahead of need comes after, so that one of an
  // earlier run is found. Nobody would end a daemon that starts while this program ends.
  void repaired.then((done) => {
    if (done && !io.terminate.aborted) rafs.startAhead();
  });

  await aborted(io.terminate);
  log.info({}, "told to end");
  await stopListening(server, socket, 2_000);
  await garbage.close();
  if (config.cleanup_on_close) await rafs.stopAll();
  else await rafs.release();
  db.close();
  log.info({}, "nydus-snapshotter exited");
  return 0;
}

/** Where `docker login` keeps its passwords, in the environment the program was given. */
function dockerConfigOf(env: MainIo["env"]): { file?: string; path?: string } {
  const directory = env["DOCKER_CONFIG"] || (env["HOME"] ? join(env["HOME"], ".docker") : undefined);
  const path = env["PATH"];
  return { ...(directory === undefined ? {} : { file: join(directory, "config.json") }), ...(path === undefined ? {} : { path }) };
}

/** nydusd knows five levels. */
const NYDUSD_LEVELS = {
  panic: "error",
  fatal: "error",
  error: "error",
  warn: "warn",
  warning: "warn",
  info: "info",
  debug: "debug",
  trace: "trace",
} as const satisfies Record<Config["log"]["level"], string>;

function openLog(config: Config, layout: Layout, io: MainIo): Log {
  if (config.log.log_to_stdout) return createLog(config.log.level, io.writeOut);
  const file = new LogFile({
    directory: layout.logs,
    bytesMax: config.log.log_rotation_max_size * 1024 * 1024,
    backups: config.log.log_rotation_max_backups,
    ageMs: config.log.log_rotation_max_age * 86_400_000,
    localTime: config.log.log_rotation_local_time,
    compress: config.log.log_rotation_compress,
  });
  return createLog(config.log.level, (line) => file.write(line));
}

/** A program beside this one, else the first in PATH; the bare name when there is none, so that the message of its start says so. */
function findProgram(name: string, io: MainIo): string {
  const own = dirname(io.program);
  // Beside the bundle, in the repository's bin, in the bin of an installation; then where a shell would look.
  for (const directory of [own, join(own, "../bin"), join(own, "../../bin"), ...(io.env["PATH"] ?? "").split(":")]) {
    try {
      const path = join(directory, name);
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next directory.
    }
  }
  return name;
}

const aborted = (signal: AbortSignal): Promise<void> =>
  signal.aborted ? Promise.resolve() : new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));

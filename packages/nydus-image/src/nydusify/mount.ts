/** `nydusify mount`, also `view`: an image as a folder, until the person has seen enough. Source: spec/nydusify.md, section 6 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { findMount, MNT_DETACH, umount2 } from "@nydus-ts/linux";
import {
  currentPlatform,
  dockerConfigCredentials,
  registryEnvironment,
  formatPlatform,
  type ImageSource,
  LayoutImage,
  RegistryImage,
  serverOf,
} from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { nydusdStartDeadlineMs, nydusdStopDeadlineMs } from "../limits.ts";
import { bucketExample, givenBlobs } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { workDirectory } from "../work-directory.ts";
import { onePlatform, openSource, readBootstrapLayer, readHalves } from "./image.ts";

interface MountFlags {
  target: string;
  targetInsecure?: boolean;
  backendType?: string;
  backendConfig?: string;
  backendConfigFile?: string;
  prefetch?: boolean;
  mountPath: string;
  platform: string;
  workDir: string;
  nydusd: string;
}

export function addMount(program: Command, context: Context): void {
  program
    .command("mount")
    .alias("view")
    .description("mount a nydus image until SIGINT or SIGTERM; data come when they are read")
    .addOption(new Option("--target <image>", "image to mount").env("TARGET").makeOptionMandatory())
    .addOption(switchOption("--target-insecure", "accept any certificate of the registry", "TARGET_INSECURE"))
    .addOption(
      new Option("--backend-type <type>", "where the data blobs are, if not beside the image: oss, s3, localfs").env("BACKEND_TYPE"),
    )
    .addOption(
      new Option("--backend-config <json>", `{"dir": "DIRECTORY"} or ${bucketExample}`)
        .env("BACKEND_CONFIG")
        .conflicts("backendConfigFile"),
    )
    .addOption(new Option("--backend-config-file <path>", "the same in a file").env("BACKEND_CONFIG_FILE"))
    .addOption(switchOption("--prefetch", "fetch all data in the background", "PREFETCH"))
    .addOption(new Option("--mount-path <dir>", "where").default("./image-fs").env("MOUNT_PATH"))
    .option("--platform <platform>", "which of an index", formatPlatform(currentPlatform()))
    .addOption(
      new Option("--work-dir <dir>", "directory for bootstrap, cache and socket while it is mounted").default("./tmp").env("WORK_DIR"),
    )
    .addOption(new Option("--nydusd <path>", "the daemon").default("nydusd").env("NYDUSD"))
    .action(async (flags: MountFlags) => {
      await mountImage(context, flags);
    });
}

async function mountImage(context: Context, flags: MountFlags): Promise<void> {
  const { signal } = context.io;
  const log = context.log();
  const insecure = flags.targetInsecure ?? false;
  await using source = await openSource(flags.target, { insecure, signal });
  const { nydus } = await readHalves(source, onePlatform(flags.platform));
  if (!nydus) throw new NydusImageError("IMAGE_SOURCE", `${source.name} is not a nydus image: convert it first`);
  const { bootstrap } = await readBootstrapLayer(source, nydus, signal);
  await using work = await workDirectory(flags.workDir);
  const paths = {
    bootstrap: join(work.path, "image.boot"),
    cache: join(work.path, "cache"),
    config: join(work.path, "nydusd.json"),
    socket: join(work.path, "api.sock"),
  };
  await mkdir(paths.cache);
  await writeFile(paths.bootstrap, bootstrap.bytes);
  const { backendType: type, backendConfig: config, backendConfigFile: configFile } = flags;
  await using stored = await givenBlobs({ type, config, configFile }, "");
  const backend = stored?.nydusd ?? (await backendOf(source, insecure, signal));
  const settings = {
    device: { backend, cache: { type: "blobcache", config: { work_dir: resolve(paths.cache) } } },
    mode: "direct",
    digest_validate: true,
    enable_xattr: true,
    fs_prefetch: { enable: flags.prefetch ?? false, threads_count: 10, merging_size: 131_072 },
  };
  // It may hold a password.
  await writeFile(paths.config, JSON.stringify(settings), { mode: 0o600 });
  const mountPath = resolve(flags.mountPath);
  await mkdir(mountPath, { recursive: true, mode: 0o750 });
  await using daemon = await startDaemon(flags.nydusd, mountPath, paths);
  log.info(`mounted ${source.name} on ${mountPath}; stop with Ctrl-C`);
  const ended = await Promise.race([
    once(daemon.process, "exit").then(() => true),
    signal.aborted ? false : once(signal, "abort").then(() => false),
  ]);
  if (ended) throw new NydusImageError("IMAGE_SOURCE", `nydusd ended while ${source.name} was mounted: ${daemon.lastWords()}`);
  log.info(`unmounting ${mountPath}`);
}

/** nydusd's configuration of where the blobs are. Source: section 1.4 */
async function backendOf(source: ImageSource, insecure: boolean, signal: AbortSignal): Promise<object> {
  if (source instanceof LayoutImage) return { type: "localfs", config: { dir: resolve(source.directory, "blobs/sha256") } };
  if (!(source instanceof RegistryImage)) throw new TypeError("a source of another kind");
  const { host, repository } = source.reference;
  const credential = await dockerConfigCredentials({}).lookup(host, { signal });
  const auth =
    credential?.kind === "basic" ? { auth: Buffer.from(`${credential.username}:${credential.password}`).toString("base64") } : {};
  const { hostsDirs, proxy } = registryEnvironment(host, undefined, process.env);
  const config = {
    host: serverOf(host),
    repo: repository,
    ...auth,
    ...(insecure ? { skip_verify: true } : {}),
    ...(hostsDirs.length === 0 ? {} : { hosts_dirs: hostsDirs.map((directory) => resolve(directory)) }),
    ...(proxy === undefined ? {} : { proxy: { url: proxy.url, fallback: false } }),
  };
  return { type: "registry", config };
}

interface Daemon extends AsyncDisposable {
  process: ChildProcess;
  lastWords(): string;
}

/** A daemon that serves the image, or none at all: nothing is left when it does not come up. */
async function startDaemon(
  program: string,
  mountPath: string,
  paths: { bootstrap: string; config: string; socket: string },
): Promise<Daemon> {
  const args = [
    "--config",
    paths.config,
    "--mountpoint",
    mountPath,
    "--bootstrap",
    paths.bootstrap,
    "--apisock",
    paths.socket,
    "--log-level",
    "warn",
  ];
  // A group of its own: Ctrl-C at the terminal must not take the file system away under its readers before it is unmounted.
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"], detached: true });
  let words = "";
  child.stderr!.on("data", (part: Buffer) => {
    words = (words + part.toString()).slice(-4096);
  });
  const lastWords = () => words.trim().split("\n").at(-1) ?? "";
  const ended = new Promise<string>((done) => {
    child.once("error", (error) => done(error.message));
    child.once("exit", (code, killed) => done(`it ended with ${killed ?? code}: ${lastWords()}`));
  });
  const daemon: Daemon = {
    process: child,
    lastWords,
    async [Symbol.asyncDispose]() {
      if (findMount(mountPath) !== undefined) umount2(mountPath, MNT_DETACH);
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGTERM");
      await Promise.race([ended, pause(nydusdStopDeadlineMs, undefined, { ref: false })]);
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    },
  };
  const until = performance.now() + nydusdStartDeadlineMs;
  for (;;) {
    const failure = await Promise.race([ended, pause(50, undefined)]);
    if (failure === undefined && (await isRunning(paths.socket))) return daemon;
    if (failure === undefined && performance.now() < until) continue;
    await daemon[Symbol.asyncDispose]();
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `${program} does not serve the image: ${failure ?? `not ready after ${nydusdStartDeadlineMs} ms`}`,
    );
  }
}

async function isRunning(socketPath: string): Promise<boolean> {
  return await new Promise((done) => {
    const asked = request({ socketPath, path: "/api/v1/daemon", timeout: 1000 }, (answer) => {
      const parts: Buffer[] = [];
      answer.on("data", (part: Buffer) => parts.push(part));
      answer.on("end", () => done(/"state":\s*"RUNNING"/.test(Buffer.concat(parts).toString())));
      answer.on("error", () => done(false));
    });
    asked.on("error", () => done(false));
    asked.on("timeout", () => asked.destroy());
    asked.end();
  });
}

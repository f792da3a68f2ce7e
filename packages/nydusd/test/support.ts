import { existsSync, readFileSync } from "node:fs";
import { cp, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { NydusdClient } from "@nydus-ts/nydus-api";
import { type GoldenCase, goldenCase, type Program, type Workspace } from "@nydus-ts/testkit";

const repository = join(import.meta.dirname, "../../..");

export interface Nydusd {
  readonly program: Program;
  readonly client: NydusdClient;
  readonly mountpoint: string;
  readonly socket: string;
  log(): string;
}

/** Starts the real daemon from source in a workspace and waits until its API answers. */
export async function startNydusd(
  workspace: Workspace,
  args: readonly string[],
  options: { readonly name?: string; readonly mountpoint?: string; readonly env?: Record<string, string> } = {},
): Promise<Nydusd> {
  const name = options.name ?? "nydusd";
  const mountpoint = options.mountpoint ?? workspace.path(`${name}.mnt`);
  if (options.mountpoint === undefined) await mkdir(mountpoint, { recursive: true });
  const mount = args[0] === "singleton" ? [] : ["--mountpoint", mountpoint];
  const socket = workspace.path(`${name}.sock`);
  const logFile = workspace.path(`${name}.log`);
  const program = workspace.start({
    command: join(repository, "bin/node"),
    args: [join(repository, "packages/nydusd/src/bin.ts"), ...args, ...mount, "--apisock", socket],
    logFile,
    env: options.env ?? {},
  });
  const client = new NydusdClient(socket, { timeoutMs: 30_000 });
  const nydusd = { program, client, mountpoint, socket, log: () => readFileSync(logFile, "utf8") };
  const until = Date.now() + 20_000;
  for (;;) {
    if (existsSync(socket) && (await client.info().catch(() => undefined)) !== undefined) return nydusd;
    if (!program.running) throw new Error(`nydusd ended while starting:\n${program.tail()}`);
    if (Date.now() > until) throw new Error(`nydusd did not answer:\n${program.tail()}`);
    await sleep(20);
  }
}

/** Runs the daemon to its end: for command lines and configurations that are refused. */
export async function endOfNydusd(workspace: Workspace, args: readonly string[]): Promise<{ exitCode: number; output: string }> {
  const logFile = workspace.path(`end-${Math.random()}.log`);
  const bin = join(repository, "packages/nydusd/src/bin.ts");
  const program = workspace.start({ command: join(repository, "bin/node"), args: [bin, ...args], logFile });
  const exitCode = await program.exited;
  return { exitCode, output: readFileSync(logFile, "utf8") };
}

/** A golden case with its blobs copied to where the daemon may write. */
export async function copyCase(
  workspace: Workspace,
  name: string,
): Promise<{ golden: GoldenCase; bootstrap: string; blobs: string; cache: string }> {
  const golden = goldenCase(name);
  const blobs = workspace.path(name, "blobs");
  const cache = workspace.path(name, "cache");
  const bootstrap = workspace.path(name, "image.boot");
  await mkdir(cache, { recursive: true });
  if (golden.blobDirectory !== undefined) await cp(golden.blobDirectory, blobs, { recursive: true });
  if (golden.bootstrapFile !== undefined) await cp(golden.bootstrapFile, bootstrap);
  return { golden, bootstrap, blobs, cache };
}

export function localConfig(blobs: string, cache: string, changes: Record<string, unknown> = {}): string {
  return JSON.stringify({
    device: {
      backend: { type: "localfs", config: { dir: blobs } },
      cache: { type: "blobcache", config: { work_dir: cache } },
    },
    mode: "direct",
    ...changes,
  });
}

export function registryConfig(
  host: string,
  cache: string,
  changes: { backend?: Record<string, unknown>; rafs?: Record<string, unknown>; repo?: string } = {},
): string {
  return JSON.stringify({
    device: {
      backend: {
        type: "registry",
        config: { scheme: "http", host, repo: changes.repo ?? "app", timeout: 2, connect_timeout: 2, ...changes.backend },
      },
      cache: { type: "blobcache", config: { work_dir: cache } },
    },
    mode: "direct",
    ...changes.rafs,
  });
}

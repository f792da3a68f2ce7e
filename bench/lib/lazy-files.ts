import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { NydusdClient } from "@nydus-ts/nydus-api";
import { type Network, ownBinaries, run, until, type Workspace } from "@nydus-ts/testkit";

/** An image of files of random bytes, each a chunk of its own: every first read of a file is one request. */
export interface LazyFiles {
  readonly bootstrap: string;
  readonly blobFile: string;
  readonly files: readonly string[];
}

export async function makeLazyFiles(
  workspace: Workspace,
  name: string,
  options: { readonly files: number; readonly fileBytes: number },
): Promise<LazyFiles> {
  const tree = workspace.path(name, "tree");
  const blobs = workspace.path(name, "blobs");
  for (const folder of [tree, blobs]) mkdirSync(folder, { recursive: true });
  const files = Array.from({ length: options.files }, (_, index) => `file-${String(index).padStart(5, "0")}`);
  for (const file of files) writeFileSync(join(tree, file), randomBytes(options.fileBytes));
  const bootstrap = workspace.path(name, "bootstrap");
  const args = ["create", "--type", "directory", "--fs-version", "6", "--compressor", "none", "-B", bootstrap, "-D", blobs, tree];
  await run(join(ownBinaries, "nydus-image"), args);
  const [blob] = readdirSync(blobs);
  return { bootstrap, blobFile: join(blobs, blob as string), files };
}

export interface LazyDaemon {
  readonly client: NydusdClient;
  readonly mountpoint: string;
  /** Mounts an image with an empty cache of its own. */
  mount(at: string, image: LazyFiles, backend: Record<string, unknown>, options?: { readonly prefetch: boolean }): Promise<void>;
  /** Milliseconds of each file's first read, one after the other. */
  read(at: string, files: readonly string[]): Promise<number[]>;
}

/** The daemon as it is shipped, without an image; the workspace ends it. */
export async function startLazyDaemon(workspace: Workspace, network?: Network): Promise<LazyDaemon> {
  const mountpoint = workspace.path("mnt");
  const socket = workspace.path("api.sock");
  mkdirSync(mountpoint, { recursive: true });
  const logFile = workspace.path("nydusd.log");
  const args = ["fuse", "--mountpoint", mountpoint, "--apisock", socket];
  const program = workspace.start({ command: join(ownBinaries, "nydusd"), args, logFile, network });
  const client = new NydusdClient(socket, { timeoutMs: 60_000 });
  await until("nydusd to answer", async () => {
    if (!program.running) throw new Error(readFileSync(logFile, "utf8"));
    return (existsSync(socket) && (await client.info().catch(() => undefined)) !== undefined) || undefined;
  });
  return {
    client,
    mountpoint,
    async mount(at, image, backend, options = { prefetch: false }) {
      const cache = workspace.path("caches", at);
      mkdirSync(cache, { recursive: true });
      const config = {
        device: {
          backend: { type: "registry", config: { scheme: "http", repo: "app", timeout: 20, connect_timeout: 5, ...backend } },
          cache: { type: "blobcache", config: { work_dir: cache } },
        },
        mode: "direct",
        // Reads in order would fetch ahead of themselves.
        amplify_io: 0,
        fs_prefetch: { enable: options.prefetch, prefetch_all: options.prefetch },
      };
      await client.mount(at, { source: image.bootstrap, fs_type: "rafs", config: JSON.stringify(config) });
    },
    async read(at, files) {
      const latencies: number[] = [];
      for (const file of files) {
        const begin = performance.now();
        await readFile(join(mountpoint, at, file));
        latencies.push(performance.now() - begin);
      }
      return latencies;
    },
  };
}

/** A value below which a share of all lies; `share` 0.5 is the median. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] as number;
}

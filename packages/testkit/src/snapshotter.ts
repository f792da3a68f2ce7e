import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { containerdSocket } from "./containerd.ts";
import type { Network } from "./network.ts";
import { mustRun, type Program, until } from "./process.ts";
import { processesOf, type Workspace } from "./workspace.ts";

/** Folder of the launchers containerd-nydus-grpc, nydusd, nydusctl, nydus-image: the repository's own (`npm run build` makes them), or NYDUS_TEST_BIN. */
export const ownBinaries = process.env["NYDUS_TEST_BIN"] ?? join(import.meta.dirname, "../../../bin");

export interface SnapshotterOptions {
  /** Folder of containerd-nydus-grpc, nydusd and nydus-image: ours, or the original's. */
  readonly binaries?: string;
  readonly network?: Network | undefined;
  readonly daemonMode?: "shared" | "dedicated";
  /** Merged over the nydusd template, top-level keys replaced. */
  readonly nydusdConfig?: Readonly<Record<string, unknown>>;
  /** Socket of the containerd that is asked for image names; default: that of the workspace. */
  readonly containerd?: string;
  /** Appended to config.toml. */
  readonly toml?: string;
  /** Folder in the workspace; default "nydus". */
  readonly name?: string;
  readonly env?: Readonly<Record<string, string>>;
}

export interface Snapshotter {
  readonly socket: string;
  /** Its `root`: snapshots, cache, sockets of its daemons. */
  readonly root: string;
  readonly systemSocket: string;
  readonly program: Program;
  readonly logFile: string;
  /** Running nydusd processes of this snapshotter. */
  daemons(): { readonly pid: number; readonly command: string }[];
  /** Ends the snapshotter alone, its daemons go on, and starts it again. */
  restart(signal?: NodeJS.Signals): Promise<void>;
  /** Ends it and its daemons. */
  stop(): Promise<void>;
}

/** Starts containerd-nydus-grpc with everything it writes in the workspace, and waits until its socket accepts. Needs root. */
export async function startSnapshotter(workspace: Workspace, options: SnapshotterOptions = {}): Promise<Snapshotter> {
  const binaries = options.binaries ?? ownBinaries;
  if (!existsSync(`${binaries}/containerd-nydus-grpc`)) throw new Error(`${binaries}/containerd-nydus-grpc is missing; run: npm run build`);
  const directory = workspace.path(options.name ?? "nydus");
  const root = `${directory}/root`;
  mkdirSync(root, { recursive: true });
  const socket = `${directory}/grpc.sock`;
  const systemSocket = `${directory}/system.sock`;
  const nydusdConfig = `${directory}/nydusd.json`;
  writeFileSync(nydusdConfig, JSON.stringify({ ...template, ...options.nydusdConfig }, undefined, 2));
  const config = `${directory}/config.toml`;
  writeFileSync(
    config,
    `version = 1
root = "${root}"
address = "${socket}"
daemon_mode = "${options.daemonMode ?? "shared"}"

[system]
enable = true
address = "${systemSocket}"

[daemon]
nydusd_path = "${binaries}/nydusd"
nydusimage_path = "${binaries}/nydus-image"
nydusd_config = "${nydusdConfig}"
fs_driver = "fusedev"
recover_policy = "failover"
threads_number = 4

[containerd]
address = "${options.containerd ?? containerdSocket(workspace)}"

[log]
log_to_stdout = true
level = "info"

${options.toml ?? ""}
`,
  );
  const logFile = `${directory}/snapshotter.log`;
  const start = async (): Promise<Program> => {
    const program = workspace.start({
      command: `${binaries}/containerd-nydus-grpc`,
      args: ["--config", config],
      logFile,
      network: options.network,
      env: { HOME: directory, ...options.env },
    });
    await until(`the snapshotter's socket ${socket} (log: ${logFile})`, async () => {
      mustRun(program, "the snapshotter");
      return await accepts(socket);
    });
    return program;
  };
  let program = await start();
  const daemons = () => processesOf(root).filter((one) => /nydusd/.test(one.command) && !one.command.includes("containerd-nydus-grpc"));
  const stop = async (): Promise<void> => {
    await program.stop();
    for (const { pid } of daemons()) {
      try {
        process.kill(pid, "SIGTERM");
      } catch {
        // it has ended meanwhile
      }
    }
    await until("the snapshotter's daemons to end", () => daemons().length === 0 || undefined, 5_000).catch(() => {});
  };
  workspace.defer(stop);
  return {
    socket,
    root,
    systemSocket,
    get program() {
      return program;
    },
    logFile,
    daemons,
    restart: async (signal = "SIGTERM") => {
      program.kill(signal);
      await program.exited;
      program = await start();
    },
    stop,
  };
}

/** As the shipped template (snapshotter.md, section 17), but nothing is prefetched unless the image says so: tests count requests. */
const template = {
  device: {
    backend: { type: "registry", config: { timeout: 5, connect_timeout: 5, retry_limit: 2 } },
    cache: { type: "blobcache", config: {} },
  },
  mode: "direct",
  digest_validate: false,
  enable_xattr: true,
  fs_prefetch: { enable: true, threads_count: 8, merging_size: 1048576, prefetch_all: false },
};

function accepts(socket: string): Promise<true | undefined> {
  return new Promise((resolve) => {
    const connection = createConnection(socket);
    connection.on("connect", () => {
      connection.destroy();
      resolve(true);
    });
    connection.on("error", () => resolve(undefined));
  });
}

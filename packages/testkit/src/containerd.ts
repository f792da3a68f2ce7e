import { mkdirSync, writeFileSync } from "node:fs";
import { CriClient } from "./cri.ts";
import type { Network } from "./network.ts";
import { mustRun, type Program, type RunResult, run, until } from "./process.ts";
import { processesOf, type Workspace } from "./workspace.ts";

export interface ContainerdOptions {
  /** Image of pod sandboxes, "127.0.0.1:PORT/pause:1": it must be in a registry that containerd reaches. */
  readonly sandboxImage: string;
  /** Our snapshotter: its socket, and its root for the file system statistics of CRI. Without it only containerd's own are there. */
  readonly nydus?: { readonly socket: string; readonly root: string } | undefined;
  /** Snapshotter that CRI uses; default "nydus" when there is one, else "overlayfs". */
  readonly snapshotter?: string;
  readonly network?: Network | undefined;
  /** Folder of another containerd's binaries (containerd, ctr, containerd-shim-runc-v2); default: those in PATH. */
  readonly binaries?: string;
  /** Folder in the workspace; default "containerd". */
  readonly name?: string;
  /** Folder of hosts.toml files that CRI pulls by (`config_path`). */
  readonly hostsDirectory?: string;
  /** 2 for containerd 1.x, 3 for 2.x. Default 2. */
  readonly configVersion?: 2 | 3;
}

export interface Containerd {
  readonly socket: string;
  readonly program: Program;
  readonly cri: CriClient;
  readonly configFile: string;
  /** `ctr` against this containerd; namespace "default" unless `namespace` says otherwise. */
  ctr(args: readonly string[], options?: CtrOptions): Promise<RunResult>;
  /** Ends containers, containerd and shims. */
  stop(): Promise<void>;
  /** Starts it again over the same state, containers having gone on. */
  restart(): Promise<void>;
}

export interface CtrOptions {
  readonly namespace?: string;
  readonly deadlineMs?: number;
  readonly check?: boolean;
}

/** Where a containerd of the workspace listens, before and after it is started. */
export function containerdSocket(workspace: Workspace, name = "containerd"): string {
  return workspace.path(name, "containerd.sock");
}

/** Starts a containerd with root, state and socket in the workspace, CRI included; nothing of the machine's own is touched. Needs root. */
export async function startContainerd(workspace: Workspace, options: ContainerdOptions): Promise<Containerd> {
  const directory = workspace.path(options.name ?? "containerd");
  mkdirSync(`${directory}/cni`, { recursive: true });
  const socket = containerdSocket(workspace, options.name);
  const configFile = `${directory}/config.toml`;
  writeFileSync(configFile, configText(directory, options));
  const binary = (name: string): string => (options.binaries === undefined ? name : `${options.binaries}/${name}`);
  const start = (): Program =>
    workspace.start({
      command: binary("containerd"),
      args: ["--config", configFile],
      logFile: `${directory}/containerd.log`,
      network: options.network,
      env: options.binaries === undefined ? {} : { PATH: `${options.binaries}:${process.env["PATH"]}` },
    });
  let program = start();
  const cri = new CriClient(socket);
  const ctr = (args: readonly string[], { namespace = "default", ...rest }: CtrOptions = {}): Promise<RunResult> =>
    run(binary("ctr"), ["--address", socket, "--namespace", namespace, ...args], { network: options.network, ...rest });
  const ready = (): Promise<unknown> =>
    until(`containerd at ${socket}`, async () => {
      mustRun(program, "containerd");
      return await cri.version();
    });
  const stop = async (): Promise<void> => {
    if (program.running) await endContainers(ctr, cri);
    cri.close();
    await program.stop();
    // Shims outlive containerd by design; those of this one name its folder.
    for (const shim of processesOf(directory)) process.kill(shim.pid, "SIGKILL");
  };
  workspace.defer(stop);
  await ready();
  const restart = async (): Promise<void> => {
    await program.stop();
    program = start();
    await ready();
  };
  return {
    socket,
    get program() {
      return program;
    },
    cri,
    configFile,
    ctr,
    stop,
    restart,
  };
}

async function endContainers(ctr: Containerd["ctr"], cri: CriClient): Promise<void> {
  for (const sandbox of await cri.listPodSandboxes().catch(() => [])) {
    await cri.stopPodSandbox(sandbox).catch(() => {});
    await cri.removePodSandbox(sandbox).catch(() => {});
  }
  const namespaces = await ctr(["namespaces", "ls", "-q"], { check: false });
  for (const namespace of namespaces.stdout.split("\n").filter((name) => name !== "")) {
    const tasks = await ctr(["tasks", "ls", "-q"], { namespace, check: false });
    for (const task of tasks.stdout.split("\n").filter((name) => name !== "")) {
      await ctr(["tasks", "rm", "-f", task], { namespace, check: false });
    }
  }
}

function configText(directory: string, options: ContainerdOptions): string {
  const snapshotter = options.snapshotter ?? (options.nydus === undefined ? "overlayfs" : "nydus");
  const proxy =
    options.nydus === undefined
      ? ""
      : `
[proxy_plugins.nydus]
  type = "snapshot"
  address = "${options.nydus.socket}"
  [proxy_plugins.nydus.exports]
    root = "${options.nydus.root}"
    enable_remote_snapshot_annotations = "true"
`;
  const registry = (plugin: string): string =>
    options.hostsDirectory === undefined ? "" : `[plugins.${plugin}.registry]\n  config_path = "${options.hostsDirectory}"\n`;
  const head = `
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri"]
[grpc]
  address = "${directory}/containerd.sock"
[ttrpc]
  address = "${directory}/containerd.sock.ttrpc"
${proxy}`;
  if ((options.configVersion ?? 2) === 3) {
    const architecture = process.arch === "arm64" ? "arm64" : "amd64";
    const unpack = ["overlayfs", ...(options.nydus === undefined ? [] : ["nydus"])].map(
      (name) => `[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux/${architecture}"
  snapshotter = "${name}"
`,
    );
    return `version = 3
${head}
${unpack.join("")}
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "${snapshotter}"
  disable_snapshot_annotations = false
  discard_unpacked_layers = false
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "${options.sandboxImage}"
${registry("'io.containerd.cri.v1.images'")}[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_cgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dir = "${directory}/cni"
    conf_dir = "${directory}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`;
  }
  return `version = 2
${head}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${options.sandboxImage}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${directory}/cni"
    conf_dir = "${directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${snapshotter}"
    disable_snapshot_annotations = false
    discard_unpacked_layers = false
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
${registry('"io.containerd.grpc.v1.cri"')}`;
}

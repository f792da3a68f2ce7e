import { spawn } from "node:child_process";
import { createNetwork, type NetworkOptions, startContainerd, startRegistry, startSnapshotter, Workspace } from "@nydus-ts/testkit";

/** One way to run an image. */
export interface Contender {
  readonly name: string;
  /** Repository and tag in the registry. */
  readonly image: string;
  /** Folder of the snapshotter's and daemon's binaries; undefined: containerd's overlayfs. */
  readonly binaries?: string;
  readonly nydusdConfig?: Readonly<Record<string, unknown>>;
}

export interface ColdStart {
  readonly pullSeconds: number;
  /** From the begin of the pull. */
  readonly firstOutputSeconds: number;
  /** Bodies that the registry sent until the container had ended. */
  readonly bytes: number;
  readonly requests: number;
}

export interface ColdStartOptions {
  readonly link: NetworkOptions & { readonly roundTripMs?: number };
  /** Storage folder of a registry that holds the images, and a port nobody uses. */
  readonly storage: string;
  readonly port: number;
  readonly command: readonly string[];
  readonly expect: string;
  /** Image of pod sandboxes, only named in the configuration. */
  readonly sandboxImage: string;
}

/** Pulls through CRI and runs once, everything fresh: registry, containerd, snapshotter, daemon, caches; all in one shaped network. */
export async function coldStart(contender: Contender, options: ColdStartOptions): Promise<ColdStart> {
  await using workspace = new Workspace("nydus-cold");
  const network = await createNetwork(workspace);
  const registry = await startRegistry(workspace, {
    network,
    port: options.port,
    storage: options.storage,
    roundTripMs: options.link.roundTripMs,
  });
  const nydus =
    contender.binaries === undefined
      ? undefined
      : await startSnapshotter(workspace, {
          binaries: contender.binaries,
          network,
          ...(contender.nydusdConfig === undefined ? {} : { nydusdConfig: contender.nydusdConfig }),
        });
  const containerd = await startContainerd(workspace, { sandboxImage: options.sandboxImage, network, nydus });
  const image = `${registry.host}/${contender.image}`;
  const snapshotter = nydus === undefined ? "overlayfs" : "nydus";
  const before = registry.requests().length;
  await network.shape(options.link);
  try {
    const begin = performance.now();
    await containerd.cri.pullImage(image, { deadlineMs: 600_000 });
    const pulled = performance.now();
    const ctr = ["ctr", "--address", containerd.socket, "--namespace", "k8s.io", "run", "--rm", "--net-host", "--snapshotter", snapshotter];
    const [command, ...args] = network.enter(ctr[0] as string, [...ctr.slice(1), image, "cold", ...options.command]);
    const output = await firstOutput(command as string, args, options.expect);
    const requests = registry.requests().slice(before);
    return {
      pullSeconds: (pulled - begin) / 1000,
      firstOutputSeconds: (output - begin) / 1000,
      bytes: requests.reduce((sum, request) => sum + (request.method === "GET" ? request.bytes : 0), 0),
      requests: requests.length,
    };
  } finally {
    await network.shape({});
  }
}

/** The moment at which the command's output holds the text; waits for its end and throws when it fails. */
function firstOutput(command: string, args: readonly string[], text: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let at = 0;
    let output = "";
    let errors = "";
    child.stdout.on("data", (part: Buffer) => {
      output += part.toString();
      if (at === 0 && output.includes(text)) at = performance.now();
    });
    child.stderr.on("data", (part: Buffer) => {
      errors += part.toString();
    });
    child.on("error", reject);
    child.on("close", (code) => (code === 0 && at > 0 ? resolve(at) : reject(new Error(`${args.join(" ")}: ${code}\n${errors}${output}`))));
  });
}

import {
  createNetwork,
  firstOutputAt,
  type NetworkOptions,
  startContainerd,
  startRegistry,
  startSnapshotter,
  Workspace,
} from "@nydus-ts/testkit";

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
    const ctr = ["--address", containerd.socket, "--namespace", "k8s.io", "run", "--rm", "--net-host", "--snapshotter", snapshotter];
    const output = await firstOutputAt("ctr", [...ctr, image, "cold", ...options.command], options.expect, { network });
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

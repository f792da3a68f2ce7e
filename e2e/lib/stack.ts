import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  busyboxImage,
  type Containerd,
  type ContainerdOptions,
  type CriAuth,
  mountsUnder,
  ownBinaries,
  processesOf,
  pushLayout,
  type Registry,
  run,
  type Snapshotter,
  type SnapshotterOptions,
  startContainerd,
  startRegistry,
  startSnapshotter,
  until,
  Workspace,
} from "@nydus-ts/testkit";

/** containerd with our snapshotter and a real registry, all in one workspace. */
export interface Stack extends AsyncDisposable {
  readonly workspace: Workspace;
  readonly registry: Registry;
  readonly snapshotter: Snapshotter;
  readonly containerd: Containerd;
}

export interface StackOptions {
  readonly workspace?: Workspace;
  readonly snapshotter?: SnapshotterOptions;
  readonly containerd?: Partial<ContainerdOptions>;
}

export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const workspace = options.workspace ?? new Workspace("nydus-e2e");
  try {
    const registry = await startRegistry(workspace);
    await pushLayout(await busyboxImage(workspace.path("pause")), `${registry.host}/pause:1`);
    const snapshotter = await startSnapshotter(workspace, options.snapshotter);
    const containerd = await startContainerd(workspace, {
      sandboxImage: `${registry.host}/pause:1`,
      nydus: snapshotter,
      ...options.containerd,
    });
    return { workspace, registry, snapshotter, containerd, [Symbol.asyncDispose]: () => workspace[Symbol.asyncDispose]() };
  } catch (error) {
    await workspace[Symbol.asyncDispose]();
    throw error;
  }
}

/** Files of the test image: some small ones, some of several chunks that do not compress. */
export function imageFiles(): Record<string, Uint8Array> {
  const files: Record<string, Uint8Array> = { "data/big": randomBytes(5_000_000), "data/bigger": randomBytes(9_000_001) };
  for (let i = 0; i < 40; i++) files[`data/small/${i}`] = randomBytes(100 + 997 * i);
  return files;
}

/** Pushes busybox with these files as `REPOSITORY:oci`. */
export async function pushApp(stack: Stack, repository: string, files: Readonly<Record<string, Uint8Array>>): Promise<string> {
  const reference = `${stack.registry.host}/${repository}:oci`;
  await pushLayout(await busyboxImage(stack.workspace.path(`image-${repository}`), files), reference);
  return reference;
}

/** Converts an image of the registry with nydus-image; `TAG:oci` becomes `TAG:nydus`. */
export async function convert(reference: string, options: readonly string[] = []): Promise<string> {
  const target = reference.replace(/:oci$/, ":nydus");
  await run(join(ownBinaries, "nydus-image"), ["convert", "--source", reference, "--target", target, ...options]);
  return target;
}

/** Pulls through CRI and starts a container that sleeps in a pod of its own. */
export async function startPod(
  stack: Pick<Stack, "containerd" | "workspace">,
  image: string,
  options: { name: string; command?: readonly string[]; mounts?: Readonly<Record<string, string>>; auth?: CriAuth },
): Promise<{ podId: string; containerId: string; logFile: string; remove(): Promise<void> }> {
  const { cri } = stack.containerd;
  const pod = { name: options.name, logDirectory: stack.workspace.path("logs", options.name) };
  await cri.pullImage(image, options.auth === undefined ? {} : { auth: options.auth });
  const podId = await cri.runPodSandbox(pod);
  const containerId = await cri.createContainer(podId, pod, {
    name: options.name,
    image,
    command: options.command ?? ["/bin/sleep", "10000"],
    logPath: "out.log",
    ...(options.mounts === undefined ? {} : { mounts: options.mounts }),
  });
  await cri.startContainer(containerId);
  return {
    podId,
    containerId,
    logFile: join(pod.logDirectory, "out.log"),
    remove: async () => {
      await cri.stopPodSandbox(podId).catch((error: Error) => {
        // containerd 1.6 fails a stop that meets the exit of the pod's container: its kill shares the connection to the shim that the handling
        // of the exit closes (2 of 250 stops on a busy machine). Kubelet tries again, and so does this.
        if (!error.message.includes("ttrpc: closed")) throw error;
        return cri.stopPodSandbox(podId);
      });
      await cri.removePodSandbox(podId);
    },
  };
}

/** The container's standard output as CRI logged it: `time stream F text`. */
export function loggedOutput(logFile: string): string {
  if (!existsSync(logFile)) return "";
  return readFileSync(logFile, "utf8")
    .split("\n")
    .map((line) => /^\S+ stdout [FP] (.*)$/.exec(line)?.[1])
    .filter((text) => text !== undefined)
    .join("\n");
}

/** Mounts of the daemons: FUSE below the snapshotter's root. */
export function fuseMounts(stack: Stack): string[] {
  const points = new Set(mountsUnder(stack.snapshotter.root));
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => / - fuse/.test(line))
    .map((line) => line.split(" ")[4] as string)
    .filter((point) => points.has(point));
}

/** Waits until nothing of the stack's images is left: no mount, daemon, socket of a daemon or cache file. */
export async function expectNothingLeft(stack: Stack): Promise<void> {
  const left = async (): Promise<string[]> => {
    const files = await run("find", [stack.snapshotter.root, "(", "-type", "s", "-o", "-path", "*/cache/*", "-type", "f", ")"]);
    return [
      ...mountsUnder(stack.snapshotter.root).map((point) => `mount ${point}`),
      ...processesOf(stack.snapshotter.root)
        .filter((one) => one.command.includes("nydusd"))
        .map((one) => `process ${one.command}`),
      ...files.stdout
        .split("\n")
        .filter((name) => name !== "")
        .map((name) => `file ${name}`),
    ];
  };
  let last: string[] = [];
  await until("all traces of removed images to go", async () => {
    last = await left();
    return last.length === 0 || undefined;
  }).catch(() => {
    throw new Error(`still there after all images were removed:\n${last.join("\n")}`);
  });
}

/** A killed snapshotter leaves a dead socket; containerd that dialled it refuses calls for up to 3 s (spec/containerd.md 7). */
export async function untilConnected(stack: Stack): Promise<void> {
  await until("containerd to reach the snapshotter", async () => {
    const { code } = await stack.containerd.ctr(["snapshots", "--snapshotter", "nydus", "ls"], { namespace: "k8s.io", check: false });
    return code === 0 || undefined;
  });
}

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ImageManifest } from "@nydus-ts/registry-client";
import {
  busyboxImage,
  type Containerd,
  debianPythonImage,
  firstOutputAt,
  ownBinaries,
  pushLayout,
  type Registry,
  type RegistryRequest,
  type Snapshotter,
  startContainerd,
  startRegistry,
  startSnapshotter,
  Workspace,
} from "@nydus-ts/testkit";
import { buildBundles, executables } from "../build/bundles.ts";
import { cacheDirectory, quickstartDirectory } from "./claim.ts";
import { copyImage, megabytes } from "./copy-image.ts";
import { Steps } from "./steps.ts";

export interface Demonstration {
  /** Ends with the table printed and everything cleaned up (or kept). */
  readonly finished: Promise<void>;
  /** Ends everything now; `finished` then fails. */
  dispose(): Promise<void>;
}

interface Options {
  readonly image: string | undefined;
  readonly keep: boolean;
  readonly command: readonly string[];
}

interface Figures {
  readonly name: string;
  readonly imageBytes: number;
  readonly fetchedBytes: number;
  readonly requests: number;
  readonly pullSeconds: number;
  readonly firstOutputSeconds: number;
}

export function demonstrate(options: Options): Demonstration {
  const workspace = new Workspace("quickstart", { directory: quickstartDirectory, keep: options.keep });
  const finished = perform(workspace, options).then(
    async () => {
      if (!options.keep) await workspace[Symbol.asyncDispose]();
    },
    async (error: unknown) => {
      await workspace[Symbol.asyncDispose]().catch(() => {});
      throw error;
    },
  );
  return { finished, dispose: () => workspace[Symbol.asyncDispose]().catch(() => {}) };
}

async function perform(workspace: Workspace, options: Options): Promise<void> {
  const steps = new Steps(9);
  await steps.run("Building the executables", async (note) => {
    if (process.env["NYDUS_TEST_BIN"] === undefined) await buildBundles();
    note(Object.keys(executables).join(", "));
  });

  const source = await steps.run("Getting the image", async (note) => {
    if (options.image !== undefined) {
      note(options.image);
      return existsSync(join(options.image, "oci-layout")) ? `oci:${options.image}` : options.image;
    }
    const layout = await debianPythonImage(cacheDirectory, note);
    note(`Debian with Python, in ${layout}`);
    return `oci:${layout}`;
  });

  const registry = await steps.run("Starting a registry", async (note) => {
    const started = await startRegistry(workspace);
    await pushLayout(await busyboxImage(workspace.path("pause")), `${started.host}/pause:1`);
    note(started.host);
    return started;
  });
  const ociImage = `${registry.host}/demo:oci`;
  const nydusImage = `${registry.host}/demo:nydus`;
  const ociManifest = await steps.run("Pushing the image to it", (note) => copyImage(source, ociImage, note));

  await steps.run("Converting it with nydus-image convert, pushing the result", () => convert(ociImage, nydusImage), { ownOutput: true });

  const [snapshotter, containerd] = await steps.run("Starting containerd-nydus-grpc and containerd", async (note) => {
    const nydus = await startSnapshotter(workspace);
    const started = await startContainerd(workspace, { sandboxImage: `${registry.host}/pause:1`, nydus });
    const plugins = await started.ctr(["plugins", "ls"]);
    const line = plugins.stdout.split("\n").find((one) => /\bnydus\b/.test(one));
    note(`ctr plugins ls: ${line?.trim().replace(/\s+/g, " ") ?? "no nydus"}`);
    return [nydus, started] as const;
  });

  const command = options.command.length > 0 ? options.command : options.image === undefined ? ["python3", "-c", 'print("hello")'] : [];
  const overlayfs = await steps.run("Running it through plain overlayfs", async (note) => {
    const figures = await measure(containerd, registry, {
      name: "overlayfs",
      image: ociImage,
      command,
      imageBytes: layerBytes(ociManifest),
    });
    note(`first output after ${figures.firstOutputSeconds.toFixed(2)} s`);
    return figures;
  });

  const nydusManifest = await readManifest(nydusImage);
  const nydus = await steps.run("Running it through nydus, its chunks fetched on demand", async (note) => {
    const figures = await measure(containerd, registry, {
      name: "nydus",
      image: nydusImage,
      command,
      imageBytes: layerBytes(nydusManifest),
    });
    note(`first output after ${figures.firstOutputSeconds.toFixed(2)} s`);
    return figures;
  });

  if (options.keep) {
    await steps.run("Leaving everything running", async () => {});
    print([overlayfs, nydus]);
    process.stdout.write(howToLook(containerd, snapshotter, nydusImage));
  } else {
    await steps.run("Cleaning up", () => workspace[Symbol.asyncDispose]());
    print([overlayfs, nydus]);
  }
}

/** Shows nydus-image's own progress bars. */
function convert(source: string, target: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const args = ["convert", "--source", source, "--target", target];
    const child = spawn(join(ownBinaries, "nydus-image"), args, { stdio: ["ignore", process.stderr, process.stderr] });
    const end = (): boolean => child.kill("SIGTERM");
    process.on("exit", end);
    child.on("error", reject);
    child.on("close", (code) => {
      process.off("exit", end);
      if (code === 0) resolve();
      else reject(new Error(`nydus-image ${args.join(" ")} ended with ${code}`));
    });
  });
}

async function measure(
  containerd: Containerd,
  registry: Registry,
  what: { name: string; image: string; command: readonly string[]; imageBytes: number },
): Promise<Figures> {
  const before = registry.requests().length;
  const begin = performance.now();
  // CRI hands the snapshotter the image's name; plain ctr of containerd 1.6 does not.
  if (what.name === "nydus") await containerd.cri.pullImage(what.image);
  else await containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "overlayfs", what.image], { namespace: "k8s.io" });
  const pulled = performance.now();
  const ctr = ["--address", containerd.socket, "--namespace", "k8s.io", "run", "--rm", "--net-host", "--snapshotter", what.name];
  const output = await firstOutputAt("ctr", [...ctr, what.image, `demo-${what.name}`, ...what.command], "", { deadlineMs: 300_000 });
  const answered = registry.requests().slice(before);
  return {
    name: what.name,
    imageBytes: what.imageBytes,
    fetchedBytes: answered.reduce((sum: number, one: RegistryRequest) => sum + (one.method === "GET" ? one.bytes : 0), 0),
    requests: answered.length,
    pullSeconds: (pulled - begin) / 1000,
    firstOutputSeconds: (output - begin) / 1000,
  };
}

const layerBytes = (manifest: ImageManifest): number => manifest.layers.reduce((sum, layer) => sum + layer.size, 0);

async function readManifest(reference: string): Promise<ImageManifest> {
  const [, host, repository, tag] = /^([^/]+)\/(.+):([^:]+)$/.exec(reference) ?? [];
  const answer = await fetch(`http://${host}/v2/${repository}/manifests/${tag}`, {
    headers: { accept: "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json" },
  });
  return (await answer.json()) as ImageManifest;
}

function print(rows: readonly Figures[]): void {
  const cells = [
    ["", "image MiB", "fetched MiB", "requests", "pull s", "first output s"],
    ...rows.map((row) => [
      row.name,
      megabytes(row.imageBytes),
      megabytes(row.fetchedBytes),
      String(row.requests),
      row.pullSeconds.toFixed(2),
      row.firstOutputSeconds.toFixed(2),
    ]),
  ];
  const widths = (cells[0] as string[]).map((_, column) => Math.max(...cells.map((row) => (row[column] as string).length)));
  const lines = cells.map((row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column] as number) : cell.padStart(widths[column] as number))).join("  "),
  );
  process.stdout.write(`\n${lines.join("\n")}\n`);
}

function howToLook(containerd: Containerd, snapshotter: Snapshotter, image: string): string {
  const daemon = /--apisock[= ](\S+)/.exec(snapshotter.daemons()[0]?.command ?? "")?.[1] ?? `${snapshotter.root}/socket/…/api.sock`;
  const ctr = `ctr --address ${containerd.socket} --namespace k8s.io`;
  return `
Everything is running. To look at it:
  ${ctr} plugins ls
  ${ctr} snapshots --snapshotter nydus ls
  ${ctr} run --rm -t --net-host --snapshotter nydus ${image} shell sh
  bin/nydusctl --sock ${daemon} info
  bin/nydusctl --sock ${daemon} metrics
  grep nydus /proc/mounts
  less ${snapshotter.logFile}
To stop it:
  ./quickstart --stop
`;
}

// Question: how much memory does the shared daemon hold with 1 and with 20 images, mounted and read once?
//   bin/node bench/memory.ts [--images 20] [--keep]
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  busyboxImage,
  mountsUnder,
  ownBinaries,
  pushLayout,
  run,
  startContainerd,
  startRegistry,
  startSnapshotter,
  Workspace,
} from "@nydus-ts/testkit";
import { keepResults, machine, mebibytes, table } from "./lib/machine.ts";

const { values } = parseArgs({ options: { images: { type: "string", default: "20" }, keep: { type: "boolean", default: false } } });
const imageCount = Number(values.images);
const filesPerImage = 2_000;

await using workspace = new Workspace("nydus-memory");
const registry = await startRegistry(workspace);
await pushLayout(await busyboxImage(workspace.path("pause")), `${registry.host}/pause:1`);
const snapshotter = await startSnapshotter(workspace);
const containerd = await startContainerd(workspace, { sandboxImage: `${registry.host}/pause:1`, nydus: snapshotter });

const rows: string[][] = [["images", "resident MiB", "of it anonymous", "files mapped or shared", "descriptors"]];
const results: Record<string, unknown>[] = [];
for (let count = 1; count <= imageCount; count++) {
  const reference = `${registry.host}/image${count}`;
  const files: Record<string, Uint8Array> = {};
  for (let index = 0; index < filesPerImage; index++)
    files[`data/${index % 50}/${index}`] = Buffer.from(`${count} ${index} `.repeat(100 + (index % 300)));
  await pushLayout(await busyboxImage(workspace.path(`image${count}`), files), `${reference}:oci`);
  await run(join(ownBinaries, "nydus-image"), ["convert", "--source", `${reference}:oci`, "--target", `${reference}:nydus`]);
  await containerd.cri.pullImage(`${reference}:nydus`);
  const pod = { name: `memory${count}` };
  const podId = await containerd.cri.runPodSandbox(pod);
  const id = await containerd.cri.createContainer(podId, pod, {
    name: pod.name,
    image: `${reference}:nydus`,
    command: ["/bin/sleep", "100000"],
  });
  await containerd.cri.startContainer(id);
  const read = await containerd.cri.execSync(id, ["/bin/sh", "-c", "find /data -type f -exec cat {} + > /dev/null"], 120);
  if (read.exitCode !== 0) throw new Error(read.stderr);
  if (count === 1 || count === imageCount) {
    const [daemon] = snapshotter.daemons();
    if (daemon === undefined) throw new Error("no daemon is running");
    const one = memoryOf(daemon.pid);
    results.push({ images: count, ...one });
    rows.push([
      String(count),
      mebibytes(one.resident),
      mebibytes(one.anonymous),
      mebibytes(one.resident - one.anonymous),
      String(one.descriptors),
    ]);
  }
}
const mounts = mountsUnder(snapshotter.root).length;
process.stdout.write(`${JSON.stringify(machine())}\n${filesPerImage} files an image, ${mounts} mounts\n\n${table(rows)}\n`);
if (values.keep) keepResults(import.meta.filename, results);

function memoryOf(pid: number): { resident: number; anonymous: number; descriptors: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0) * 1024;
  const size = /^FDSize:\s+(\d+)/m.exec(status)?.[1];
  return { resident: field("VmRSS"), anonymous: field("RssAnon"), descriptors: Number(size) };
}

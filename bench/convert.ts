// Question: how long does an image of ten layers take to convert, how many cores does that use, and how much memory at its peak?
//   bin/node bench/convert.ts [--rounds 3] [--small] [--only zstd,none,oci-ref]
// The yardstick is what anyone has: the same layers from the same registry, `curl | zcat | zstd -3`, two at a time.
// NYDUS_PEER_BIN=folder with the original's nydusify and nydus-image adds it.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";
import { createGunzip } from "node:zlib";
import {
  debianPythonImage,
  gzipLayer,
  type Layer,
  ownBinaries,
  pushLayout,
  run,
  startRegistry,
  Workspace,
  writeLayout,
} from "@nydus-ts/testkit";
import { keepResults, machine, mebibytes, median, table } from "./lib/machine.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    layers: { type: "string", default: "10" },
    only: { type: "string", default: "zstd,lz4_block,none,oci-ref" },
    cache: { type: "string", default: process.env["NYDUS_TEST_CACHE"] ?? "/var/tmp/nydus-ts" },
    small: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const layerCount = Number(options.layers);
const rounds = options.small ? 1 : Number(options.rounds);

await using workspace = new Workspace("bench-convert");
const registry = await startRegistry(workspace);
const source = `${registry.host}/app:oci`;
process.stderr.write("making the image\n");
const { layers, bytes } = await pushTenLayers();

interface Measured {
  seconds: number;
  /** of all threads: what the machine's other work does not change much */
  processorSeconds: number;
  peakBytes: number;
}

const contenders: Array<readonly [name: string, start: (round: number) => { command: string; args: readonly string[] }]> = [
  ["curl | zcat | zstd", () => ({ command: "sh", args: ["-c", yardstick()] })],
];
for (const name of options.only.split(",")) {
  const more = name === "oci-ref" ? ["--oci-ref"] : ["--compressor", name];
  // Each round writes to a repository of its own: what is there already would not be written again.
  const convert = (round: number, who: string) => [
    "convert",
    "--source",
    source,
    "--target",
    `${registry.host}/${who}-${name}-${round}:nydus`,
    ...more,
  ];
  contenders.push([
    `nydus-ts, ${name}`,
    (round) => ({ command: join(ownBinaries, "nydus-image"), args: [...convert(round, "ours"), "--work-dir", workspace.path("work")] }),
  ]);
  const peer = process.env["NYDUS_PEER_BIN"];
  if (peer !== undefined && existsSync(join(peer, "nydusify"))) {
    const program = ["--nydus-image", join(peer, "nydus-image"), "--work-dir", workspace.path("peer")];
    contenders.push([`original, ${name}`, (round) => ({ command: join(peer, "nydusify"), args: [...convert(round, "peer"), ...program] })]);
  }
}

const results = new Map<string, Measured[]>(contenders.map(([name]) => [name, []]));
for (let round = 0; round < rounds; round++) {
  for (const [name, start] of contenders) {
    const { command, args } = start(round);
    results.get(name)?.push(await measure(command, args));
  }
}
report();

/** The Debian image's files in consecutive groups of about equal size, a gzip layer each. */
async function pushTenLayers(): Promise<{ layers: readonly Layer[]; bytes: number }> {
  const directory = workspace.path("image");
  mkdirSync(directory, { recursive: true });
  const tar = join(directory, "all.tar");
  if (options.small) {
    await run("tar", ["-C", "/", "-cf", tar, "usr/share/doc"]);
  } else {
    const layout = await debianPythonImage(options.cache);
    const blobs = join(layout, "blobs/sha256");
    const largest = readdirSync(blobs).reduce((a, b) => (statSync(join(blobs, a)).size > statSync(join(blobs, b)).size ? a : b));
    await pipeline(createGunzipOf(join(blobs, largest)), createWriteStream(tar));
  }
  const root = join(directory, "root");
  mkdirSync(root);
  await run("tar", ["-C", root, "-xf", tar], { deadlineMs: 300_000 });
  rmSync(tar);
  const listed = await run("sh", ["-c", `find . -type f -printf '%s %p\\n' | sort -k2`], { directory: root });
  const files = listed.stdout
    .trim()
    .split("\n")
    .map((line) => [Number(line.slice(0, line.indexOf(" "))), line.slice(line.indexOf(" ") + 1)] as const);
  const total = files.reduce((sum, [size]) => sum + size, 0);
  const groups: string[][] = Array.from({ length: layerCount }, () => []);
  let before = 0;
  for (const [size, name] of files) {
    groups[Math.min(layerCount - 1, Math.floor((before / total) * layerCount))]?.push(name);
    before += size;
  }
  const made: Layer[] = [];
  for (const [i, names] of groups.entries()) {
    const part = join(directory, `layer-${i}.tar`);
    writeFileSync(`${part}.list`, `${names.join("\n")}\n`);
    await run("tar", ["-C", root, "--verbatim-files-from", "-T", `${part}.list`, "-cf", part], { deadlineMs: 300_000 });
    made.push(await gzipLayer(part));
    rmSync(part);
  }
  rmSync(root, { recursive: true });
  await pushLayout(await writeLayout(join(directory, "layout"), made, { cmd: ["/none"] }), source);
  return { layers: made, bytes: total };
}

function createGunzipOf(path: string): NodeJS.ReadableStream {
  const gunzip = createGunzip();
  const input = spawn("cat", [path], { stdio: ["ignore", "pipe", "inherit"] });
  input.stdout.pipe(gunzip);
  return gunzip;
}

function yardstick(): string {
  const urls = layers.map(({ descriptor }) => `http://${registry.host}/v2/app/blobs/${descriptor.digest}`).join("\n");
  const out = workspace.path("yardstick");
  mkdirSync(out, { recursive: true });
  return `printf '%s\\n' '${urls.replaceAll("\n", "' '")}' | xargs -P ${availableParallelism()} -I{} sh -c 'curl -s {} | zcat | zstd -q -3 -T1 > ${out}/$(basename {})'`;
}

/** Runs to the end and reads what the kernel counted: processor time of the children, and the highest resident memory of the process itself. */
async function measure(command: string, args: readonly string[]): Promise<Measured> {
  const began = performance.now();
  const times = childTimes();
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  let words = "";
  child.stderr.on("data", (part: Buffer) => {
    words = (words + part.toString()).slice(-2000);
  });
  let peakBytes = 0;
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      peakBytes = Math.max(peakBytes, Number(/VmHWM:\s*(\d+) kB/.exec(status)?.[1] ?? 0) * 1024);
    } catch {
      // it has ended
    }
  }, 10);
  const [code] = (await once(child, "exit")) as [number | null];
  clearInterval(timer);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")}: status ${code}\n${words}`);
  const seconds = (performance.now() - began) / 1000;
  return { seconds, processorSeconds: childTimes() - times, peakBytes };
}

/** Processor seconds of all children that have ended. Source: proc(5), stat: cutime and cstime, in clock ticks of 10 ms */
function childTimes(): number {
  const stat = readFileSync("/proc/self/stat", "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

function report(): void {
  const middle = (name: string, of: (measured: Measured) => number) => median((results.get(name) ?? []).map(of));
  const seconds = (name: string) => middle(name, (measured) => measured.seconds);
  const processor = (name: string) => middle(name, (measured) => measured.processorSeconds);
  const base = contenders[0]![0];
  const rows = [["", "seconds", "of the yardstick", "processor seconds", "of the yardstick", "cores used", "peak MiB"]];
  for (const [name] of contenders) {
    rows.push([
      name,
      seconds(name).toFixed(2),
      (seconds(name) / seconds(base)).toFixed(2),
      processor(name).toFixed(2),
      (processor(name) / processor(base)).toFixed(2),
      middle(name, (measured) => measured.processorSeconds / measured.seconds).toFixed(2),
      name === base ? "-" : mebibytes(middle(name, ({ peakBytes }) => peakBytes)),
    ]);
  }
  for (const [key, value] of Object.entries(machine())) console.log(`${key}: ${value}`);
  const packed = layers.reduce((sum, { descriptor }) => sum + descriptor.size, 0);
  console.log(`image: ${layers.length} layers, ${mebibytes(bytes)} MiB of files, ${mebibytes(packed)} MiB as gzip; medians of ${rounds}\n`);
  console.log(table(rows));
  if (options.keep) keepResults(import.meta.filename, Object.fromEntries(results));
}

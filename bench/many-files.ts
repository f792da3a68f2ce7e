// Question: what does a file cost when there are very many of them, to build, to hold, to mount and to look up?
//   bin/node bench/many-files.ts [--counts 100000,500000,2000000] [--fs-version 6] [--keep] (npm run build first)
// A generated tar of small files, each with data of its own, goes through `nydus-image create`; the image is mounted through `nydusd`
// and, of version 6, by the kernel's EROFS. Flat cost shows as equal figures in all rows.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { MS_RDONLY, mount, umount2 } from "@nydus-ts/linux";
import { NydusdClient } from "@nydus-ts/nydus-api";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { ownBinaries, Workspace } from "@nydus-ts/testkit";
import { keepResults, machine, mebibytes, table } from "./lib/machine.ts";

const { values } = parseArgs({
  options: {
    counts: { type: "string", default: "100000,500000,2000000" },
    "fs-version": { type: "string", default: "6" },
    keep: { type: "boolean", default: false },
  },
});
const counts = values.counts.split(",").map(Number);
const repository = join(import.meta.dirname, "..");
const node = join(repository, "bin/node");
const filesPerDirectory = 1000;
const lookups = 20_000;

const results: Record<string, number | undefined>[] = [];
for (const count of counts) {
  const result = await measure(count);
  results.push(result);
  // The last row takes minutes; what is known is not lost with it.
  process.stderr.write(`${JSON.stringify(result)}\n`);
}
const heads = Object.keys(results[0] ?? {});
const rows = results.map((result) => heads.map((head) => String(result[head] ?? "–")));
process.stdout.write(`${JSON.stringify(machine())}\nRAFS v${values["fs-version"]}\n\n${table([heads, ...rows])}\n`);
if (values.keep) keepResults(import.meta.filename, results);

async function measure(count: number): Promise<Record<string, number | undefined>> {
  await using workspace = new Workspace("nydus-many");
  const bootstrap = workspace.path("bootstrap");
  const blobs = workspace.path("blobs");
  const built = await build(count, bootstrap, blobs);
  const erofs = values["fs-version"] === "6" ? mountErofs(workspace, bootstrap) : undefined;
  const kernel = erofs === undefined ? undefined : lookUp(erofs, count);
  const fuse = await mountFuse(workspace, bootstrap, blobs);
  return {
    files: count,
    "build, µs a file": Math.round((built.ms * 1000) / count),
    "peak, MiB": Number(mebibytes(built.peakBytes)),
    "bootstrap, bytes a file": Math.round(statSync(bootstrap).size / count),
    "mount, ms": Math.round(fuse.mountMs),
    "daemon, MiB": Number(mebibytes(fuse.daemonBytes)),
    "look up, fuse, µs": lookUp(fuse.path, count),
    "look up, erofs, µs": kernel,
  };
}

/** Feeds the tar through a pipe, so that no disk takes part, and reads the builder's peak while it runs. */
async function build(count: number, bootstrap: string, blobs: string): Promise<{ ms: number; peakBytes: number }> {
  const fifo = `${bootstrap}.tar`;
  mkdirSync(blobs);
  execFileSync("mkfifo", [fifo]);
  const options = ["-t", "tar-rafs", "-B", bootstrap, "-D", blobs, "--compressor", "none", "-v", values["fs-version"], fifo];
  const began = performance.now();
  const child = spawn(join(ownBinaries, "nydus-image"), ["create", ...options], { stdio: ["ignore", "ignore", "inherit"] });
  const ended = once(child, "exit");
  let peakBytes = 0;
  const watch = setInterval(() => {
    peakBytes = Math.max(peakBytes, memoryOf(child.pid as number, "VmHWM"));
  }, 200);
  await pipeline(Readable.from(tarOf(count), { objectMode: false }), createWriteStream(fifo));
  const [code] = (await ended) as [number];
  clearInterval(watch);
  if (code !== 0) throw new Error(`nydus-image create ended with ${code}`);
  return { ms: performance.now() - began, peakBytes };
}

/** A ustar archive; names as `pathOf` gives them, and a line of its own in every file. */
function* tarOf(count: number): Generator<Buffer> {
  const headers = Math.min(count, filesPerDirectory);
  for (let first = 0; first < count; first += headers) {
    const parts = [entry(`${directoryOf(first)}/`, "5", 0)];
    for (let at = first; at < Math.min(count, first + headers); at++) {
      const data = Buffer.alloc(512);
      const length = data.write(`this is file ${at}\n`);
      parts.push(entry(pathOf(at), "0", length), data);
    }
    yield Buffer.concat(parts);
  }
  yield Buffer.alloc(1024);
}

function entry(name: string, type: string, size: number): Buffer {
  const header = Buffer.alloc(512);
  header.write(name);
  header.write(type === "5" ? "0000755\0" : "0000644\0", 100);
  for (const at of [108, 116]) header.write("0000000\0", at);
  header.write(`${size.toString(8).padStart(11, "0")}\0`, 124);
  header.write("14524770400\0", 136);
  header.write(`        ${type}`, 148);
  header.write("ustar\x0000", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}

function directoryOf(file: number): string {
  return `d${String(Math.floor(file / filesPerDirectory)).padStart(5, "0")}`;
}

function pathOf(file: number): string {
  return `${directoryOf(file)}/f${String(file).padStart(7, "0")}`;
}

function mountErofs(workspace: Workspace, bootstrap: string): string {
  const target = workspace.path("erofs");
  const device = workspace.path("device");
  mkdirSync(target);
  writeFileSync(device, "");
  truncateSync(device, openBootstrap(readFileSync(bootstrap)).blobs[0]?.uncompressedSize ?? 0);
  mount({ source: bootstrap, target, type: "erofs", flags: MS_RDONLY, options: `device=${device}` });
  workspace.defer(() => umount2(target, 0));
  return target;
}

async function mountFuse(
  workspace: Workspace,
  bootstrap: string,
  blobs: string,
): Promise<{ path: string; mountMs: number; daemonBytes: number }> {
  const mountpoint = workspace.path("mnt");
  const socket = workspace.path("api.sock");
  const cache = workspace.path("cache");
  for (const folder of [mountpoint, cache]) mkdirSync(folder);
  const bin = join(repository, "packages/nydusd/src/bin.ts");
  const args = [bin, "fuse", "--mountpoint", mountpoint, "--apisock", socket];
  const program = workspace.start({ command: node, args, logFile: workspace.path("nydusd.log") });
  const client = new NydusdClient(socket, { timeoutMs: 60_000 });
  for (let tries = 0; (await client.info().catch(() => undefined)) === undefined; tries++) {
    if (tries > 600 || !program.running) throw new Error(`nydusd did not start:\n${program.tail()}`);
    await sleep(50);
  }
  const device = { backend: { type: "localfs", config: { dir: blobs } }, cache: { type: "blobcache", config: { work_dir: cache } } };
  const began = performance.now();
  await client.mount("/many", { source: bootstrap, fs_type: "rafs", config: JSON.stringify({ device, mode: "direct" }) });
  const path = join(mountpoint, "many");
  readdirSync(join(path, directoryOf(0)));
  const mountMs = performance.now() - began;
  const content = readFileSync(join(path, pathOf(7)), "utf8");
  if (content !== "this is file 7\n") throw new Error(`wrong content: ${content}`);
  return { path, mountMs, daemonBytes: memoryOf(program.pid, "RssAnon") };
}

/** Microseconds to look up a file that the kernel does not know yet, all over the tree. */
function lookUp(root: string, count: number): number {
  const began = performance.now();
  const step = Math.max(1, Math.floor(count / lookups));
  let done = 0;
  for (let at = 0; at < count; at += step, done++) lstatSync(join(root, pathOf(at)));
  return Math.round(((performance.now() - began) * 1000) / done);
}

function memoryOf(pid: number, field: "VmHWM" | "RssAnon"): number {
  try {
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

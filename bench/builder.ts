import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { debianPythonImage, ownBinaries } from "@nydus-ts/testkit";
import { machine, median, mebibytes, table } from "./lib/machine.ts";

// How long does `nydus-image create` take for a real tree, beside tools that anyone has, and how much memory?
// Usage: bin/node bench/builder.ts [--rounds 5] [--cache DIRECTORY] (npm run build first; one run beside nothing else)
// NYDUS_PEER_BIN names the folder of the original's nydus-image, which then runs in the same alternation.

const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "5" }, cache: { type: "string", default: "/var/tmp/nydus-ts" } },
});
const work = mkdtempSync(join(tmpdir(), "bench-builder-"));
const rounds = Number(options.rounds);

/** Goals of the project for ours / yardstick. */
const yardsticks = {
  zstd: { command: "tar -C tree -cf - . | zstd -3 -T1 -q -f -o out.zst", goal: 1.0 },
  lz4_block: { command: "tar -C tree -cf - . | lz4 -1 -q -f - out.lz4", goal: 0.7 },
  none: { command: "tar -C tree -cf - . | tee out.tar | sha256sum", goal: 0.45 },
} as const;
type Compressor = keyof typeof yardsticks;
const sources = { "dir-rafs": "tree", "tar-rafs": "layer.tar" } as const;

interface Measured {
  seconds: number;
  /** largest resident memory of the program, bytes */
  peak: number;
}

try {
  const entries = await makeSources();
  console.log(`${JSON.stringify(machine())}\n${entries} entries, ${mebibytes(totalBytes())} MiB as tar; medians of ${rounds} rounds`);
  const peer = process.env["NYDUS_PEER_BIN"];
  const programs: Array<readonly [string, string]> = [["ours", ownBinaries]];
  if (peer !== undefined) programs.push(["original", peer]);
  const rows = [["", "seconds", "yardstick s", "ratio", "goal", "peak MiB"]];
  for (const compressor of Object.keys(yardsticks) as Compressor[]) rows.push(...(await compare(compressor, programs)));
  console.log(table(rows));
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** The largest layer of the cached Debian image as a tree and as a plain tar. Returns the number of entries. */
async function makeSources(): Promise<number> {
  const layout = await debianPythonImage(options.cache, (step) => console.error(step));
  const blobs = join(layout, "blobs/sha256");
  const sizes = readdirSync(blobs).map((name) => ({ name, size: readFileSync(join(blobs, name)).length }));
  const [layer] = sizes.sort((a, b) => b.size - a.size);
  mkdirSync(join(work, "tree"));
  execFileSync("sh", ["-c", `gzip -dc ${join(blobs, layer!.name)} > layer.tar && tar -C tree -xf layer.tar`], { cwd: work });
  return Number(execFileSync("sh", ["-c", "find tree | wc -l"], { cwd: work, encoding: "utf8" }));
}

function totalBytes(): number {
  return Number(execFileSync("stat", ["-c", "%s", join(work, "layer.tar")], { encoding: "utf8" }));
}

/** Every round runs the yardstick and each program once, so that a slow minute of the machine hits all alike. */
async function compare(compressor: Compressor, programs: readonly (readonly [string, string])[]): Promise<string[][]> {
  const { command, goal } = yardsticks[compressor];
  const yardstick: number[] = [];
  const results = new Map<string, Measured[]>();
  for (let round = 0; round <= rounds; round++) {
    // The first round fills caches and is not counted.
    const base = await measure("sh", ["-c", command]);
    if (round > 0) yardstick.push(base.seconds);
    for (const [name, folder] of programs) {
      for (const [type, source] of Object.entries(sources)) {
        const out = join(work, "out");
        mkdirSync(out);
        const argv = ["create", "-l", "warn", "-t", type, "--compressor", compressor, "-D", out, "-B", join(out, "boot"), source];
        const result = await measure(join(folder, "nydus-image"), argv);
        rmSync(out, { recursive: true });
        const key = `${name} ${type} ${compressor}`;
        if (round > 0) results.set(key, [...(results.get(key) ?? []), result]);
      }
    }
  }
  const base = median(yardstick);
  return Array.from(results, ([name, runs]) => {
    const seconds = median(runs.map((run) => run.seconds));
    const peak = Math.max(...runs.map((run) => run.peak));
    return [name, seconds.toFixed(2), base.toFixed(2), (seconds / base).toFixed(2), goal.toFixed(2), mebibytes(peak)];
  });
}

/** Runs to the end. The peak is what the kernel counted for the process, looked at every 5 ms: it only grows, so little is missed. */
async function measure(program: string, argv: readonly string[]): Promise<Measured> {
  const started = performance.now();
  const child = spawn(program, argv, { cwd: work, stdio: ["ignore", "ignore", "inherit"] });
  const exited = once(child, "exit");
  let peak = 0;
  const look = setInterval(() => {
    const status = `/proc/${child.pid}/status`;
    if (!existsSync(status)) return;
    peak = Math.max(peak, 1024 * Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(status, "utf8"))?.[1] ?? 0));
  }, 5);
  const [code, signal] = (await exited) as [number | null, string | null];
  clearInterval(look);
  if (code !== 0) throw new Error(`${program} ${argv.join(" ")} ended with ${code ?? signal}`);
  return { seconds: (performance.now() - started) / 1000, peak };
}

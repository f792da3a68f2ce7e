// What does a large image cost? Builds bootstraps of growing trees, walks them from a file, and counts.
//
//   bin/node packages/rafs-format/bench/walk.ts [--small] [--json]
import { open, rm, writeFile } from "node:fs/promises";
import { cpus, release, tmpdir } from "node:os";
import { join } from "node:path";
import { fileSource, openRandomAccess } from "@nydus-ts/rafs-format";
import { buildBootstrap } from "@nydus-ts/rafs-format/writer";
import { generatedOptions, generatedTree } from "./generated-tree.ts";

const counts = process.argv.includes("--small") ? [500, 1000] : [100_000, 1_000_000, 2_000_000];

const results: Record<string, number | string>[] = [];
for (const version of [6, 5] as const) {
  for (const count of counts) results.push(await measure(version, count));
}
const machine = { cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length, kernel: release(), node: process.version };
if (process.argv.includes("--json")) console.log(JSON.stringify({ machine, results }));
else {
  console.log(`${machine.cpu}, ${machine.cores} cores, kernel ${machine.kernel}, Node ${machine.node}`);
  console.table(results);
}

async function measure(version: 5 | 6, count: number): Promise<Record<string, number | string>> {
  const path = join(tmpdir(), `rafs-walk-${process.pid}.boot`);
  try {
    const began = performance.now();
    const bytes = await buildBootstrap(generatedTree(count), generatedOptions(version));
    const built = performance.now();
    await writeFile(path, bytes);
    await using file = await open(path);
    const bootstrap = await openRandomAccess(await fileSource(file));
    const opened = performance.now();
    let names = 0;
    for await (const _ of bootstrap.walk()) names++;
    const walked = performance.now();
    const { reads, heldBytesMax } = bootstrap.stats;
    return {
      version,
      names,
      "bootstrap MiB": mib(bytes.length),
      "build, µs a name": micros(built - began, count),
      "walk from a file, µs a name": micros(walked - opened, count),
      reads,
      "held at most, MiB": mib(heldBytesMax),
    };
  } finally {
    await rm(path, { force: true });
  }
}

function micros(ms: number, count: number): number {
  return Math.round((ms * 10_000) / count) / 10;
}

function mib(bytes: number): number {
  return Math.round((bytes / 2 ** 20) * 10) / 10;
}

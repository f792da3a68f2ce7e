// Runs the cases of one target; started by run.ts, which watches it.
import assert from "node:assert/strict";
import { inspect } from "node:util";
import { parentPort, workerData } from "node:worker_threads";
import { generator, mutateBytes, pick } from "./mutate.ts";
import type { Target } from "./target.ts";

export interface WorkerData {
  readonly file: string;
  readonly golden: string | undefined;
  readonly seed: number;
  readonly from: number;
  readonly count: number;
  /** [0] number of cases that were begun; seen by the main thread while this one is busy. */
  readonly progress: Int32Array;
  /** Growth of the process that one case may cause. */
  readonly caseBytesMax: number;
}

export type Report =
  | { readonly kind: "done"; readonly seeds: number; readonly refused: number; readonly served: number }
  | { readonly kind: "failed"; readonly case: number; readonly seedName: string; readonly stack: string };

const data = workerData as WorkerData;
const { target } = (await import(data.file)) as { target: Target };
const seeds = (await target.seeds(data.golden)).filter(({ bytes }) => bytes.length > 0);
assert(seeds.length > 0, `target ${target.name} has no seed: pass --golden`);
let refused = 0;
let peak = peakBytes();
for (let at = data.from; at < data.from + data.count; at++) {
  Atomics.store(data.progress, 0, at + 1);
  const random = generator(data.seed * 1_000_003 + at);
  const seed = pick(seeds, random);
  const mutate = seed.mutate !== undefined && random(2) === 0 ? seed.mutate : mutateBytes;
  try {
    await seed.read(mutate(seed.bytes, random));
  } catch (error) {
    refused++;
    if (!target.accepts(error)) fail(at, seed.name, error);
  }
  const now = peakBytes();
  if (now - peak > data.caseBytesMax) fail(at, seed.name, new Error(`the process grew by ${now - peak} bytes`));
  peak = now;
}
report({ kind: "done", seeds: seeds.length, refused, served: data.count - refused });

function fail(at: number, seedName: string, error: unknown): never {
  report({ kind: "failed", case: at, seedName, stack: inspect(error) });
  process.exit(1);
}

function report(message: Report): void {
  parentPort?.postMessage(message);
}

/** Most that the process ever had in memory. */
function peakBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}

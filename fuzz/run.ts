// Changes valid images, indexes, archives and configurations at random places and reads them.
//
//   npm run fuzz -- --target all|NAME[,NAME] [--count 20000] [--seed 1] [--from 0] [--golden DIR] [--case-ms 20000] [--folder fuzz/targets]
//
// Accepted is an answer, or an error of the package's own class with a code. A crash, another exception, a case of more than `--case-ms`
// (a machine with other work stops a process for seconds; a case takes milliseconds) or one that makes the process grow by more than
// 256 MiB ends the run with the words that repeat it. `--count` is for each target.
import { readdirSync } from "node:fs";
import { join, resolve as resolvePath } from "node:path";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import type { Report, WorkerData } from "./worker.ts";

const caseBytesMax = 256 * 1024 * 1024;
/** A worker's heap; what hostile bytes make a reader allocate beyond is a failure. */
const heapMiB = 1024;

const options = {
  target: { type: "string", default: "all" },
  count: { type: "string", default: "20000" },
  seed: { type: "string", default: "1" },
  from: { type: "string", default: "0" },
  golden: { type: "string" },
  "case-ms": { type: "string", default: "20000" },
  folder: { type: "string", default: join(import.meta.dirname, "targets") },
  help: { type: "boolean", short: "h", default: false },
} as const satisfies ParseArgsConfig["options"];

const values = parse();
const folder = resolvePath(values.folder);
const names = targets();
if (values.help) {
  console.log(`Usage: npm run fuzz -- [OPTIONS]

  --target NAME[,NAME]  what is read: all, ${names.join(", ")} (default: all)
  --count N             mutated inputs for each target (default: 20000)
  --seed N              another seed gives other inputs (default: 1)
  --from N              the first case, to repeat one (default: 0)
  --golden DIR          folder of golden data, for more to start from (default: $NYDUS_GOLDEN)
  --case-ms N           milliseconds after which a case hangs (default: 20000)
  --folder DIR          other targets
  -h, --help            this text`);
  process.exit(0);
}
const caseMsMax = whole("case-ms", 1);
const count = whole("count", 1);
const seed = whole("seed", 0);
const from = whole("from", 0);
const golden = values.golden ?? process.env["NYDUS_GOLDEN"];
const wanted = values.target === "all" ? names : values.target.split(",");
for (const name of wanted) if (!names.includes(name)) refuse(`no target ${name}; there are ${names.join(", ")}`);

let total = 0;
for (const name of wanted) {
  const failure = await run(name);
  if (failure !== undefined) {
    console.error(failure);
    process.exitCode = 1;
    break;
  }
  total += count;
}
if (process.exitCode === undefined) console.log(`fuzz: ${total} cases, no failure`);

/** @returns what went wrong, with the words that repeat it */
function run(name: string): Promise<string | undefined> {
  const progress = new Int32Array(new SharedArrayBuffer(4));
  const workerData: WorkerData = { file: join(folder, `${name}.ts`), golden, seed, from, count, progress, caseBytesMax };
  const worker = new Worker(join(import.meta.dirname, "worker.ts"), { workerData, resourceLimits: { maxOldGenerationSizeMb: heapMiB } });
  const repeat = (at: number): string =>
    `--target ${name} --seed ${seed} --from ${at} --count 1${golden === undefined ? "" : ` --golden ${golden}`}`;
  return new Promise((resolve) => {
    let seen = 0;
    let since = performance.now();
    const watch = setInterval(() => {
      const now = Atomics.load(progress, 0);
      if (now !== seen) since = performance.now();
      else if (now > 0 && performance.now() - since > caseMsMax) end(`${name}: a case takes more than ${caseMsMax} ms; ${repeat(now - 1)}`);
      seen = now;
    }, 500);
    const end = (failure: string | undefined): void => {
      clearInterval(watch);
      void worker.terminate();
      resolve(failure);
    };
    worker.on("message", (report: Report) => {
      if (report.kind === "failed") return end(`${name}, ${report.seedName}: ${report.stack}\nrepeat: ${repeat(report.case)}`);
      console.log(`${name}: ${count} cases over ${report.seeds} seeds, ${report.refused} refused, ${report.served} read in bounds`);
      end(undefined);
    });
    worker.on("error", (error) =>
      end(`${name}: ${error instanceof Error ? error.stack : String(error)}\nrepeat: ${repeat(Atomics.load(progress, 0) - 1)}`),
    );
  });
}

function whole(option: "count" | "seed" | "from" | "case-ms", min: number): number {
  const value = Number(values[option]);
  if (!Number.isSafeInteger(value) || value < min) refuse(`--${option} takes a whole number from ${min}, not ${values[option]}`);
  return value;
}

function parse() {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    refuse((error as Error).message);
  }
}

function targets(): string[] {
  try {
    return readdirSync(folder).map((file) => file.slice(0, -".ts".length));
  } catch (error) {
    refuse((error as Error).message);
  }
}

function refuse(why: string): never {
  console.error(`fuzz: ${why.split("\n")[0]}; see --help`);
  process.exit(2);
}

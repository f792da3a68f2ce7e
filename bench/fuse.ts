import { execFileSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ownBinaries } from "@nydus-ts/testkit";
import { type BenchImage, makeImage, scales } from "./lib/fuse-image.ts";
import { FuseMounts, type Target } from "./lib/fuse-mounts.ts";
import { machine, median, table } from "./lib/machine.ts";

// How fast is nydusd's FUSE engine (`npm run build` first) over a finished cache, beside a plain EROFS mount of the same bootstrap and cache file (the limit)?
// Usage: bin/node bench/fuse.ts [--small] [--rounds 5] [--threads 4]
// NYDUS_PEER_BIN names the folder of the original's nydusd, which then runs in the same alternation.

const { values: options } = parseArgs({
  options: {
    small: { type: "boolean", default: false },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "4" },
  },
});

/** Plain EROFS / original, measured in one run on the project's machine (spec/engines.md 5); 2.8 for find was measured warm. */
const originalBelowErofs: Readonly<Record<string, number>> = {
  "sequential, warm": 2.0,
  "tar of small files, warm": 2.8,
  "random 4 KiB, 1 job, warm": 6.5,
  "random 4 KiB, 4 jobs, warm": 5.1,
  "find -ls, warm": 2.8,
};

await using mounts = new FuseMounts("bench-fuse-");
const work = mounts.directory;
const image = await makeImage(work, options.small ? scales.small : scales.full);
const device = {
  backend: { type: "localfs", config: { dir: image.blobDirectory } },
  cache: { type: "blobcache", config: { work_dir: image.cacheDirectory } },
};
const { bootstrap } = image;
const { threads } = options;
const targets = [
  mounts.erofs(bootstrap, image.dataFile),
  await mounts.nydusd("fuse", { binaries: ownBinaries, bootstrap, device, threads }),
];
const peer = process.env["NYDUS_PEER_BIN"];
if (peer !== undefined && existsSync(join(peer, "nydusd")))
  targets.push(await mounts.nydusd("original", { binaries: peer, bootstrap, device, threads }));
await compare(image, targets);

async function compare(image: BenchImage, targets: readonly Target[]): Promise<void> {
  const shell = (command: string, cwd: string): string =>
    execFileSync("bash", ["-c", command], { cwd, encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"] });
  const drop = (): void => writeFileSync("/proc/sys/vm/drop_caches", "3");
  const warm = (): void => {
    drop();
    shell(`cat ${image.dataFile} ${image.bootstrap} > /dev/null`, work);
  };
  const seconds = (command: string) => (path: string) => {
    const began = performance.now();
    shell(command, path);
    return (performance.now() - began) / 1000;
  };
  const random = (jobs: number) => (path: string) => {
    const size = options.small ? 4 : 128;
    const command = `fio --name=r --filename=${path}/big/random --rw=randread --bs=4k --ioengine=psync --numjobs=${jobs} --io_size=${size / jobs}m --size=${size}m --randrepeat=0 --invalidate=0 --group_reporting --readonly --output-format=json --thread`;
    const result = JSON.parse(shell(command, work)) as { jobs: { read: { iops: number } }[] };
    return (result.jobs[0]?.read.iops ?? 0) / 1000;
  };
  const sequential = seconds("cat big/random big/libraries > /dev/null");
  const list = seconds("find . -ls > /dev/null");
  const small = seconds("tar cf - small | cat > /dev/null");
  const tests: readonly (readonly [name: string, prepare: () => void, run: (path: string) => number, higherIsBetter: boolean])[] = [
    ["sequential, warm", warm, sequential, false],
    ["sequential, cold", drop, sequential, false],
    ["tar of small files, warm", warm, small, false],
    ["random 4 KiB, 1 job, warm", warm, random(1), true],
    ["random 4 KiB, 1 job, cold", drop, random(1), true],
    ["random 4 KiB, 4 jobs, warm", warm, random(4), true],
    ["find -ls, warm", warm, list, false],
    ["find -ls, cold", drop, list, false],
    ["find -ls, hot", () => undefined, list, false],
  ];
  const rows: string[][] = [["seconds or kIOPS", ...targets.map(({ name }) => name), "of the limit", "of the original"]];
  for (const [name, prepare, run, higherIsBetter] of tests) {
    const results = targets.map(() => [] as number[]);
    for (let round = 0; round < (options.small ? 1 : Number(options.rounds)); round++) {
      for (const [index, { path }] of targets.entries()) {
        prepare();
        results[index]?.push(run(path));
      }
    }
    const medians = results.map(median);
    const factor = (base: number, ours: number): number => (higherIsBetter ? ours / base : base / ours);
    const [erofs = 0, fuse = 0, original] = medians;
    const recorded = originalBelowErofs[name];
    const limit = factor(erofs, fuse);
    let peerFactor = "-";
    if (original !== undefined) peerFactor = factor(original, fuse).toFixed(2);
    else if (recorded !== undefined) peerFactor = `~${(limit * recorded).toFixed(2)}`;
    rows.push([name, ...medians.map((value) => value.toFixed(3)), limit.toFixed(2), peerFactor]);
  }
  for (const [key, value] of Object.entries(machine())) console.log(`${key}: ${value}`);
  console.log(`workers: ${options.threads}; ~ is by the ratio recorded in the specification, not by a run here\n`);
  console.log(table(rows));
}

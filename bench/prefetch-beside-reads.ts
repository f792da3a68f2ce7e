// Question: what does a prefetch that fills the link cost readers, and do mounts wait for it? (users.md row 25: p99 at most 1.2 times that
// of an idle link; 160 mounts at once within 3 s)
//   bin/node bench/prefetch-beside-reads.ts [--reads 300] [--megabits 200] [--mounts 160] [--keep]
// One daemon behind a link of that rate; files are read for the first time, one by one, first alone, then while another image is prefetched.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createNetwork, freePort, until, Workspace } from "@nydus-ts/testkit";
import { makeLazyFiles, quantile, startLazyDaemon } from "./lib/lazy-files.ts";
import { keepResults, machine, table } from "./lib/machine.ts";

const { values } = parseArgs({
  options: {
    reads: { type: "string", default: "300" },
    megabits: { type: "string", default: "200" },
    mounts: { type: "string", default: "160" },
    keep: { type: "boolean", default: false },
  },
});
const reads = Number(values.reads);
const megabits = Number(values.megabits);
const mounts = Number(values.mounts);
/** Seconds that the link takes for what is prefetched: longer than the reads beside it. */
const prefetchSeconds = 20;

await using workspace = new Workspace("nydus-prefetch-bench");
const network = await createNetwork(workspace);
const image = await makeLazyFiles(workspace, "image", { files: 2 * reads, fileBytes: 16_384 });
const large = await makeLazyFiles(workspace, "large", { files: prefetchSeconds, fileBytes: (megabits * 1e6) / 8 });
const small = await makeLazyFiles(workspace, "small", { files: 20, fileBytes: 4096 });
const port = await freePort();
const logFile = workspace.path("registry.log");
const blobs = [image, large, small].map(({ blobFile }) => blobFile);
const script = join(import.meta.dirname, "lib/blob-registry.ts");
const args = ["--conditions=@nydus-ts/source", script, String(port), ...blobs];
workspace.start({ command: process.execPath, args, logFile, network });
await until("the registry", () => readFileSync(logFile, "utf8").includes("ready") || undefined);
const host = `127.0.0.1:${port}`;
const daemon = await startLazyDaemon(workspace, network);
await network.shape({ megabitsPerSecond: megabits });

await daemon.mount("/image", image, { host });
const alone = await daemon.read("/image", image.files.slice(0, reads));
await daemon.mount("/large", large, { host }, { prefetch: true });
const prefetching = async (): Promise<{ workers: number; bytes: number }> => {
  const metrics = await daemon.client.blobcacheMetrics("/large");
  return { workers: metrics.prefetch_workers, bytes: metrics.prefetch_data_amount };
};
const begun = await until("the prefetch to bring something", async () => {
  const now = await prefetching();
  return now.bytes > 0 ? now : undefined;
});
const bytesBefore = await network.bytes();
const begin = performance.now();
const beside = await daemon.read("/image", image.files.slice(reads));
const seconds = (performance.now() - begin) / 1000;
const rate = ((await network.bytes()) - bytesBefore) / seconds / 1e6;
const after = await prefetching();
const lasted = after.workers > 0;
const brought = (after.bytes - begun.bytes) / 1e6;
const mountBegin = performance.now();
await Promise.all(Array.from({ length: mounts }, (_, index) => daemon.mount(`/m${index}`, small, { host }, { prefetch: true })));
const mountMs = performance.now() - mountBegin;

const row = (name: string, latencies: readonly number[]): string[] => [
  name,
  ...[0.5, 0.9, 0.99].map((share) => quantile(latencies, share).toFixed(1)),
];
const quotient = ["quotient", ...[0.5, 0.9, 0.99].map((share) => (quantile(beside, share) / quantile(alone, share)).toFixed(2))];
const rows = [["first reads of 16 KiB", "median ms", "p90", "p99"], row("alone", alone), row("beside a prefetch", beside), quotient];
process.stdout.write(`${JSON.stringify(machine())}\n${reads} reads each, ${megabits} Mbit/s\n\n${table(rows)}\n
link beside: ${rate.toFixed(1)} MB/s both directions for ${seconds.toFixed(1)} s; the prefetch brought ${brought.toFixed(1)} MB and ${lasted ? "outlasted the reads" : "ended before them: ask for fewer reads"}
${mounts} mounts with prefetch at once, while another image is prefetched: ${Math.round(mountMs)} ms\n`);
if (values.keep) keepResults(import.meta.filename, [{ alone, beside, rate, seconds, brought, lasted, mounts, mountMs }]);

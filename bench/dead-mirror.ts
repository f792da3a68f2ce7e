// Question: what does a mirror that dies cost the reads after it? (users.md row 20: at most 200 ms more, then it is bypassed)
//   bin/node bench/dead-mirror.ts [--reads 200] [--keep]
// One daemon reads files for the first time, one by one, through a mirror; then the mirror dies in the middle, and the registry is left.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { TestRegistry } from "@nydus-ts/registry-client/testing";
import { Workspace } from "@nydus-ts/testkit";
import { makeLazyFiles, quantile, startLazyDaemon } from "./lib/lazy-files.ts";
import { keepResults, machine, table } from "./lib/machine.ts";

const { values } = parseArgs({ options: { reads: { type: "string", default: "200" }, keep: { type: "boolean", default: false } } });
const reads = Number(values.reads);

/** How a mirror dies. */
const deaths: Record<string, (mirror: TestRegistry) => Promise<void>> = {
  "refuses connections": (mirror) => mirror[Symbol.asyncDispose](),
  "goes silent": async (mirror) => void mirror.faults.add({}, { stallMs: Number.POSITIVE_INFINITY }),
  "answers 500": async (mirror) => void mirror.faults.add({}, { status: 500 }),
};

await using workspace = new Workspace("nydus-dead-mirror");
const image = await makeLazyFiles(workspace, "image", { files: 2 * reads, fileBytes: 16_384 });
const daemon = await startLazyDaemon(workspace);
const rows: string[][] = [
  ["the mirror", "before, median ms", "p99", "after, longest ms", "more than before", "reads it cost 10 ms", "last half, median"],
];
const results: Record<string, unknown>[] = [];
for (const [index, [how, kill]] of Object.entries(deaths).entries()) {
  const registries = await Promise.all([TestRegistry.start(), TestRegistry.start()]);
  const [mirror, origin] = registries;
  try {
    for (const registry of registries) registry.putBlob(readFileSync(image.blobFile));
    const at = `/m${index}`;
    await daemon.mount(at, image, { host: origin.host, mirrors: [{ host: `http://${mirror.host}`, ping_url: "" }] });
    const before = await daemon.read(at, image.files.slice(0, reads));
    if (origin.counters.blobRequests > 0) throw new Error("the registry was asked while the mirror lived");
    await kill(mirror);
    const after = await daemon.read(at, image.files.slice(reads));
    const median = quantile(before, 0.5);
    const longest = Math.max(...after);
    const slow = after.filter((ms) => ms > median + 10).length;
    const result = { how, before: median, beforeP99: quantile(before, 0.99), longest, slow, late: quantile(after.slice(reads / 2), 0.5) };
    results.push(result);
    const ms = (value: number): string => value.toFixed(1);
    rows.push([how, ms(median), ms(result.beforeP99), ms(longest), ms(longest - median), `${slow} of ${reads}`, ms(result.late)]);
    await daemon.client.umount(at);
  } finally {
    for (const registry of registries) await registry[Symbol.asyncDispose]();
  }
}
process.stdout.write(`${JSON.stringify(machine())}\n${reads} first reads before and after\n\n${table(rows)}\n`);
if (values.keep) keepResults(import.meta.filename, results);

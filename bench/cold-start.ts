// Question: how long from the first byte of a pull to the first output of a container, over links of several speeds, and what does it cost?
//   bin/node bench/cold-start.ts [--rounds 3] [--only overlayfs,nydus] [--links 200,200+20,50]
// NYDUS_PEER_BIN=folder with the original's containerd-nydus-grpc, nydusd and nydus-image adds it as a contender.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { busyboxImage, debianPythonImage, freePort, ownBinaries, pushLayout, run, startRegistry, Workspace } from "@nydus-ts/testkit";
import { type ColdStart, type ColdStartOptions, type Contender, coldStart } from "./lib/cold-start.ts";
import { pythonProfile } from "./lib/python-profile.ts";
import { keepResults, machine, mebibytes, median, table } from "./lib/machine.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    only: { type: "string" },
    links: { type: "string", default: "200,200+20,50" },
    cache: { type: "string", default: process.env["NYDUS_TEST_CACHE"] ?? "/var/tmp/nydus-ts" },
    keep: { type: "boolean", default: false },
  },
});
const rounds = Number(values.rounds);

/** "200+20" is 200 Mbit/s with 20 ms of round-trip time. */
const links: readonly (readonly [string, ColdStartOptions["link"]])[] = values.links.split(",").map((text) => {
  const [rate, roundTrip] = text.split("+").map(Number);
  return [
    `${rate} Mbit/s${roundTrip === undefined ? "" : ` + ${roundTrip} ms`}`,
    { megabitsPerSecond: rate as number, ...(roundTrip === undefined ? {} : { roundTripMs: roundTrip }) },
  ];
});

await using workspace = new Workspace("nydus-bench");
const storage = workspace.path("storage");
mkdirSync(values.cache, { recursive: true });
const say = (text: string): boolean => process.stderr.write(`${text}\n`);

const layout = await debianPythonImage(values.cache, say);
say("filling the registry");
const registry = await startRegistry(workspace, { storage });
await pushLayout(await busyboxImage(workspace.path("pause")), `${registry.host}/pause:1`);
await pushLayout(layout, `${registry.host}/app:oci`);

const peer = process.env["NYDUS_PEER_BIN"];
const without = (text: string): boolean => values.only !== undefined && !values.only.split(",").includes(text);
const contenders: Contender[] = [];
if (!without("overlayfs")) contenders.push({ name: "overlayfs", image: "app:oci" });
if (!without("nydus")) {
  const convert = (tag: string, flags: readonly string[], input: string) =>
    run(
      join(ownBinaries, "nydus-image"),
      ["convert", "--source", `${registry.host}/app:oci`, "--target", `${registry.host}/app:${tag}`, ...flags],
      {
        deadlineMs: 600_000,
        input,
      },
    );
  await convert("nydus", [], "");
  await convert("nydus-prefetch", ["--prefetch-patterns"], pythonProfile.join("\n"));
  contenders.push({ name: "nydus-ts", image: "app:nydus", binaries: ownBinaries });
  contenders.push({ name: "nydus-ts, prefetch table", image: "app:nydus-prefetch", binaries: ownBinaries });
  if (peer !== undefined) {
    contenders.push({ name: "original", image: "app:nydus", binaries: peer });
    contenders.push({ name: "original, amplify_io 0", image: "app:nydus", binaries: peer, nydusdConfig: { amplify_io: 0 } });
  }
}
await registry.stop();

const port = await freePort();
const results: Record<string, Record<string, readonly ColdStart[]>> = {};
for (const [linkName, link] of links) {
  const figures: Record<string, ColdStart[]> = {};
  for (let round = 0; round < rounds; round++) {
    for (const contender of contenders) {
      const one = await coldStart(contender, {
        link,
        storage,
        port,
        sandboxImage: `127.0.0.1:${port}/pause:1`,
        command: ["python3", "-c", 'print("hello")'],
        expect: "hello",
      });
      say(`${linkName}: ${contender.name}: ${JSON.stringify(one)}`);
      figures[contender.name] = [...(figures[contender.name] ?? []), one];
    }
  }
  results[linkName] = figures;
}

process.stdout.write(`${JSON.stringify(machine())}\nmedians of ${rounds}\n`);
for (const [linkName, figures] of Object.entries(results)) {
  const seconds = (pick: (one: ColdStart) => number, name: string): number => median((figures[name] as readonly ColdStart[]).map(pick));
  const base = figures["overlayfs"] === undefined ? undefined : seconds((one) => one.firstOutputSeconds, "overlayfs");
  const rows = Object.keys(figures).map((name) => {
    const first = seconds((one) => one.firstOutputSeconds, name);
    return [
      name,
      seconds((one) => one.pullSeconds, name).toFixed(2),
      first.toFixed(2),
      base === undefined ? "" : (first / base).toFixed(3),
      mebibytes(seconds((one) => one.bytes, name)),
      String(seconds((one) => one.requests, name)),
    ];
  });
  process.stdout.write(`\n${table([[linkName, "pull s", "first output s", "of overlayfs", "MiB", "requests"], ...rows])}\n`);
}
if (values.keep) keepResults(import.meta.filename, { rounds, links: results });

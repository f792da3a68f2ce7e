import { setTimeout as sleep } from "node:timers/promises";
import type { NydusdClient } from "@nydus-ts/nydus-api";
import { Argument, type Command } from "commander";
import { NydusctlError } from "../errors.ts";
import { backendDelta, backendDeltaText, backendText, cacheText, fsText } from "../render/metrics.ts";
import { clientOf, compact, isRaw, type MainIo } from "./context.ts";

interface MetricsOptions {
  readonly interval?: string;
  readonly id?: string;
}

export function addMetricsCommand(program: Command, io: MainIo): void {
  program
    .command("metrics")
    .description("counters: backend (requests to the registry), cache, fsstats (file system)")
    .addArgument(new Argument("<category>").choices(["backend", "cache", "fsstats"]))
    .option("-I, --interval <seconds>", "backend only: print what changed, again and again")
    .option("--id <id>", "which object, when there are several: a mountpoint (cache: or the id of the configuration)")
    .action(async (category: string, options: MetricsOptions, command: Command) => {
      const client = clientOf(command);
      if (options.interval !== undefined) {
        if (category !== "backend") throw new NydusctlError("CTL_USAGE", "--interval works with `metrics backend` only");
        return watchBackend(client, seconds(options.interval), { id: options.id, raw: isRaw(command), io });
      }
      io.writeOut(await once(client, category, options.id, isRaw(command)));
    });
}

async function once(client: NydusdClient, category: string, id: string | undefined, raw: boolean): Promise<string> {
  if (category === "backend") {
    const metrics = await client.backendMetrics(id);
    return raw ? compact(metrics) : backendText(metrics);
  }
  if (category === "cache") {
    const metrics = await client.blobcacheMetrics(id);
    return raw ? compact(metrics) : cacheText(metrics);
  }
  const metrics = await client.metrics(id);
  return raw ? compact(metrics) : fsText(metrics);
}

/** Prints what changed since the reading before, until a signal or a failure ends it. */
async function watchBackend(
  client: NydusdClient,
  interval: number,
  { id, raw, io }: { id: string | undefined; raw: boolean; io: MainIo },
): Promise<void> {
  let before = await client.backendMetrics(id);
  while (!io.terminate.aborted) {
    try {
      await sleep(interval * 1000, undefined, { signal: io.terminate });
    } catch {
      return;
    }
    const after = await client.backendMetrics(id);
    const delta = backendDelta(before, after, interval);
    io.writeOut(raw ? compact(delta) : backendDeltaText(delta));
    before = after;
  }
}

function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 0xffff_ffff || value === 0) {
    throw new NydusctlError("CTL_VALUE", `--interval: expected a number of seconds from 1 to 4294967295, found ${JSON.stringify(text)}`);
  }
  return value;
}

import type { Bootstrap } from "@nydus-ts/rafs-format";
import type { PrefetchConfig } from "../config/index.ts";
import { describeError } from "../errors.ts";
import { prefetchBatchChunks, walkSliceMs } from "../limits.ts";
import type { Log } from "../log/log.ts";
import type { CacheHandle } from "./caches.ts";
import { PrefetchRetries } from "./prefetch-retries.ts";

export interface PrefetchPlan {
  readonly bootstrap: Bootstrap;
  /** In blob table order. */
  readonly blobs: readonly CacheHandle[];
  readonly config: PrefetchConfig;
  /** Of the mount command; replaces the table of the image, also when empty. */
  readonly files: readonly string[] | undefined;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Names the image in the log. */
  readonly mountpoint: string;
}

/**
 * Fetches in the background what a container will want: the listed files, or the image's prefetch table, then everything with
 * `prefetch_all`. A host that is busy or away is asked again after a while; what it has given stays. Never rejects: what can't be fetched is
 * fetched by its reader.
 *
 * @returns whether all of it came
 * Source: spec/nydusd.md 12.2
 */
export async function prefetchImage(plan: PrefetchPlan): Promise<boolean> {
  const { bootstrap, files, config, signal, log } = plan;
  const retries = new PrefetchRetries(plan);
  const table = files === undefined ? bootstrap.prefetchNids : [];
  const rootOnly = files === undefined ? table.length === 1 && table[0] === bootstrap.rootNid : files.length === 1 && files[0] === "/";
  const rootAmongOthers = table.length > 1 && table.includes(bootstrap.rootNid);
  try {
    if (!rootOnly) {
      const nids = files === undefined ? table : resolveFiles(plan, files);
      await fetchFiles(plan, nids, retries);
    }
    if (rootOnly || (config.prefetch_all && !rootAmongOthers)) {
      const options = fetchOptions(plan);
      await Promise.all(plan.blobs.map(({ cache }) => retries.run(() => cache.prefetch("all", options))));
    }
    return !signal.aborted;
  } catch (error) {
    if (!signal.aborted) log.warn(`${plan.mountpoint}: prefetch ended early, readers fetch the rest themselves: ${describeError(error)}`);
    return false;
  }
}

function resolveFiles({ bootstrap, log }: PrefetchPlan, files: readonly string[]): number[] {
  return files.flatMap((path) => {
    const nid = bootstrap.resolve(path);
    if (nid === undefined) log.debug(`prefetch: ${path} is not in the image`);
    return nid ?? [];
  });
}

/** Files in the order of the list, in batches over all blobs; the batches of one round go out in parallel. */
async function fetchFiles(plan: PrefetchPlan, nids: readonly number[], retries: PrefetchRetries): Promise<void> {
  const { bootstrap, blobs, signal } = plan;
  const wanted = blobs.map(() => new Set<number>());
  const running = new Set<Promise<void>>();
  const send = async (blobIndex: number): Promise<void> => {
    const chunks = [...wanted[blobIndex]!];
    wanted[blobIndex]!.clear();
    if (chunks.length === 0 || blobs[blobIndex] === undefined) return;
    const { cache } = blobs[blobIndex];
    const fetch = retries.run(() => cache.prefetch(chunks, fetchOptions(plan))).finally(() => running.delete(fetch));
    running.add(fetch);
    fetch.catch(() => undefined);
    if (running.size >= plan.config.threads) await Promise.race(running);
  };
  let sliceEnd = performance.now() + walkSliceMs;
  for (const nid of regularFiles(bootstrap, nids)) {
    if (performance.now() > sliceEnd) {
      await new Promise(setImmediate);
      sliceEnd = performance.now() + walkSliceMs;
    }
    if (signal.aborted) break;
    for (const chunk of bootstrap.chunksOf(nid)) {
      wanted[chunk.blobIndex]?.add(chunk.chunkIndex);
      if ((wanted[chunk.blobIndex]?.size ?? 0) >= prefetchBatchChunks) await send(chunk.blobIndex);
    }
  }
  for (const blobIndex of blobs.keys()) await send(blobIndex);
  await Promise.all(running);
}

/** The files themselves, and all files below the directories among `nids`; each inode once. */
function* regularFiles(bootstrap: Bootstrap, nids: readonly number[]): Generator<number> {
  const seen = new Set<number>();
  const stack = [...nids].reverse();
  for (let nid = stack.pop(); nid !== undefined; nid = stack.pop()) {
    if (seen.has(nid)) continue;
    seen.add(nid);
    const { type } = bootstrap.inode(nid);
    if (type === "file") yield nid;
    else if (type === "dir") stack.push(...[...bootstrap.readDir(nid)].map((entry) => entry.nid).reverse());
  }
}

function fetchOptions({ signal, config }: PrefetchPlan): { signal: AbortSignal; bandwidth?: number } {
  return { signal, ...(config.bandwidth_limit > 0 ? { bandwidth: config.bandwidth_limit } : {}) };
}

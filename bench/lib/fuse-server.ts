import { openSync, readFileSync } from "node:fs";
import { isMainThread, workerData } from "node:worker_threads";
import { openBlobMeta, openBootstrap } from "@nydus-ts/rafs-format";
import type { RafsMount } from "../../packages/nydusd/src/engines/engine.ts";
import { createFuseEngine, runFuseWorker } from "../../packages/nydusd/src/engines/fuse/index.ts";

// The engine alone over a finished cache: `fuse-server.ts MOUNTPOINT BOOTSTRAP CACHE THREADS shared|cloned`. SIGTERM ends it.
if (!isMainThread) runFuseWorker(workerData);
else {
  const [mountpoint = "", bootstrap = "", cache = "", threads = "4", device = "shared"] = process.argv.slice(2);
  const report = (text: string): void => console.error(text);
  const quiet = (): void => undefined;
  const log = { trace: quiet, debug: quiet, info: quiet, warn: report, error: report, part: () => log };
  const engine = createFuseEngine({
    mountpoint,
    threads: Number(threads),
    writable: false,
    failoverPolicy: "none",
    supervised: false,
    workerUrl: new URL(import.meta.url),
    log,
    device: device === "cloned" ? "cloned" : "shared",
  });
  await engine.attach({
    mountpoint: "/",
    bootstrapPath: bootstrap,
    blobs: [finishedBlob(bootstrap, cache)],
    readDeadlineMs: 1000,
    xattr: false,
  });
  await engine.start();
  process.on("SIGTERM", () => void engine.stop({ unmount: true }).then(() => process.exit(0)));
  console.log("serving");
}

/** A blob of which everything is in the cache, in the shape the engine reads. */
function finishedBlob(bootstrap: string, cache: string): RafsMount["blobs"][number] {
  const [blob] = openBootstrap(readFileSync(bootstrap)).blobs;
  if (blob === undefined) throw new TypeError("the image has no blob");
  const file = readFileSync(`${cache}/${blob.id}.blob.meta`);
  const meta = openBlobMeta(file.subarray(0, blob.ciUncompressedSize), file.subarray(file.length - 4096), blob);
  const layout = new Uint32Array(new SharedArrayBuffer(meta.count * 8));
  for (let index = 0; index < meta.count; index++)
    layout.set([meta.uncompressedOffset(index) / 4096, meta.uncompressedSize(index)], 2 * index);
  const ready = new Int32Array(new SharedArrayBuffer(Math.ceil(meta.count / 32) * 4)).fill(-1);
  const dataFd = openSync(`${cache}/${blob.id}.blob.data`, "r");
  const unread = { dataFd, ready, layout, direct: false, chunkCount: meta.count, ensure: () => Promise.resolve() };
  return unread as unknown as RafsMount["blobs"][number];
}

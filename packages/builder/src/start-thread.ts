import { Worker } from "node:worker_threads";

/** A thread that runs a file of this package. It has little young memory: what threads hold is in buffers. */
export function startThread(file: URL): Worker {
  return new Worker(file, {
    // The condition is for a run from source, under whatever started this process.
    execArgv: ["--conditions=@nydus-ts/source", "--disable-warning=ExperimentalWarning"],
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
  });
}

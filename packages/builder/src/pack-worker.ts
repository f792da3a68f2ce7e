// What a thread of the pool runs. A file of its own, since it needs a small part of the program.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parentPort } from "node:worker_threads";
import { threadGarbageBytesMax } from "./limits.ts";
import { type PackJob, packHere } from "./pack.ts";

// The encoders make an output buffer of their own each time, and V8 lets 30 to 60 MiB of them gather in each thread before it looks. So the
// thread looks itself. The buffers live as long as the objects that they were made by, which takes a full collection, of 5 ms.
setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
let uncollected = 0;

parentPort?.on("message", (job: PackJob) => {
  try {
    parentPort?.postMessage(packHere(job));
  } catch (failure) {
    parentPort?.postMessage(String(failure));
  }
  if (job.compressor === "none") return;
  for (const length of job.lengths) uncollected += length;
  if (uncollected < threadGarbageBytesMax) return;
  uncollected = 0;
  collect();
});

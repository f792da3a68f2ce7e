// What a thread of the pool runs. A file of its own, since it needs a small part of the program.
import { parentPort } from "node:worker_threads";
import { type PackJob, packHere } from "./pack.ts";

parentPort?.on("message", (job: PackJob) => {
  try {
    parentPort?.postMessage(packHere(job));
  } catch (failure) {
    parentPort?.postMessage(String(failure));
  }
});

// What a thread of the pool runs. A file of its own, since it needs a small part of the program.
import { parentPort } from "node:worker_threads";
import { type PackJob, packHere } from "./pack.ts";

// One job a turn of the event loop, where the memory of lz4-napi's dropped buffers is given back. A port hands over all that is there, and
// what comes meanwhile, in one turn.
const queue: PackJob[] = [];

parentPort?.on("message", (job: PackJob) => {
  if (queue.push(job) === 1) setImmediate(next);
});

function next(): void {
  try {
    parentPort?.postMessage(packHere(queue[0]));
  } catch (failure) {
    parentPort?.postMessage(String(failure));
  }
  queue.shift();
  if (queue.length > 0) setImmediate(next);
}

// What a FUSE worker thread runs. A file of its own: four threads that each parse the whole program were half of the daemon's start.
import { workerData } from "node:worker_threads";
import { runFuseWorker } from "./engines/fuse/worker.ts";

runFuseWorker(workerData);

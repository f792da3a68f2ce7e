import { workerData } from "node:worker_threads";
import { runFuseWorker } from "../../src/engines/fuse/index.ts";

runFuseWorker(workerData);

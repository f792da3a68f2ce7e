import { parentPort, workerData } from "node:worker_threads";
import { WorkerTable } from "../src/worker-table.ts";

// A stand-in that rests once, then says whether help was wanted.
const table = new WorkerTable(workerData.table);
parentPort?.postMessage("resting");
table.rest(1, workerData.calls);
parentPort?.postMessage(table.helpWanted);

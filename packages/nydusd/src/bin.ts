#!/usr/bin/env node
import { writeSync } from "node:fs";
import { isMainThread, workerData } from "node:worker_threads";

// One file is both the program and its worker threads, so that it can be bundled. Each loads its own half only: a worker is up sooner.
if (isMainThread) {
  const { main } = await import("./main.ts");
  const terminate = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => terminate.abort());
  process.on("SIGPIPE", () => undefined);
  const write = (fd: number) => (text: string) => {
    try {
      writeSync(fd, text);
    } catch {
      // Nobody reads what is printed any more; the daemon goes on.
    }
  };
  const io = { env: process.env, workerUrl: new URL(import.meta.url), writeOut: write(1), writeErr: write(2), terminate: terminate.signal };
  process.exit(await main(process.argv.slice(2), io));
} else {
  const { runFuseWorker } = await import("./engines/fuse/worker.ts");
  runFuseWorker(workerData);
}

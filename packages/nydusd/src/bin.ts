#!/usr/bin/env node
import { writeSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { extname } from "node:path";
import { exitNow } from "@nydus-ts/linux";
import { config } from "zod";
import { main } from "./main.ts";

// A configuration is read a few times in a life: compiling a parser for it would take 28 ms of the first mount.
config({ jitless: true });

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
// The worker threads' file lies beside this one, as source or as bundle.
const workerUrl = new URL(`./fuse-worker${extname(import.meta.url)}`, import.meta.url);
const io = { env: process.env, workerUrl, writeOut: write(1), writeErr: write(2), terminate: terminate.signal };
const exitCode = await main(process.argv.slice(2), io);
flushCompileCache();
// Not `process.exit`: that waits for syncs of the cache and of the log, for seconds where the disk is busy.
exitNow(exitCode);

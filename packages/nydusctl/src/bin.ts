#!/usr/bin/env node
import { main } from "./main.ts";

const terminate = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => terminate.abort());
process.exitCode = await main(process.argv.slice(2), {
  writeOut: (text) => void process.stdout.write(text),
  writeErr: (text) => void process.stderr.write(text),
  isTerminal: process.stdout.isTTY === true && process.env["NO_COLOR"] === undefined,
  terminate: terminate.signal,
});

#!/usr/bin/env node
import { processIo } from "./io.ts";

// The launcher of nydusify gives its name as the first argument: both programs are one bundle, of which each loads its part.
const [, , first, ...rest] = process.argv;
if (first === "nydusify") {
  const { nydusify } = await import("./nydusify/main.ts");
  process.exitCode = await nydusify(rest, processIo());
} else {
  const { main } = await import("./main.ts");
  process.exitCode = await main(process.argv.slice(2), processIo());
}

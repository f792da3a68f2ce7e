#!/usr/bin/env node
import { processIo } from "./io.ts";

// The allocator of the lz4 and blake3 bindings, read when they are loaded: it else keeps what was freed, 30 to 60 MiB of a build.
process.env["MIMALLOC_PURGE_DELAY"] ??= "0";

// The launcher of nydusify gives its name as the first argument: both programs are one bundle, of which each loads its part.
const [, , first, ...rest] = process.argv;
if (first === "nydusify") {
  const { nydusify } = await import("./nydusify/main.ts");
  process.exitCode = await nydusify(rest, processIo());
} else {
  const { main } = await import("./main.ts");
  process.exitCode = await main(process.argv.slice(2), processIo());
}

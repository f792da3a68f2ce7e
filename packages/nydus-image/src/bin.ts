#!/usr/bin/env node
import { processIo } from "./io.ts";
import { main } from "./main.ts";
import { nydusify } from "./nydusify/main.ts";

// The launcher of nydusify gives its name as the first argument: both programs are one bundle.
const [, , first, ...rest] = process.argv;
process.exitCode = first === "nydusify" ? await nydusify(rest, processIo()) : await main(process.argv.slice(2), processIo());

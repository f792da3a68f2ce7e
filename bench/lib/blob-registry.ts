// A registry of a few blobs, as a program, since it has to live in a network namespace: node blob-registry.ts PORT BLOB_FILE…
import { readFileSync } from "node:fs";
import { TestRegistry } from "@nydus-ts/registry-client/testing";

const [port, ...files] = process.argv.slice(2);
const registry = await TestRegistry.start({ port: Number(port) });
for (const file of files) registry.putBlob(readFileSync(file));
process.stdout.write("ready\n");

import { closeSync, openSync, readSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

// A registry with one blob, on the loopback, for fuse-cold.ts: bin/node fuse-blob-server.ts FILE. Prints its address. A process of its own,
// since the benchmark blocks in its reads.
const [file = ""] = process.argv.slice(2);
const blob = openSync(file, "r");
const { size } = statSync(file);

const server = createServer((request, response) => {
  if (!request.url?.includes("/blobs/")) return void response.writeHead(request.url === "/v2/" ? 200 : 404).end();
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const start = Number(first ?? 0);
  const end = last === undefined || last === "" ? size - 1 : Math.min(Number(last), size - 1);
  const head = { "content-length": end - start + 1, "content-type": "application/octet-stream" };
  if (first === undefined) response.writeHead(200, head);
  else response.writeHead(206, { ...head, "content-range": `bytes ${start}-${end}/${size}` });
  if (request.method === "HEAD") return void response.end();
  const send = (at: number): void => {
    if (at > end) return void response.end();
    const part = Buffer.allocUnsafe(Math.min(1 << 20, end + 1 - at));
    readSync(blob, part, 0, part.length, at);
    if (response.write(part)) send(at + part.length);
    else response.once("drain", () => send(at + part.length));
  };
  send(start);
});
// Its client reads a mount for seconds, blocked, and then takes a connection that must still be there.
server.keepAliveTimeout = 120_000;
server.listen(0, "127.0.0.1", () => console.log(`127.0.0.1:${(server.address() as AddressInfo).port}`));
process.once("SIGTERM", () => {
  server.closeAllConnections();
  server.close(() => closeSync(blob));
});

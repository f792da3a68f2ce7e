// A process that speaks nydusd's HTTP API and supervisor protocol and mounts nothing: for tests of how daemons are started, watched and replaced.
// Real mounts are tested with the real daemon. Told how to misbehave by the file TINY_NYDUSD_ORDERS (JSON).
import { closeSync, existsSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { recvWithFds, sendWithFds, unixConnect } from "@nydus-ts/linux";

const args = process.argv.slice(2);
const option = (name: string): string | undefined => (args.includes(name) ? args[args.indexOf(name) + 1] : undefined);
const socket = option("--apisock") as string;
const supervisor = option("--supervisor");
const upgrade = args.includes("--upgrade");

interface Orders {
  dieAtStart?: string;
  refuseMount?: string;
  mountDelayMs?: number;
  refuseTakeover?: boolean;
}
const ordersFile = process.env["TINY_NYDUSD_ORDERS"];
const orders = (): Orders =>
  ordersFile !== undefined && existsSync(ordersFile) ? (JSON.parse(readFileSync(ordersFile, "utf8")) as Orders) : {};

const { dieAtStart } = orders();
if (dieAtStart !== undefined) {
  console.error(dieAtStart);
  process.exit(1);
}

let state = upgrade ? "INIT" : "RUNNING";
let device = upgrade ? -1 : openSync("/dev/null", "r");
let mounts: Record<string, { source: string; config: string; probe: boolean; prefetch_files?: string[] }> = {};

const routes: Record<string, (body: string, query: URLSearchParams) => unknown | Promise<unknown>> = {
  "GET /api/v1/daemon": () => ({
    version: { package_ver: "v0.0.0" },
    id: option("--id") ?? null,
    supervisor: supervisor ?? null,
    state,
    backend_collection: Object.fromEntries(
      Object.entries(mounts).map(([path, mount]) => [
        path,
        { backend_type: "Rafs", mountpoint: path, prefetch: mount.prefetch_files, probe: mount.probe },
      ]),
    ),
  }),
  "POST /api/v1/mount": async (body, query) => {
    const { refuseMount, mountDelayMs } = orders();
    if (mountDelayMs !== undefined) await new Promise((resolve) => setTimeout(resolve, mountDelayMs));
    if (refuseMount !== undefined) throw new Error(refuseMount);
    const path = query.get("mountpoint") as string;
    if (mounts[path] !== undefined) throw new Error("object or filesystem already exists");
    mounts[path] = JSON.parse(body) as (typeof mounts)[string];
  },
  "DELETE /api/v1/mount": (_body, query) => {
    const path = query.get("mountpoint") as string;
    if (mounts[path] === undefined) throw new Error("object or filesystem doesn't exist");
    delete mounts[path];
  },
  "PUT /api/v1/daemon/fuse/sendfd": async () => {
    const fd = await unixConnect(supervisor as string, { deadlineMs: 2_000 });
    await sendWithFds(fd, { data: Buffer.from(JSON.stringify(mounts)), fds: [device] }, { deadlineMs: 2_000 });
    closeSync(fd);
  },
  "PUT /api/v1/daemon/fuse/takeover": async () => {
    if (orders().refuseTakeover === true) throw new Error("state refused");
    const fd = await unixConnect(supervisor as string, { deadlineMs: 2_000 });
    const { data, fds } = await recvWithFds(fd, { bytesMax: 1 << 20, deadlineMs: 2_000 });
    closeSync(fd);
    if (fds.length !== 1) throw new Error("no descriptor came");
    device = fds[0];
    mounts = JSON.parse(data.toString()) as typeof mounts;
    state = "READY";
  },
  "PUT /api/v1/daemon/start": () => {
    state = "RUNNING";
  },
};

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? "/", "http://localhost");
  let body = "";
  for await (const part of request) body += String(part);
  try {
    const route = routes[`${request.method} ${url.pathname}`];
    if (route === undefined) throw new Error("NoRoute");
    const result = await route(body, url.searchParams);
    if (result === undefined) response.writeHead(204).end();
    else response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(result));
  } catch (error) {
    response.writeHead(500).end(JSON.stringify({ code: "UNDEFINED", message: (error as Error).message }));
  }
}

rmSync(socket, { force: true });
createServer((request, response) => void answer(request, response)).listen(socket);
process.on("SIGTERM", () => process.exit(0));

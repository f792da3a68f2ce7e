import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import type { Network } from "./network.ts";
import { mustRun, type Program, run, until } from "./process.ts";
import type { Workspace } from "./workspace.ts";

export interface RegistryOptions {
  readonly network?: Network;
  /** Default: a free port. */
  readonly port?: number;
  /** Where it stores; default a folder of the workspace. */
  readonly storage?: string;
  /** Added to every round trip, by a relay in front. */
  readonly roundTripMs?: number | undefined;
}

/** One answered request, from the registry's own access log. */
export interface RegistryRequest {
  readonly method: string;
  readonly path: string;
  readonly status: number;
  /** Bytes of the body. */
  readonly bytes: number;
}

/** Debian's docker-registry on a loopback port, plain HTTP. */
export interface Registry {
  /** "127.0.0.1:PORT", as in image references. */
  readonly host: string;
  readonly program: Program;
  /** Requests answered so far; `pattern` filters by path. */
  requests(pattern?: RegExp): RegistryRequest[];
  stop(): Promise<void>;
}

/** Starts a registry and waits until it answers. */
export async function startRegistry(workspace: Workspace, options: RegistryOptions = {}): Promise<Registry> {
  const port = options.port ?? (await freePort());
  const directory = workspace.path(`registry-${port}`);
  mkdirSync(directory, { recursive: true });
  const config = `${directory}/config.yml`;
  const upstream = `${directory}/registry.sock`;
  writeFileSync(
    config,
    `version: 0.1
log: { level: error, accesslog: { disabled: false } }
storage: { filesystem: { rootdirectory: ${options.storage ?? `${directory}/storage`} }, delete: { enabled: true } }
http: ${options.roundTripMs === undefined ? `{ addr: "127.0.0.1:${port}" }` : `{ net: unix, addr: "${upstream}" }`}
`,
  );
  const logFile = `${directory}/registry.log`;
  const program = workspace.start({
    command: "docker-registry",
    args: ["serve", config],
    logFile,
    network: options.network,
    env: { OTEL_TRACES_EXPORTER: "none" },
  });
  const relay =
    options.roundTripMs === undefined
      ? undefined
      : workspace.start({
          command: process.execPath,
          args: [join(import.meta.dirname, "delay-proxy.ts"), String(port), upstream, String(options.roundTripMs)],
          logFile: `${directory}/relay.log`,
          network: options.network,
        });
  const host = `127.0.0.1:${port}`;
  await until(`registry at ${host} (log: ${logFile})`, async () => {
    mustRun(program, "the registry");
    const probe = await run("busybox", ["wget", "-q", "-O", "-", `http://${host}/v2/`], { network: options.network, check: false });
    return probe.code === 0 ? true : undefined;
  });
  return {
    host,
    program,
    requests: (pattern) => parseAccessLog(readFileSync(logFile, "utf8")).filter((request) => pattern?.test(request.path) ?? true),
    stop: async () => {
      await relay?.stop();
      await program.stop();
    },
  };
}

/** A TCP port of the loopback that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve((address as { port: number }).port));
    });
  });
}

/** Lines in Apache's combined form: `127.0.0.1 - - [time] "GET /v2/x/blobs/y HTTP/1.1" 206 1234 "" "agent"`. */
function parseAccessLog(log: string): RegistryRequest[] {
  const requests: RegistryRequest[] = [];
  for (const [, method = "", path = "", status, bytes] of log.matchAll(/"([A-Z]+) (\S+) HTTP\/[0-9.]+" (\d{3}) (\d+)/g)) {
    requests.push({ method, path, status: Number(status), bytes: Number(bytes) });
  }
  return requests;
}

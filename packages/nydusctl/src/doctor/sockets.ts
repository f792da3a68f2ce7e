import { existsSync, readdirSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { join } from "node:path";
import { NydusdClient } from "@nydus-ts/nydus-api";
import { bad, type Finding, ok, warn } from "./finding.ts";

/** A gRPC socket answers when the HTTP/2 settings of the other side arrive. */
export async function checkGrpcSocket(check: string, path: string, timeoutMs: number, fix: readonly string[]): Promise<Finding> {
  if (!existsSync(path)) return bad(check, `there is no socket ${path}`, ...fix);
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const session = connectHttp2("http://localhost", { createConnection: () => connect(path) });
  const timer = setTimeout(() => resolve(`no answer within ${timeoutMs} ms`), timeoutMs);
  session.once("remoteSettings", () => resolve(undefined));
  session.on("error", (error: NodeJS.ErrnoException) =>
    resolve(error.code === "ECONNREFUSED" ? "nobody listens" : (error.code ?? error.message)),
  );
  session.once("close", () => resolve("closed without an answer"));
  const fault = await promise;
  clearTimeout(timer);
  session.destroy();
  return fault === undefined ? ok(check, `${path} answers`) : bad(check, `${path}: ${fault}`, ...fix);
}

/** Every daemon below the snapshotter's root, and those named on the command line. */
export async function checkDaemons(root: string, named: readonly string[], timeoutMs: number): Promise<Finding[]> {
  const paths = [...named, ...foundSockets(join(root, "socket"))];
  if (paths.length === 0) return [ok("nydusd", "no daemon runs; the first image starts one")];
  return Promise.all(
    paths.map(async (path) => {
      try {
        const info = await new NydusdClient(path, { timeoutMs }).info();
        const images = Object.keys(info.backend_collection ?? {}).length;
        const text = `${path}: ${info.version.package_ver}, ${info.state}, ${images} images`;
        return info.state === "RUNNING" ? ok("nydusd", text) : warn("nydusd", text, "look into the daemon's log");
      } catch (error) {
        return bad("nydusd", (error as Error).message, "systemctl restart nydus-snapshotter   # it restarts its daemons, containers go on");
      }
    }),
  );
}

function foundSockets(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name, "api.sock");
    return entry.isDirectory() && existsSync(path) ? [path] : [];
  });
}

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { join } from "node:path";
import toml from "toml";
import { bad, type Finding, ok, warn } from "./finding.ts";

/** Host of a reference or of `host[:port]`: the part before the first slash when it looks like a host, else Docker Hub. */
export function hostOf(reference: string): string {
  const first = reference.split("/")[0] ?? "";
  const isHost = first.includes(".") || first.includes(":") || first === "localhost";
  if (!isHost && reference.includes("/")) return "registry-1.docker.io";
  if (!isHost) return "registry-1.docker.io";
  return first === "docker.io" || first === "index.docker.io" ? "registry-1.docker.io" : first;
}

/** Asks `/v2/` of the host itself, as a daemon without mirrors would. 401 is an answer: the registry is there and wants credentials. */
export async function checkRegistry(reference: string, timeoutMs: number): Promise<Finding> {
  const host = hostOf(reference);
  const loopback = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/.test(host);
  const schemes = loopback ? ["http", "https"] : ["https"];
  const faults: string[] = [];
  for (const scheme of schemes) {
    const url = `${scheme}://${host}/v2/`;
    const answer = await ask(url, timeoutMs);
    if (answer === 200 || answer === 401) return ok("registry", `${url} answers (${answer}${answer === 401 ? ", wants credentials" : ""})`);
    faults.push(`${url}: ${typeof answer === "number" ? `status ${answer}` : answer}`);
  }
  const fix = [
    `curl -v ${schemes[0]}://${host}/v2/`,
    "mirrors and plain HTTP: a hosts.toml in the mirrors directory; proxies: HTTPS_PROXY of the snapshotter's unit",
  ];
  return bad("registry", `${faults.join("; ")}`, ...fix);
}

function ask(url: string, timeoutMs: number): Promise<number | string> {
  const { promise, resolve } = Promise.withResolvers<number | string>();
  const request = (url.startsWith("https:") ? httpsRequest : httpRequest)(url, { timeout: timeoutMs }, (response) => {
    response.resume();
    resolve(response.statusCode ?? 0);
  });
  request.on("timeout", () => {
    resolve(`no answer within ${timeoutMs} ms`);
    request.destroy();
  });
  request.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  request.end();
  return promise;
}

/**
 * A mirror or plain-HTTP rule that only containerd knows makes pulls succeed and every later read fail. Compares the hosts of both
 * directories. (users.md row 61)
 */
export function checkMirrors(options: {
  readonly containerdDirs: readonly string[];
  readonly snapshotterDirs: readonly string[];
  readonly snapshotterConfig: string;
}): Finding[] {
  const theirs = hostsOf(options.containerdDirs);
  const ours = hostsOf(options.snapshotterDirs);
  if (theirs.size === 0 && ours.size === 0) return [ok("mirrors", "no mirrors are configured, neither in containerd nor here")];
  const findings: Finding[] = [];
  for (const [host, rule] of theirs) {
    const own = ours.get(host);
    if (own?.urls.join(" ") === rule.urls.join(" ")) continue;
    const difference = own === undefined ? "and no rule for it here" : `here (${own.path}) to ${own.urls.join(", ") || "nothing"}`;
    findings.push(
      bad(
        "mirrors",
        `containerd sends ${host} to ${rule.urls.join(", ") || "its own server"} (${rule.path}), ${difference}: pulls would work and reads would not`,
        `# in ${options.snapshotterConfig}`,
        "[remote.mirrors_config]",
        `  dir = "${rule.directory}"`,
      ),
    );
  }
  for (const [host, rule] of ours) {
    if (!theirs.has(host))
      findings.push(
        warn("mirrors", `only the daemon has a rule for ${host} (${rule.path}); containerd pulls manifests from the host itself`),
      );
  }
  if (findings.length === 0)
    findings.push(ok("mirrors", `containerd and the daemon use the same hosts for ${[...theirs.keys()].join(", ")}`));
  return findings;
}

interface Rule {
  readonly directory: string;
  readonly path: string;
  readonly urls: readonly string[];
}

function hostsOf(directories: readonly string[]): Map<string, Rule> {
  const rules = new Map<string, Rule>();
  for (const directory of directories) {
    if (!existsSync(directory)) continue;
    for (const host of readdirSync(directory)) {
      const path = join(directory, host, "hosts.toml");
      if (rules.has(host) || !existsSync(path)) continue;
      rules.set(host, { directory, path, urls: urlsOf(path) });
    }
  }
  return rules;
}

function urlsOf(path: string): string[] {
  try {
    const file = toml.parse(readFileSync(path, "utf8")) as { server?: unknown; host?: Record<string, unknown> };
    return [...Object.keys(file.host ?? {}), ...(typeof file.server === "string" ? [file.server] : [])];
  } catch {
    return ["(not valid TOML)"];
  }
}

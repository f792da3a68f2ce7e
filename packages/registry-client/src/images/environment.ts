import { type HostConfig, isLoopback, loadHosts, MirrorConfigError, originHost } from "@nydus-ts/mirror-config";
import { RegistryError } from "../errors.ts";
import type { ProxyOptions } from "../http/proxy.ts";
import { serverOf } from "../reference.ts";
import { serverConfig } from "../watched-hosts.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** What the environment of a command line tool says about reaching a registry. */
export interface RegistryEnvironment {
  /** `NYDUS_HOSTS_DIRS`, separated by colons: directories of `<host>/hosts.toml` or docker's certificate folders. */
  readonly hostsDirs: readonly string[];
  /** `HTTPS_PROXY`, `HTTP_PROXY` by the registry's scheme, unless `NO_PROXY` names it. */
  readonly proxy?: ProxyOptions;
}

/** Reads it the way Go programs do, nydusify among them. Source: spec/nydusify.md, section 1.3; golang.org/x/net/http/httpproxy */
export function registryEnvironment(host: string, scheme: "http" | "https" | undefined, environment: Environment): RegistryEnvironment {
  const hostsDirs = (environment["NYDUS_HOSTS_DIRS"] ?? "").split(":").filter((directory) => directory !== "");
  const url = proxyFor(new URL(`${schemeOf(host, scheme)}://${serverOf(host)}`), environment);
  if (url === undefined) return { hostsDirs };
  const applies = (target: URL): boolean => proxyFor(target, environment) === url;
  return {
    hostsDirs,
    proxy: { url, applies, always: true, fallback: false, checkIntervalMs: 0, checkPauseElapsedMs: 0, useHttp: false },
  };
}

/**
 * The hosts of a registry as hosts directories describe them; undefined where they say nothing.
 *
 * @throws RegistryError REGISTRY_CONFIG with file and line
 */
export async function hostsOf(
  host: string,
  directories: readonly string[],
  origin: { readonly scheme?: "http" | "https"; readonly caFiles?: readonly string[]; readonly skipVerify?: boolean },
): Promise<readonly HostConfig[] | undefined> {
  if (directories.length === 0) return undefined;
  const loaded = await loadHosts(directories, host).catch((cause: unknown) => {
    if (cause instanceof MirrorConfigError) throw new RegistryError("REGISTRY_CONFIG", cause.message, { cause });
    throw cause;
  });
  if (loaded === undefined) return undefined;
  const { scheme, caFiles = [], skipVerify = false } = origin;
  const server = originHost(serverOf(host), schemeOf(host, scheme), { caFiles, skipVerify });
  return [...loaded.mirrors, serverConfig(loaded, server)];
}

function schemeOf(host: string, scheme: "http" | "https" | undefined): "http" | "https" {
  return scheme ?? (isLoopback(serverOf(host)) ? "http" : "https");
}

function proxyFor(url: URL, environment: Environment): string | undefined {
  const name = url.protocol === "https:" ? "HTTPS_PROXY" : "HTTP_PROXY";
  const proxy = environment[name] ?? environment[name.toLowerCase()] ?? "";
  if (proxy === "" || isLoopback(url.host)) return undefined;
  const spared = (environment["NO_PROXY"] ?? environment["no_proxy"] ?? "").split(",").map((word) => word.trim().toLowerCase());
  if (spared.some((word) => word === "*" || matches(word, url))) return undefined;
  return proxy.includes("://") ? proxy : `http://${proxy}`;
}

/** `example.com` stands for itself and what is below it, `.example.com` for what is below it; a port must be the same. */
function matches(word: string, { hostname, port, protocol }: URL): boolean {
  const parts = /^(\*?\.)?([^:]+|\[[^\]]+\])(?::(\d+))?$/.exec(word);
  if (parts === null) return false;
  const [, below, name, wantedPort] = parts;
  if (wantedPort !== undefined && wantedPort !== (port || (protocol === "https:" ? "443" : "80"))) return false;
  return hostname.endsWith(`.${name}`) || (below === undefined && hostname === name);
}

import { dirname, isAbsolute, resolve } from "node:path";
import { parse } from "toml";
import { z } from "zod";
import { MirrorConfigError, type Problem } from "./errors.ts";
import { CAPABILITIES, type Capability, type HostConfig, originHost } from "./host.ts";
import { CONFIG_BYTES_MAX, HOSTS_MAX } from "./limits.ts";
import { lineOf } from "./toml-lines.ts";

/** What a hosts.toml says. `server` is there if the file describes the registry itself. */
export interface LoadedHosts {
  readonly file: string;
  readonly mirrors: readonly HostConfig[];
  readonly server?: HostConfig;
  /** True if `server` names a URL; else it only describes the registry under its own name. */
  readonly serverNamed: boolean;
  /** Keys that are unknown or have no effect here, one line each. */
  readonly warnings: readonly string[];
}

const text = z.string();
const oneOrMore = z.union([text, z.array(text)]).transform((value) => (typeof value === "string" ? [value] : value));
const seconds = (expectation: string) => z.number(expectation).int(expectation).positive(expectation).max(86_400, expectation);
const duration = z
  .union([seconds("a number of seconds"), text.regex(/^\d+(\.\d+)?(ms|s|m)$/, 'a duration such as "5s"')])
  .transform((value) => {
    if (typeof value === "number") return value * 1000;
    const [, number, unit] = /^([\d.]+)(ms|s|m)$/.exec(value) as unknown as [string, string, "ms" | "s" | "m"];
    return Number(number) * { ms: 1, s: 1000, m: 60_000 }[unit];
  });
const hostKeys = {
  capabilities: z.array(z.enum(CAPABILITIES as [Capability, ...Capability[]], `one of ${CAPABILITIES.join(", ")}`)).optional(),
  ca: oneOrMore.optional(),
  client: z.union([text, z.array(z.union([text, z.array(text).length(1), z.tuple([text, text])]))]).optional(),
  skip_verify: z.boolean().optional(),
  header: z.record(z.string().regex(/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/, "a header name"), oneOrMore).optional(),
  override_path: z.boolean().optional(),
  auth_through: z.boolean().optional(),
  ping_url: z.string().optional(),
  failure_limit: z.number().int().min(1).max(255).optional(),
  health_check_interval: seconds("a number of seconds from 1 to 86400").optional(),
  dial_timeout: duration.optional(),
};
const hostTable = z.looseObject(hostKeys);
const file = z.looseObject({ ...hostKeys, server: z.string().optional(), host: z.record(z.string(), hostTable).optional() });
type HostTable = z.infer<typeof hostTable>;

/** In a header's value: one `_default/hosts.toml` serves every registry. */
const REGISTRY_PLACEHOLDER = /\$\{registry\}/g;

const EXPECTED = "expected ";

/**
 * Parses a hosts.toml. Everything that is wrong with it is in the error, with its line.
 *
 * @param registryHost  the registry it is for; `${registry}` in a header's value stands for it
 * @throws MirrorConfigError MIRROR_CONFIG_INVALID
 * Source: containerd docs/hosts.md; spec/snapshotter.md, section 4
 */
export function parseHostsFile(content: string, path: string, registryHost: string): LoadedHosts {
  const problems: Problem[] = [];
  const problem = (key: readonly string[], message: string): void => {
    const line = lineOf(content, key);
    problems.push({ file: path, ...(line === undefined ? {} : { line }), key: formatKey(key), message });
  };
  if (Buffer.byteLength(content) > CONFIG_BYTES_MAX) {
    throw new MirrorConfigError("MIRROR_CONFIG_INVALID", [
      { file: path, key: "", message: `the file is larger than ${CONFIG_BYTES_MAX} bytes` },
    ]);
  }
  let raw: unknown;
  try {
    raw = parse(content);
  } catch (cause) {
    const { line, message } = cause as { line?: number; message: string };
    throw new MirrorConfigError(
      "MIRROR_CONFIG_INVALID",
      [{ file: path, ...(line === undefined ? {} : { line }), key: "", message: `not TOML: ${message}` }],
      { cause },
    );
  }
  const parsed = file.safeParse(raw);
  if (!parsed.success) {
    for (const issue of parsed.error.issues) {
      const key = issue.path.map(String);
      problem(
        key,
        `${issue.message.startsWith(EXPECTED) ? "" : EXPECTED}${issue.message.replace(/^Invalid input: /, "")}, found ${show(at(raw, key))}`,
      );
    }
    throw new MirrorConfigError("MIRROR_CONFIG_INVALID", problems);
  }
  const warnings = unknownKeys(parsed.data, content, path);
  const hosts = Object.entries(parsed.data.host ?? {});
  if (hosts.length > HOSTS_MAX) problem(["host"], `expected at most ${HOSTS_MAX} hosts, found ${hosts.length}`);
  const context = { path, registryHost, problem };
  const mirrors = hosts.map(([url, table]) => hostOf(url, table, "mirror", ["host", url], context)).filter((host) => host !== undefined);
  const { server, host: _, ...top } = parsed.data;
  const describesServer = server !== undefined || Object.keys(hostKeys).some((key) => key in top);
  const serverConfig = describesServer
    ? hostOf(server ?? `https://${registryHost}`, top, "origin", server === undefined ? [] : ["server"], context)
    : undefined;
  if (problems.length > 0) throw new MirrorConfigError("MIRROR_CONFIG_INVALID", problems);
  return {
    file: path,
    mirrors,
    ...(serverConfig === undefined ? {} : { server: serverConfig }),
    serverNamed: server !== undefined,
    warnings,
  };
}

interface Context {
  readonly path: string;
  readonly registryHost: string;
  readonly problem: (key: readonly string[], message: string) => void;
}

function hostOf(
  text: string,
  table: HostTable,
  kind: "mirror" | "origin",
  key: readonly string[],
  context: Context,
): HostConfig | undefined {
  const url = parseUrl(/^https?:/i.test(text) ? text : `https://${text}`);
  if (url === undefined) {
    context.problem(key, `expected a URL such as "https://mirror.example:5000", found ${show(text)}`);
    return undefined;
  }
  const own = kind === "origin" ? [] : key;
  if (table.ping_url !== undefined && table.ping_url !== "" && parseUrl(table.ping_url) === undefined) {
    context.problem([...own, "ping_url"], `expected a URL, found ${show(table.ping_url)}`);
  }
  const headers: Record<string, readonly string[]> = {};
  for (const [name, values] of Object.entries(table.header ?? {})) {
    const filled = values.map((value) => value.replaceAll(REGISTRY_PLACEHOLDER, context.registryHost));
    if (filled.some((value) => /[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]/.test(value)))
      context.problem([...own, "header", name], "expected text without control characters");
    else headers[name.toLowerCase()] = filled;
  }
  const prefix = url.pathname.replace(/\/+$/, "");
  const authThrough = table.auth_through ?? false;
  const base = originHost(url.host === "docker.io" ? "registry-1.docker.io" : url.host, url.protocol === "http:" ? "http" : "https");
  const beside = (name: string): string => (isAbsolute(name) ? name : resolve(dirname(context.path), name));
  return {
    ...base,
    kind,
    basePath: table.override_path === true ? prefix : prefix.endsWith("/v2") ? prefix : `${prefix}/v2`,
    capabilities: table.capabilities ?? (kind === "origin" ? CAPABILITIES : (["pull", "resolve"] as const)),
    caFiles: [...new Set((table.ca ?? []).map(beside))],
    clientCertificates: clients(table.client, beside),
    skipVerify: table.skip_verify ?? false,
    headers,
    authThrough,
    sharesCredentials: kind === "origin" || authThrough,
    ...(table.ping_url === undefined || table.ping_url === "" ? {} : { pingUrl: table.ping_url }),
    ...(table.dial_timeout === undefined ? {} : { connectTimeoutMs: table.dial_timeout }),
    ...(table.failure_limit === undefined ? {} : { failureLimit: table.failure_limit }),
    ...(table.health_check_interval === undefined ? {} : { healthCheckIntervalMs: table.health_check_interval * 1000 }),
    ...(kind === "mirror" && base.host !== context.registryHost ? { namespace: context.registryHost } : {}),
  };
}

function clients(client: HostTable["client"], beside: (name: string) => string): { certFile: string; keyFile?: string }[] {
  if (client === undefined) return [];
  return (typeof client === "string" ? [client] : client).map((entry) => {
    const [certFile, keyFile] = typeof entry === "string" ? [entry] : entry;
    return { certFile: beside(certFile as string), ...(keyFile === undefined ? {} : { keyFile: beside(keyFile) }) };
  });
}

function unknownKeys(data: Record<string, unknown>, content: string, path: string): string[] {
  const known = new Set(Object.keys(hostKeys));
  const report = (key: string[]): string => `${path}:${lineOf(content, key) ?? 1}: ${formatKey(key)}: unknown key, ignored`;
  const warnings = Object.keys(data)
    .filter((key) => !known.has(key) && key !== "server" && key !== "host")
    .map((key) => report([key]));
  for (const [url, table] of Object.entries((data["host"] as Record<string, Record<string, unknown>> | undefined) ?? {})) {
    for (const key of Object.keys(table)) if (!known.has(key)) warnings.push(report(["host", url, key]));
  }
  return warnings;
}

function parseUrl(text: string): URL | undefined {
  const url = URL.parse(text);
  const good =
    url !== null &&
    (url.protocol === "http:" || url.protocol === "https:") &&
    url.hostname !== "" &&
    url.username === "" &&
    url.password === "";
  return good ? url : undefined;
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((inner, key) => (inner as Record<string, unknown> | undefined)?.[key], value);
}

/** A value for a message; tables and lists only by their kind, they may be long or hold a secret header. */
function show(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "a table";
  return JSON.stringify(value).slice(0, 100);
}

function formatKey(key: readonly string[]): string {
  return key.map((part) => (/^[A-Za-z0-9_-]+$/.test(part) ? part : JSON.stringify(part))).join(".");
}

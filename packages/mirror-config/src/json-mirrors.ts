import { z } from "zod";
import { MirrorConfigError, type Problem } from "./errors.ts";
import { CAPABILITIES, type HostConfig, originHost } from "./host.ts";
import { HOSTS_MAX } from "./limits.ts";

const mirror = z.looseObject({
  host: z.string(),
  headers: z.record(z.string(), z.string()).default({}),
  auth_through: z.boolean().default(false),
  ping_url: z.string().default(""),
  health_check_interval: z.number().int().nonnegative().default(5),
  failure_limit: z.number().int().min(0).max(255).default(5),
  health_check_pause_elapsed: z.number().int().nonnegative().default(300),
});

/**
 * Reads `mirrors` of nydusd's configuration (JSON or TOML, already parsed). Entries with an empty host are left out, as nydusd does.
 * Only scheme, host and port of `host` count. The registry's password may be sent to these mirrors.
 *
 * @param options.file, options.key  where the list stands, for messages
 * @throws MirrorConfigError MIRROR_CONFIG_INVALID with every problem
 * Source: spec/nydusd.md, section 3.3.9
 */
export function parseMirrors(json: unknown, options: { file: string; key: string }): HostConfig[] {
  if (json === undefined || json === null) return [];
  const { file, key } = options;
  const problems: Problem[] = [];
  if (!Array.isArray(json))
    throw new MirrorConfigError("MIRROR_CONFIG_INVALID", [{ file, key, message: `expected a list, found ${typeof json}` }]);
  if (json.length > HOSTS_MAX) problems.push({ file, key, message: `expected at most ${HOSTS_MAX} mirrors, found ${json.length}` });
  const hosts: HostConfig[] = [];
  for (const [index, entry] of json.slice(0, HOSTS_MAX).entries()) {
    const parsed = mirror.safeParse(entry);
    if (!parsed.success) {
      for (const issue of parsed.error.issues) {
        problems.push({
          file,
          key: [`${key}[${index}]`, ...issue.path.map(String)].join("."),
          message: issue.message.replace(/^Invalid input: /, ""),
        });
      }
      continue;
    }
    const { data } = parsed;
    if (data.host === "") continue;
    const url = URL.parse(data.host);
    if (url === null || (url.protocol !== "http:" && url.protocol !== "https:") || url.hostname === "") {
      problems.push({
        file,
        key: `${key}[${index}].host`,
        message: `expected a URL with scheme such as "http://127.0.0.1:65001", found ${JSON.stringify(data.host.slice(0, 100))}`,
      });
      continue;
    }
    hosts.push({
      ...originHost(url.host, url.protocol === "http:" ? "http" : "https"),
      kind: "mirror",
      capabilities: CAPABILITIES.filter((capability) => capability !== "push"),
      headers: Object.fromEntries(Object.entries(data.headers).map(([name, value]) => [name.toLowerCase(), [value]])),
      authThrough: data.auth_through,
      sharesCredentials: true,
      ...(data.ping_url === "" ? {} : { pingUrl: data.ping_url }),
      failureLimit: Math.max(1, data.failure_limit),
      healthCheckIntervalMs: Math.max(1, data.health_check_interval) * 1000,
    });
  }
  if (problems.length > 0) throw new MirrorConfigError("MIRROR_CONFIG_INVALID", problems);
  return hosts;
}

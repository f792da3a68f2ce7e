import { existsSync, readFileSync, statSync } from "node:fs";
import { parse } from "toml";
import { z } from "zod";
import { messageOf, SnapshotterError } from "../errors.ts";
import { type Config, configSchema, ineffective, refusals } from "./schema.ts";
import { lineOfKey } from "./toml-position.ts";

/** What the command line gives; an empty or absent value means "not given". */
export interface Overrides {
  readonly root?: string | undefined;
  readonly address?: string | undefined;
  readonly nydusd?: string | undefined;
  readonly nydusImage?: string | undefined;
  readonly nydusdConfig?: string | undefined;
  readonly daemonMode?: string | undefined;
  readonly fsDriver?: string | undefined;
  readonly logLevel?: string | undefined;
  readonly nydusOverlayfsPath?: string | undefined;
  readonly logToStdout?: boolean | undefined;
}

const OVERRIDE_KEYS = {
  root: ["root", "--root"],
  address: ["address", "--address"],
  nydusd: ["daemon.nydusd_path", "--nydusd"],
  nydusImage: ["daemon.nydusimage_path", "--nydus-image"],
  nydusdConfig: ["daemon.nydusd_config", "--nydusd-config"],
  daemonMode: ["daemon_mode", "--daemon-mode"],
  fsDriver: ["daemon.fs_driver", "--fs-driver"],
  logLevel: ["log.level", "--log-level"],
  nydusOverlayfsPath: ["snapshot.nydus_overlayfs_path", "--nydus-overlayfs-path"],
  logToStdout: ["log.log_to_stdout", "--log-to-stdout"],
} as const satisfies Record<keyof Overrides, readonly [string, string]>;

export interface LoadedConfig {
  readonly config: Config;
  /** For the log: unknown keys with a suggestion, settings without effect. */
  readonly warnings: readonly string[];
}

/**
 * The configuration: flags over file over defaults. Without `path` no file is read.
 * @throws SnapshotterError CONFIG_INVALID: all faults at once, one line each: `FILE:LINE: KEY: expected …, found …`
 */
export function loadConfig(path: string | undefined, overrides: Overrides): LoadedConfig {
  const source = path === undefined ? "" : readText(path);
  const raw = path === undefined ? { version: 1 } : parseToml(path, source);
  const flags = applyOverrides(raw, overrides);
  const where = (key: readonly PropertyKey[]): string => {
    const dotted = key.map(String).join(".");
    const flagName = flags.get(dotted);
    if (flagName !== undefined) return flagName;
    const line = path === undefined ? undefined : lineOfKey(source, key);
    return `${path ?? "configuration"}${line === undefined ? "" : `:${line}`}: ${dotted || "file"}`;
  };
  const result = configSchema.safeParse(raw, { reportInput: true });
  if (!result.success)
    throw new SnapshotterError("CONFIG_INVALID", result.error.issues.map((issue) => `${where(issue.path)}: ${faultOf(issue)}`).join("\n"));
  const config = result.data;
  const faults = refusals.filter((refusal) => refusal.refused(config)).map(({ path, advice }) => `${where(path)}: ${advice}`);
  const mirrors = config.remote.mirrors_config.dir;
  if (mirrors !== "" && !isDirectory(mirrors))
    faults.push(`${where(["remote", "mirrors_config", "dir"])}: ${mirrors} is not a directory; make it or remove the key`);
  if (faults.length > 0) throw new SnapshotterError("CONFIG_INVALID", faults.join("\n"));
  const warnings = [
    ...unknownKeys(raw, configSchema, []).map(
      ({ path, suggestion }) =>
        `${where(path)}: unknown key, ignored${suggestion === undefined ? "" : `; did you mean ${[...path.slice(0, -1), suggestion].join(".")}?`}`,
    ),
    ...ineffective
      .filter(({ given }) => given(config))
      .map(({ path, consequence }) => `${where(path)}: not supported by this version: ${consequence}`),
  ];
  return { config: deepFreeze(config), warnings };
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new SnapshotterError(
      "CONFIG_INVALID",
      `${path}: cannot be read: ${messageOf(error)}; see misc/snapshotter/config.toml for an example`,
      { cause: error },
    );
  }
}

function parseToml(path: string, source: string): Record<string, unknown> {
  try {
    return parse(source) as Record<string, unknown>;
  } catch (error) {
    const { location, expected } = error as { location?: { start?: { line: number; column: number } }; expected?: unknown };
    const at = location?.start === undefined ? "" : `:${location.start.line}:${location.start.column}`;
    const what =
      expected === undefined || expected === null
        ? messageOf(error)
        : messageOf(error).replace(/^Expected .* but (.*) found\.$/s, "a value or key is malformed here, found $1");
    throw new SnapshotterError("CONFIG_INVALID", `${path}${at}: not TOML: ${what}`, { cause: error });
  }
}

/** Writes the given flags into the raw file; answers which key came from which flag. */
function applyOverrides(raw: Record<string, unknown>, overrides: Overrides): Map<string, string> {
  const flags = new Map<string, string>();
  for (const [name, [key, flag]] of Object.entries(OVERRIDE_KEYS) as [keyof Overrides, readonly [string, string]][]) {
    const value = overrides[name];
    if (value === undefined || value === "") continue;
    const parts = key.split(".");
    let table = raw;
    for (const part of parts.slice(0, -1)) {
      if (typeof table[part] !== "object" || table[part] === null) table[part] = {};
      table = table[part] as Record<string, unknown>;
    }
    table[parts[parts.length - 1]] = value;
    flags.set(key, flag);
  }
  return flags;
}

function faultOf(issue: z.core.$ZodIssue): string {
  const found = issue.input === undefined ? "nothing" : JSON.stringify(issue.input);
  switch (issue.code) {
    case "invalid_value":
      return issue.values.length === 1
        ? `${issue.message}, found ${found}`
        : `expected one of ${issue.values.map((value) => JSON.stringify(value)).join(", ")}, found ${found}`;
    case "invalid_type":
      return `expected ${article(issue.expected)}, found ${found}`;
    case "too_small":
      return `expected at least ${issue.minimum}, found ${found}`;
    case "too_big":
      return `expected at most ${issue.maximum}, found ${found}`;
    default:
      return `${issue.message}, found ${found}`;
  }
}

const article = (type: string): string => (/^[aeiou]/.test(type) ? `an ${type}` : type === "boolean" ? "true or false" : `a ${type}`);

function unknownKeys(value: unknown, schema: z.ZodType, path: readonly string[]): { path: string[]; suggestion: string | undefined }[] {
  const inner = objectOf(schema);
  if (inner === undefined || typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, child]) => {
    const known = inner.shape[key] as z.ZodType | undefined;
    if (known !== undefined) return unknownKeys(child, known, [...path, key]);
    return [{ path: [...path, key], suggestion: nearest(key, Object.keys(inner.shape)) }];
  });
}

function objectOf(schema: z.ZodType): z.ZodObject | undefined {
  if (schema instanceof z.ZodObject) return schema;
  return schema instanceof z.ZodPrefault ? objectOf(schema.unwrap() as z.ZodType) : undefined;
}

/** The known key that a mistyped one most likely means: few edits away, or one contains the other. */
function nearest(key: string, known: readonly string[]): string | undefined {
  const ranked = known.map((candidate) => ({ candidate, distance: editDistance(key, candidate) })).sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  if (best !== undefined && best.distance <= Math.max(2, Math.floor(key.length / 4))) return best.candidate;
  return known.find((candidate) => candidate.includes(key) || key.includes(candidate));
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length];
}

const isDirectory = (path: string): boolean => existsSync(path) && statSync(path).isDirectory();

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null) {
    for (const child of Object.values(value)) deepFreeze(child);
    Object.freeze(value);
  }
  return value;
}

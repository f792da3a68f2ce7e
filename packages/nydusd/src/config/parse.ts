import { readFileSync, statSync } from "node:fs";
import toml from "toml";
import type { z } from "zod";
import { NydusdError } from "../errors.ts";
import { configBytesMax } from "../limits.ts";
import { jsonKeyLines, type KeyLines, lineOf, tomlKeyLines } from "./locate.ts";
import { configV1Schema, toV2 } from "./schema-v1.ts";
import { type ConfigV2, configV2Schema } from "./schema-v2.ts";

export interface ParsedConfig {
  /** Every key with its default filled in, always version 2. */
  readonly config: ConfigV2;
  /** One line for each unknown key. */
  readonly warnings: readonly string[];
}

/** Keys whose values never appear in a message. */
const secretKeys = new Set(["auth", "registry_token", "access_key_id", "access_key_secret", "encryption_key", "headers", "url"]);

/**
 * Reads a configuration: version 2 as JSON or TOML, version 1 as JSON.
 *
 * @param name  what messages call the text: its path, or "configuration of /mountpoint"
 * @throws NydusdError CONFIG_INVALID: all faults at once, each `name:line: key: expectation, finding`
 * Source: spec/nydusd.md, section 3
 */
export function parseConfig(text: string, name: string): ParsedConfig {
  if (Buffer.byteLength(text) > configBytesMax) throw new NydusdError("CONFIG_INVALID", `${name}: larger than ${configBytesMax} bytes`);
  const { value, lines, form } = readDocument(text, name);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new NydusdError(
      "CONFIG_INVALID",
      `${name}: expected a configuration (${form} with "version" or "device"), found ${Array.isArray(value) ? "a list" : typeof value}`,
    );
  }
  const warnings: string[] = [];
  let input: unknown = value;
  if (!("version" in value)) {
    if (!("device" in value)) {
      const hint = 'version 2 has the key "version = 2", version 1 (JSON) has "device"';
      throw new NydusdError("CONFIG_INVALID", `${name}: neither a version 2 nor a version 1 configuration; ${hint}`);
    }
    const v1 = check(configV1Schema, value, { name, lines, warnings });
    input = toV2(v1);
  }
  const config = check(configV2Schema, input, { name, lines, warnings });
  return { config, warnings };
}

/** @throws NydusdError CONFIG_INVALID when the file can't be read, is too large, or is malformed */
export function readConfigFile(path: string): string {
  try {
    if (statSync(path).size > configBytesMax) throw new NydusdError("CONFIG_INVALID", `${path}: larger than ${configBytesMax} bytes`);
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (cause instanceof NydusdError) throw cause;
    const reason = (cause as NodeJS.ErrnoException).code ?? "unknown error";
    throw new NydusdError("CONFIG_INVALID", `${path}: the configuration can't be read (${reason}); check --config`, { cause });
  }
}

function readDocument(text: string, name: string): { value: unknown; lines: KeyLines; form: "JSON" | "TOML" } {
  if (text.trim() === "") throw new NydusdError("CONFIG_INVALID", `${name}:1: the text is empty`);
  if (/^\s*[{[]\s*(["}\]]|$)/.test(text)) {
    try {
      return { value: JSON.parse(text), lines: jsonKeyLines(text), form: "JSON" };
    } catch {
      const { line, reason } = jsonFault(text);
      throw new NydusdError("CONFIG_INVALID", `${name}:${line}: not valid JSON: ${reason}`);
    }
  }
  try {
    return { value: toml.parse(text), lines: tomlKeyLines(text), form: "TOML" };
  } catch (error) {
    const { line, location } = error as { line?: number; location?: { start: { line: number } } };
    const reason = "neither JSON (it does not begin with a brace) nor valid TOML";
    throw new NydusdError("CONFIG_INVALID", `${name}:${location?.start.line ?? line ?? 1}: ${reason}`);
  }
}

/**
 * V8 quotes the text around a fault, which may hold a secret, and often names no position. So the fault is looked for: it stands at the
 * end of the shortest beginning of the text that no continuation could make valid.
 */
function jsonFault(text: string): { line: number; reason: string } {
  let good = 0;
  let bad = text.length + 1;
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (canContinue(text.slice(0, middle))) good = middle;
    else bad = middle;
  }
  const line = text.slice(0, good).split("\n").length;
  return { line, reason: `unexpected ${good >= text.length ? "end of the text" : `character ${JSON.stringify(text[good])}`}` };
}

function canContinue(beginning: string): boolean {
  try {
    JSON.parse(beginning);
    return true;
  } catch (error) {
    const { message } = error as Error;
    const position = /position (\d+)/.exec(message);
    // "Unterminated string" stands at its begin; a literal cut short ("tru") is an unexpected end too.
    return /end of JSON input|Unterminated/.test(message) || (position !== null && Number(position[1]) >= beginning.length);
  }
}

interface Document {
  readonly name: string;
  readonly lines: KeyLines;
  readonly warnings: string[];
}

/** Unknown keys are taken out with a warning, then everything else is reported at once. */
function check<S extends z.ZodType>(schema: S, input: unknown, document: Document): z.output<S> {
  const value = structuredClone(input);
  let result = schema.safeParse(value, { reportInput: true });
  for (let round = 0; round < 8 && result.error?.issues.some((issue) => issue.code === "unrecognized_keys"); round++) {
    for (const issue of result.error.issues) {
      if (issue.code !== "unrecognized_keys") continue;
      const table = valueAt(value, issue.path);
      for (const key of issue.keys) {
        delete table[key];
        document.warnings.push(`${at(document, [...issue.path, key])}: unknown key, ignored`);
      }
    }
    result = schema.safeParse(value, { reportInput: true });
  }
  if (result.success) return result.data;
  const faults = result.error.issues.map((issue) => `${at(document, issue.path)}: ${sentence(issue)}`);
  throw new NydusdError("CONFIG_INVALID", faults.join("\n"));
}

function valueAt(value: unknown, path: readonly PropertyKey[]): Record<string, unknown> {
  return path.reduce<unknown>((table, key) => (table as Record<PropertyKey, unknown>)[key], value) as Record<string, unknown>;
}

function at(document: Document, path: readonly PropertyKey[]): string {
  const line = lineOf(document.lines, path);
  return `${document.name}${line === undefined ? "" : `:${line}`}: ${path.map(String).join(".") || "configuration"}`;
}

function sentence(issue: z.core.$ZodIssue): string {
  const key = String(issue.path.at(-1) ?? "");
  const finding = secretKeys.has(key) ? "" : found(issue.input);
  if (issue.code === "invalid_type")
    return issue.input === undefined ? `is missing, expected a ${issue.expected}` : `expected ${issue.expected}${finding}`;
  if (issue.code === "invalid_value") {
    const expectation = `expected ${issue.values.map((value) => JSON.stringify(value)).join(" or ")}`;
    return issue.input === undefined ? `is missing, ${expectation}` : `${expectation}${finding}`;
  }
  if (issue.code === "too_big") return `expected at most ${issue.maximum}${finding}`;
  if (issue.code === "too_small" && issue.origin !== "string") return `expected at least ${issue.minimum}${finding}`;
  return issue.message;
}

function found(input: unknown): string {
  if (input === undefined) return "";
  if (typeof input === "object" && input !== null) return `, found ${Array.isArray(input) ? "an array" : "a table"}`;
  return `, found ${JSON.stringify(input)?.slice(0, 80)}`;
}

import pino, { type Logger } from "pino";

/** What the rooms of this package log with; a pino logger is one. */
export type Log = Pick<Logger, "debug" | "info" | "warn" | "error">;

export const silentLog: Log = pino({ level: "silent" });

/** Levels of the configuration (logrus's) as pino's. */
const LEVELS = {
  panic: "fatal",
  fatal: "fatal",
  error: "error",
  warn: "warn",
  warning: "warn",
  info: "info",
  debug: "debug",
  trace: "trace",
} as const;

/** A log whose lines are logfmt, as the original's: `time="…" level=info msg="…" key=value`. */
export function createLog(level: keyof typeof LEVELS, write: (line: string) => void): Log {
  return pino(
    { level: LEVELS[level], base: null },
    { write: (json: string) => write(logfmt(JSON.parse(json) as Record<string, unknown>)) },
  );
}

/** One record as a line with its line end. Time, level and message first, then the rest in the order given. */
export function logfmt(record: Record<string, unknown>): string {
  const { time, level, msg, ...rest } = record;
  const label = pino.levels.labels[level as number] ?? "info";
  const stamp = new Date(time as number).toISOString().replace(/Z$/, "000000Z");
  const fields = Object.entries(rest)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}=${valueText(value)}`);
  return `time="${stamp}" level=${label === "warn" ? "warning" : label} msg=${JSON.stringify(msg ?? "")}${fields.join("")}\n`;
}

function valueText(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return /^[A-Za-z0-9._/:@^+-]+$/.test(text) ? text : JSON.stringify(text);
}

/** The log of a command: one record a line on standard error, or appended to a file. Source: spec/nydus-image.md, section 1.5 */
import { appendFileSync, mkdirSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import type { Output } from "./io.ts";

const levels = ["trace", "debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof levels)[number];
export const logLevels: readonly string[] = levels;

export interface Log {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

export function createLog(options: { level: LogLevel; file: string | undefined; stderr: Output; now?: () => Date }): Log {
  const { file, stderr, now = () => new Date() } = options;
  const path = file === undefined ? undefined : extname(file) === "" ? join(dirname(file), `${basename(file)}.log`) : file;
  if (path !== undefined) mkdirSync(dirname(path), { recursive: true });
  const least = levels.indexOf(options.level);
  const record = (level: LogLevel) => (message: string) => {
    if (levels.indexOf(level) < least) return;
    const line = `[${timestamp(now())}] ${level.toUpperCase()} ${message}\n`;
    if (path === undefined) stderr.write(line);
    else appendFileSync(path, line);
  };
  return { debug: record("debug"), info: record("info"), warn: record("warn"), error: record("error") };
}

/** Local time with microseconds and numeric zone. */
function timestamp(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const offset = -date.getTimezoneOffset();
  const zone = `${offset < 0 ? "-" : "+"}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")}000`;
  return `${day} ${time} ${zone}`;
}

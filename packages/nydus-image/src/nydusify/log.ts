/** Log lines as nydusify writes them, on standard error or appended to a file. Source: spec/nydusify.md, section 1.1 and 1.2 */
import { appendFileSync } from "node:fs";
import type { Output } from "../io.ts";
import type { Log } from "../log.ts";

export const levels = ["panic", "fatal", "error", "warn", "info", "debug", "trace"] as const;
export type Level = (typeof levels)[number];

export interface NydusifyLog extends Log {
  fatal(message: string): void;
}

export function createNydusifyLog(options: { level: Level; file: string | undefined; stderr: Output; now?: () => Date }): NydusifyLog {
  const { file, level: least, stderr, now = () => new Date() } = options;
  const record = (level: Level) => (message: string) => {
    if (levels.indexOf(level) > levels.indexOf(least)) return;
    const word = level === "warn" ? "warning" : level;
    const line = `time="${now().toISOString()}" level=${word} msg=${JSON.stringify(message)}\n`;
    if (file === undefined) stderr.write(line);
    else appendFileSync(file, line);
  };
  return { debug: record("debug"), info: record("info"), warn: record("warn"), error: record("error"), fatal: record("fatal") };
}

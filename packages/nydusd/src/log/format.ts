export const levelNames: Record<number, string> = { 10: "trace", 20: "debug", 30: "info", 40: "warn", 50: "error", 60: "error" };

/** One event as pino writes it. */
export interface LogRecord {
  readonly level: number;
  /** Milliseconds since 1970, with microseconds as fraction. */
  readonly time: number;
  readonly part?: string;
  readonly msg: string;
}

/**
 * `[2026-03-04 05:06:07.123456 +00:00] INFO text`, local time; levels other than INFO name the part of the daemon: `WARN [images] text`.
 * Line breaks inside a text become `\n`, so one event is one line. Source: spec/nydusd.md 2.1.
 */
export function formatLine(record: LogRecord): string {
  const name = levelNames[record.level] ?? String(record.level);
  const where = record.level === 30 || record.part === undefined ? "" : ` [${record.part}]`;
  return `[${localTime(record.time)}] ${name.toUpperCase()}${where} ${record.msg.replaceAll("\n", "\\n")}\n`;
}

const pad = (value: number, width = 2): string => String(value).padStart(width, "0");

/** @param time  milliseconds since 1970, fractions are microseconds */
export function localTime(time: number): string {
  const date = new Date(time);
  const offset = -date.getTimezoneOffset();
  const micros = pad(Math.floor((time - Math.floor(time)) * 1000), 3);
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}${micros}`;
  const minutes = Math.abs(offset);
  return `${day} ${clock} ${offset < 0 ? "-" : "+"}${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}`;
}

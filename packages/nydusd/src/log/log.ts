import { type Logger, pino } from "pino";
import { formatLine, type LogRecord } from "./format.ts";

/** Levels of `--log-level`; the API also knows `off`. */
export const logLevels = ["trace", "debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

/** The daemon's log. Texts are single events; secrets never go in. */
export interface Log {
  trace(text: string): void;
  debug(text: string): void;
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
  /** The same log with the name of a part of the daemon. */
  part(name: string): Log;
}

export interface LogSink {
  write(line: string): void;
}

export interface RootLog extends Log {
  /** @param level  one of `logLevels`, or `off` */
  setLevel(level: LogLevel | "off"): void;
}

/** @param format  `text` for people, `json` for machines (one object a line: level, time, part, msg) */
export function createLog(sink: LogSink, options: { readonly level: LogLevel; readonly format: "text" | "json" }): RootLog {
  const destination = {
    write(line: string): void {
      sink.write(options.format === "json" ? line : formatLine(JSON.parse(line) as LogRecord));
    },
  };
  const root = pino(
    {
      level: options.level,
      base: null,
      timestamp: () => `,"time":${performance.timeOrigin + performance.now()}`,
      ...(options.format === "json" ? { formatters: { level: (label: string) => ({ level: label }) } } : {}),
    },
    destination,
  );
  return new PinoLog(root, root);
}

class PinoLog implements RootLog {
  readonly #logger: Logger;
  readonly #root: Logger;
  readonly #children: Logger[] = [];

  constructor(logger: Logger, root: Logger) {
    this.#logger = logger;
    this.#root = root;
  }

  trace(text: string): void {
    this.#logger.trace(text);
  }
  debug(text: string): void {
    this.#logger.debug(text);
  }
  info(text: string): void {
    this.#logger.info(text);
  }
  warn(text: string): void {
    this.#logger.warn(text);
  }
  error(text: string): void {
    this.#logger.error(text);
  }

  part(name: string): Log {
    const child = this.#logger.child({ part: name });
    this.#children.push(child);
    return new PinoLog(child, this.#root);
  }

  setLevel(level: LogLevel | "off"): void {
    // A pino child keeps the level it was born with, so parts follow by hand.
    const name = level === "off" ? "silent" : level;
    this.#root.level = name;
    for (const child of this.#children) child.level = name;
  }
}

import {
  closeSync,
  createReadStream,
  createWriteStream,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { rename, unlink } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { createGzip } from "node:zlib";
import { logFilesMax } from "../limits.ts";
import type { LogSink } from "./log.ts";

/** Milliseconds the end of the process waits for a compression; the next process finishes it. */
const closeMs = 300;

/**
 * A log file that is appended to and, with a limit, rotated: the active file is `<stem>_rCURRENT<ext>`, full ones become
 * `<stem>_r<date_time><ext>.gz`, the newest `logFilesMax` stay. Source: spec/nydusd.md 2.2.
 *
 * A write that fails (disk full) loses the line and never the daemon; the next line that can be written says how many were lost.
 */
export class RotatingFile implements LogSink {
  readonly #directory: string;
  readonly #stem: string;
  readonly #extension: string;
  readonly #bytesMax: number;
  readonly #path: string;
  #fd: number;
  #size: number;
  #lost = 0;
  #compressing: Promise<void> = Promise.resolve();

  /** @param bytesMax  size at which the file is rotated; 0 = never */
  constructor(path: string, bytesMax: number) {
    this.#directory = dirname(path);
    this.#extension = extname(path) || ".log";
    this.#stem = basename(path, extname(path));
    this.#bytesMax = bytesMax;
    mkdirSync(this.#directory, { recursive: true });
    this.#path = join(this.#directory, `${this.#stem}${bytesMax > 0 ? "_rCURRENT" : ""}${this.#extension}`);
    this.#fd = openSync(this.#path, "a", 0o640);
    this.#size = fstatSync(this.#fd).size;
  }

  write(line: string): void {
    try {
      if (this.#bytesMax > 0 && this.#size >= this.#bytesMax) this.#rotate();
      const text = this.#lost === 0 ? line : `(${this.#lost} lines were lost: the log could not be written)\n${line}`;
      this.#size += writeSync(this.#fd, text);
      this.#lost = 0;
    } catch {
      this.#lost += 1;
    }
  }

  /** Waits a moment for compression and closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.race([this.#compressing, sleep(closeMs, undefined, { ref: false })]);
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #rotate(): void {
    const stamp = new Date(Date.now() - new Date().getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
    const name = `${this.#stem}_r${stamp.replace("T", "_").replaceAll(":", "-")}`;
    const taken = new Set(readdirSync(this.#directory));
    let full = `${name}${this.#extension}`;
    for (let n = 1; taken.has(full) || taken.has(`${full}.gz`); n++)
      full = `${name}.restart-${String(n).padStart(4, "0")}${this.#extension}`;
    const rotated = join(this.#directory, full);
    renameSync(this.#path, rotated);
    const next = openSync(this.#path, "a", 0o640);
    closeSync(this.#fd);
    this.#fd = next;
    this.#size = 0;
    this.#compressing = this.#compressing.then(() => this.#compressRotated()).catch(() => undefined);
  }

  /** Also files that an earlier process rotated and had no time to compress. */
  async #compressRotated(): Promise<void> {
    const rotated = this.#rotated();
    for (const name of rotated.filter((each) => each.endsWith(this.#extension))) {
      const path = join(this.#directory, name);
      await pipeline(createReadStream(path), createGzip(), createWriteStream(`${path}.tmp`, { mode: 0o640 }));
      await rename(`${path}.tmp`, `${path}.gz`);
      await unlink(path);
    }
    const compressed = this.#rotated().filter((name) => name.endsWith(".gz"));
    for (const name of compressed.sort().slice(0, -logFilesMax)) unlinkSync(join(this.#directory, name));
  }

  #rotated(): string[] {
    return readdirSync(this.#directory).filter((name) => name.startsWith(`${this.#stem}_r2`));
  }
}

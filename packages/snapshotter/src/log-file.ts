import {
  closeSync,
  createReadStream,
  createWriteStream,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";

export interface LogFileOptions {
  readonly directory: string;
  /** Bytes; 0 never rotates. */
  readonly bytesMax: number;
  /** Old files kept; 0 keeps all. */
  readonly backups: number;
  /** Old files older than this are removed; 0 keeps them. */
  readonly ageMs: number;
  readonly localTime: boolean;
  readonly compress: boolean;
}

const NAME = "nydus-snapshotter";

/** The log in a file that is renamed when it would grow beyond its bound. A full disk costs lines, never the program. Source: spec/snapshotter.md 1.6. */
export class LogFile {
  readonly #options: LogFileOptions;
  readonly #path: string;
  #fd: number;
  #size: number;

  constructor(options: LogFileOptions) {
    this.#options = options;
    mkdirSync(options.directory, { recursive: true, mode: 0o755 });
    this.#path = join(options.directory, `${NAME}.log`);
    this.#fd = openSync(this.#path, "a", 0o644);
    this.#size = fstatSync(this.#fd).size;
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    try {
      if (this.#options.bytesMax > 0 && this.#size > 0 && this.#size + bytes.length > this.#options.bytesMax) this.#rotate();
      this.#size += writeSync(this.#fd, bytes);
    } catch {
      // Nowhere to tell: the line is lost, the next one may fit.
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #rotate(): void {
    const now = new Date();
    const shifted = this.#options.localTime ? new Date(now.getTime() - now.getTimezoneOffset() * 60_000) : now;
    const old = join(this.#options.directory, `${NAME}-${shifted.toISOString().replaceAll(":", "-").replace("Z", "")}.log`);
    renameSync(this.#path, old);
    closeSync(this.#fd);
    this.#fd = openSync(this.#path, "a", 0o644);
    this.#size = 0;
    void (this.#options.compress ? compress(old) : Promise.resolve()).catch(() => undefined).then(() => this.#prune());
  }

  #prune(): void {
    const { directory, backups, ageMs } = this.#options;
    const old = readdirSync(directory)
      .filter((name) => name.startsWith(`${NAME}-`))
      .sort()
      .reverse();
    for (const [index, name] of old.entries()) {
      const path = join(directory, name);
      const tooOld = ageMs > 0 && Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()) > ageMs;
      if ((backups > 0 && index >= backups) || tooOld) rmSync(path, { force: true });
    }
  }
}

async function compress(path: string): Promise<void> {
  await pipeline(createReadStream(path), createGzip(), createWriteStream(`${path}.gz`, { mode: 0o644 }));
  rmSync(path, { force: true });
}

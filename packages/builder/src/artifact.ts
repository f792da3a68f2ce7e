/**
 * Output files. What is there under the final name is whole: bytes go to a temporary name beside it, are synced, then renamed.
 * A failed build leaves nothing behind.
 */
import { createHash, type Hash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, rename, stat, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { BuilderError } from "./errors.ts";
import { syncBehindBytes, writeBatchBytes } from "./limits.ts";

/**
 * Where an artifact goes: a file, or a directory in which its name is its id. `isTemporary`: the file is gone before the program is, so
 * nobody waits for the disk.
 */
export type Destination = { file: string } | { directory: string; isTemporary?: boolean };

export interface AppendOptions {
  /** false: the bytes stay out of the running SHA-256, which the digest array of a blob asks for */
  hashed?: boolean;
}

/** What the bytes of a blob go to. Without a commit before it, disposing leaves nothing behind. */
export interface BlobOutput extends AsyncDisposable {
  /** bytes appended so far */
  readonly position: number;
  /** The bytes must stay as they are until a `flush` after it is done. */
  append(bytes: Uint8Array, options?: AppendOptions): Promise<void>;
  flush(): Promise<void>;
  /** SHA-256 of what was appended so far. */
  digest(): Buffer;
  /** Begins what takes longest of a commit. Nothing may be appended any more; what fails is told by `commit`. */
  beginSync(): void;
  /** Makes the output appear under its name; returns its path. */
  commit(id: string): Promise<string>;
}

/** An output file being written, from its start to its end. */
export class Artifact implements BlobOutput {
  readonly #destination: Destination;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  readonly #direct: boolean;
  readonly #hash: Hash = createHash("sha256");
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #writing: Promise<void> = Promise.resolve();
  #syncing: Promise<void> | undefined;
  #unsyncedBytes = 0;
  #syncFailure: unknown;
  /** set while the disk works on what was written so far */
  #syncingBehind: Promise<void> | undefined;
  #position = 0;
  #done = false;

  private constructor(destination: Destination, temporary: string, handle: FileHandle, direct: boolean) {
    this.#destination = destination;
    this.#temporary = temporary;
    this.#handle = handle;
    this.#direct = direct;
  }

  /** @throws BuilderError BUILD_OUTPUT */
  static async create(destination: Destination): Promise<Artifact> {
    const directory = "file" in destination ? dirname(destination.file) : destination.directory;
    const name = "file" in destination ? basename(destination.file) : "blob";
    try {
      if ("file" in destination && (await isFifoOrDevice(destination.file))) {
        return new Artifact(destination, destination.file, await open(destination.file, "w"), true);
      }
      const temporary = join(directory, `.${name}.${randomBytes(6).toString("hex")}.tmp`);
      const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
      return new Artifact(destination, temporary, await open(temporary, flags, 0o666), false);
    } catch (cause) {
      throw new BuilderError("BUILD_OUTPUT", `can not create output in ${directory}: ${(cause as Error).message}`, { cause });
    }
  }

  /** Bytes written so far, those that still wait in memory included. */
  get position(): number {
    return this.#position;
  }

  async append(bytes: Uint8Array, { hashed = true }: AppendOptions = {}): Promise<void> {
    if (bytes.length === 0) return;
    if (hashed) this.#hash.update(bytes);
    const last = this.#pending.at(-1);
    if (last && isNext(last, bytes))
      this.#pending[this.#pending.length - 1] = new Uint8Array(bytes.buffer, last.byteOffset, last.length + bytes.length);
    else this.#pending.push(bytes);
    this.#pendingBytes += bytes.length;
    this.#position += bytes.length;
    if (this.#pendingBytes < writeBatchBytes) return;
    const before = this.#writing;
    this.flush().catch(() => {}); // whoever comes next is told
    await before;
  }

  /** Writes go on while the next bytes are hashed; those to a file are under way together, each at its place. */
  async flush(): Promise<void> {
    const parts = this.#pending;
    const start = this.#position - this.#pendingBytes;
    this.#pending = [];
    this.#pendingBytes = 0;
    const before = this.#writing;
    const write = this.#direct ? before.then(() => this.#writeParts(parts, undefined)) : this.#writeParts(parts, start);
    this.#writing = Promise.all([before, write]).then(() => {});
    this.#writing.catch(() => {}); // whoever comes next is told
    await this.#writing;
  }

  /** `start`: of the first part in the file; undefined for what has no places, where writes must come one after the other. */
  async #writeParts(given: readonly Uint8Array[], start: number | undefined): Promise<void> {
    let parts = given;
    let at = start;
    while (parts.length > 0) {
      // writev(2) may write less than asked for, also on a full disk: the next call then says why.
      let { bytesWritten } = await this.#handle.writev(parts, at);
      if (at !== undefined) at += bytesWritten;
      this.#syncBehind(bytesWritten);
      while (parts.length > 0 && bytesWritten >= parts[0].length) {
        bytesWritten -= parts[0].length;
        parts = parts.slice(1);
      }
      if (bytesWritten > 0) parts = [parts[0].subarray(bytesWritten), ...parts.slice(1)];
    }
  }

  /** The disk works on what is written while the build goes on. It else had all of it to do at the end, with the build waiting. */
  #syncBehind(bytesWritten: number): void {
    this.#unsyncedBytes += bytesWritten;
    if (!this.#isSynced || this.#syncingBehind || this.#unsyncedBytes < syncBehindBytes) return;
    this.#unsyncedBytes = 0;
    this.#syncingBehind = this.#handle
      .datasync()
      .catch((failure: unknown) => {
        // The kernel tells a failed write-back once: whoever syncs next would not hear of it.
        this.#syncFailure ??= failure;
      })
      .finally(() => {
        this.#syncingBehind = undefined;
      });
  }

  get #isSynced(): boolean {
    return !this.#direct && !("directory" in this.#destination && this.#destination.isTemporary);
  }

  digest(): Buffer {
    return this.#hash.copy().digest();
  }

  beginSync(): void {
    this.#syncing = this.#sync();
    this.#syncing.catch(() => {}); // `commit` tells
  }

  async #sync(): Promise<void> {
    await this.flush();
    await this.#syncingBehind;
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
    if (this.#isSynced) await this.#handle.sync();
  }

  /** Makes the artifact appear. In a directory its name is `id`; a file of that name that is there already is kept: equal name, equal bytes. */
  async commit(id: string): Promise<string> {
    const path = "file" in this.#destination ? this.#destination.file : join(this.#destination.directory, id);
    try {
      await (this.#syncing ?? this.#sync());
      await this.#handle.close();
      this.#done = true;
      if (this.#direct) return path;
      if ("directory" in this.#destination && (await exists(path))) await unlink(this.#temporary);
      else await rename(this.#temporary, path);
      return path;
    } catch (cause) {
      throw new BuilderError("BUILD_OUTPUT", `can not finish ${path}: ${(cause as Error).message}`, { cause });
    }
  }

  /** Without a commit before it, the temporary file goes. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    await this.#writing.catch(() => {});
    await this.#syncing?.catch(() => {});
    await this.#syncingBehind;
    await this.#handle.close().catch(() => {});
    if (!this.#direct) await unlink(this.#temporary).catch(() => {});
  }
}

/** True if `bytes` stand right behind `last` in the same memory. */
function isNext(last: Uint8Array, bytes: Uint8Array): boolean {
  return last.buffer === bytes.buffer && last.byteOffset + last.length === bytes.byteOffset;
}

/** Writes a file whole: its name appears with all its bytes or not at all. */
export async function writeFileWhole(path: string, bytes: Uint8Array): Promise<void> {
  await writeWhole({ file: path }, bytes, "");
}

/** Writes a small artifact whole; in a directory it is named by its SHA-256. Returns its path. */
export async function writeArtifact(destination: Destination, bytes: Uint8Array): Promise<string> {
  return await writeWhole(destination, bytes, createHash("sha256").update(bytes).digest("hex"));
}

async function writeWhole(destination: Destination, bytes: Uint8Array, id: string): Promise<string> {
  await using artifact = await Artifact.create(destination);
  await artifact.append(bytes);
  return await artifact.commit(id);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

async function isFifoOrDevice(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && (found.isFIFO() || found.isCharacterDevice());
}

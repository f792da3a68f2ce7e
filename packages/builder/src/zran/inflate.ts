/**
 * Deflate decoder, for a Node whose binary hides its zlib, that stops at the borders of blocks and knows where in the input it stands, to the bit: what `node:zlib` does not tell.
 *
 * It stops exactly where zlib's `inflate(Z_BLOCK)` stops, since the positions are recorded in images: when the output is full it still
 * consumes the next code, as far as the present piece of input reaches. Invariants: between runs less than 8 bits are held back, and they
 * are of the byte before `at`; output lies in `window`, of which the last 32 KiB before `out` stay.
 * Source: RFC 1951; spec/nydus-image.md, section 6.4
 */
import { BuilderError } from "../errors.ts";
import { baseValue, distanceRootBits, endOfBlock, fixedTables, HuffmanTable, invalidCode, literalRootBits, subtable } from "./huffman.ts";
import { type Inflater, OutputWindow, type Stop } from "./output-window.ts";

const literalMask = (1 << literalRootBits) - 1;
const distanceMask = (1 << distanceRootBits) - 1;
const codeLengthOrder = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const matchBytesMax = 258;
/** A length and distance pair has at most 48 bits, and up to two bytes are read ahead. */
const symbolBytesMax = 8;
/** From this length on the engine's own copy is faster than a loop. */
const longCopyBytes = 48;
const fixed = fixedTables();

export class ScriptInflater extends OutputWindow implements Inflater {
  readonly input: Uint8Array;
  at = 0;
  end = 0;
  starved = false;

  #hold = 0;
  #bits = 0;
  #state: "header" | "stored" | "codes" = "header";
  #isFinal = false;
  #storedLeft = 0;
  /** output that was decoded but had no room: a match, or a literal if the distance is 0 */
  #pendingLength = 0;
  #pendingDistance = 0;
  #pendingLiteral = 0;
  #literals = fixed.literals;
  #distances = fixed.distances;
  readonly #ownLiterals = new HuffmanTable("literal");
  readonly #ownDistances = new HuffmanTable("distance");
  readonly #codeLengths = new HuffmanTable("codeLength");
  readonly #lengths = new Uint8Array(320);

  constructor(inputBytes: number, outputBytes: number) {
    super(outputBytes);
    this.input = new Uint8Array(inputBytes);
  }

  get unusedBits(): number {
    return this.#bits;
  }

  restart(): void {
    this.#state = "header";
    this.#isFinal = false;
    this.#bits = 0;
    this.#hold = 0;
    this.history = this.out;
  }

  run(limit: number): Stop {
    this.starved = false;
    if (this.#state === "header") {
      if (!this.#blockHeader()) return "input";
    }
    if (this.#state === "codes") return this.#codes(limit);
    const bytes = Math.min(this.#storedLeft, this.end - this.at, limit - this.out);
    this.window.set(this.input.subarray(this.at, this.at + bytes), this.out);
    this.at += bytes;
    this.out += bytes;
    this.#storedLeft -= bytes;
    if (this.#storedLeft === 0) return this.#endBlock();
    return this.out === limit ? "output" : "input";
  }

  close(): void {}

  #endBlock(): Stop {
    this.#state = "header";
    return this.#isFinal ? "final" : "boundary";
  }

  /** Takes all of a block's header or nothing. */
  #blockHeader(): boolean {
    const bits = new BitReader(this.input, this.at, this.end, this.#hold, this.#bits);
    const isFinal = bits.take(1);
    const type = bits.take(2);
    if (type === 0) {
      bits.alignToByte();
      const length = bits.take(16);
      const complement = bits.take(16);
      if (bits.isShort) return false;
      if (length !== (complement ^ 0xffff)) throw damaged("the length of a stored block contradicts itself");
      this.#storedLeft = length;
      this.#state = "stored";
    } else if (type === 1) {
      if (bits.isShort) return false;
      this.#literals = fixed.literals;
      this.#distances = fixed.distances;
      this.#state = "codes";
    } else if (type === 2) {
      if (!this.#dynamicCodes(bits)) return false;
      this.#literals = this.#ownLiterals;
      this.#distances = this.#ownDistances;
      this.#state = "codes";
    } else {
      if (bits.isShort) return false;
      throw damaged("a block has the type 3, which does not exist");
    }
    this.#isFinal = isFinal === 1;
    this.at = bits.at;
    this.#hold = bits.hold;
    this.#bits = bits.bits;
    return true;
  }

  #dynamicCodes(bits: BitReader): boolean {
    const literalCount = bits.take(5) + 257;
    const distanceCount = bits.take(5) + 1;
    const codeCount = bits.take(4) + 4;
    const lengths = this.#lengths.fill(0);
    for (let i = 0; i < codeCount; i++) lengths[codeLengthOrder[i]] = bits.take(3);
    if (bits.isShort) return false;
    if (literalCount > 286 || distanceCount > 30) throw damaged("a block has more codes than there are symbols");
    if (!this.#codeLengths.build(lengths, 0, 19, false)) throw damaged("the code lengths of a block are no Huffman code");
    lengths.fill(0);
    const entries = this.#codeLengths.entries;
    for (let i = 0; i < literalCount + distanceCount; ) {
      const symbol = bits.symbol(entries, 127);
      if (symbol < 16) {
        if (bits.isShort) return false;
        lengths[i++] = symbol;
        continue;
      }
      const previous = symbol === 16 ? (i === 0 ? -1 : lengths[i - 1]) : 0;
      const repeat = symbol === 16 ? 3 + bits.take(2) : symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7);
      if (bits.isShort) return false;
      if (previous < 0 || i + repeat > literalCount + distanceCount) throw damaged("the code lengths of a block repeat beyond their list");
      lengths.fill(previous, i, i + repeat);
      i += repeat;
    }
    if (lengths[256] === 0) throw damaged("a block has no code for its end");
    if (!this.#ownLiterals.build(lengths, 0, literalCount, true)) throw damaged("the literal codes of a block are no Huffman code");
    if (!this.#ownDistances.build(lengths, literalCount, distanceCount, true))
      throw damaged("the distance codes of a block are no Huffman code");
    return true;
  }

  /** Writes what is pending as far as there is room. False if something is left. */
  #writePending(limit: number): boolean {
    if (this.#pendingLength === 0) return true;
    if (this.out === limit) return false;
    if (this.#pendingDistance === 0) {
      this.window[this.out++] = this.#pendingLiteral;
      this.#pendingLength = 0;
      return true;
    }
    const bytes = Math.min(this.#pendingLength, limit - this.out);
    copyMatch(this.window, this.out, this.#pendingDistance, bytes);
    this.out += bytes;
    this.#pendingLength -= bytes;
    return this.#pendingLength === 0;
  }

  #codes(limit: number): Stop {
    if (!this.#writePending(limit)) return "output";
    for (;;) {
      if (this.#fastCodes(limit)) return this.#endBlock();
      // Near the end of input or output: a code at a time, each taken whole or not at all.
      const stop = this.#oneCode(limit);
      if (stop !== undefined) return stop;
    }
  }

  /** Decodes while neither input nor output can run out within a code. True at the end of the block. */
  #fastCodes(limit: number): boolean {
    const { input, window } = this;
    const history = this.history;
    const literals = this.#literals.entries;
    const distances = this.#distances.entries;
    const lastAt = this.end - symbolBytesMax;
    const lastOut = limit - matchBytesMax;
    let at = this.at;
    let out = this.out;
    let hold = this.#hold;
    let bits = this.#bits;
    let isEnd = false;
    while (at <= lastAt && out <= lastOut) {
      if (bits < 15) {
        hold |= (input[at] | (input[at + 1] << 8)) << bits;
        at += 2;
        bits += 16;
      }
      let entry = literals[hold & literalMask];
      if (entry >= subtable) entry = second(literals, entry, hold, literalRootBits);
      const used = entry & 15;
      hold >>>= used;
      bits -= used;
      if (entry < endOfBlock) {
        window[out++] = entry >>> 8;
        continue;
      }
      if (entry < baseValue) {
        isEnd = true;
        break;
      }
      if (entry >= invalidCode) throw damaged("a code that no symbol has");
      const lengthExtra = (entry >>> 4) & 15;
      if (bits < 15) {
        hold |= (input[at] | (input[at + 1] << 8)) << bits;
        at += 2;
        bits += 16;
      }
      const length = ((entry >>> 8) & 0xffff) + (hold & ((1 << lengthExtra) - 1));
      hold >>>= lengthExtra;
      bits -= lengthExtra;
      if (bits < 15) {
        hold |= (input[at] | (input[at + 1] << 8)) << bits;
        at += 2;
        bits += 16;
      }
      entry = distances[hold & distanceMask];
      if (entry >= subtable) entry = second(distances, entry, hold, distanceRootBits);
      if (entry >= invalidCode) throw damaged("a distance code that no symbol has");
      hold >>>= entry & 15;
      bits -= entry & 15;
      const distanceExtra = (entry >>> 4) & 15;
      if (bits < 15) {
        hold |= (input[at] | (input[at + 1] << 8)) << bits;
        at += 2;
        bits += 16;
      }
      const distance = ((entry >>> 8) & 0xffff) + (hold & ((1 << distanceExtra) - 1));
      hold >>>= distanceExtra;
      bits -= distanceExtra;
      if (distance > out - history) throw damaged("a match reaches back before the start of the stream");
      if (length < longCopyBytes) {
        for (const end = out + length; out < end; out++) window[out] = window[out - distance];
      } else {
        copyMatch(window, out, distance, length);
        out += length;
      }
    }
    // Whole bytes that were read ahead go back.
    this.at = at - (bits >>> 3);
    this.#bits = bits & 7;
    this.#hold = hold & ((1 << (bits & 7)) - 1);
    this.out = out;
    return isEnd;
  }

  /** Decodes one code, bit by careful bit. Undefined to go on. */
  #oneCode(limit: number): Stop | undefined {
    const bits = new BitReader(this.input, this.at, this.end, this.#hold, this.#bits);
    const entry = bits.entry(this.#literals.entries, literalMask, literalRootBits);
    if (bits.isShort) return this.#shortOf(limit);
    if (entry < endOfBlock) {
      this.#pendingDistance = 0;
      this.#pendingLiteral = entry >>> 8;
      this.#pendingLength = 1;
    } else if (entry >= baseValue) {
      if (entry >= invalidCode) throw damaged("a code that no symbol has");
      const length = ((entry >>> 8) & 0xffff) + bits.take((entry >>> 4) & 15);
      const far = bits.entry(this.#distances.entries, distanceMask, distanceRootBits);
      if (bits.isShort) return this.#shortOf(limit);
      if (far >= invalidCode) throw damaged("a distance code that no symbol has");
      const distance = ((far >>> 8) & 0xffff) + bits.take((far >>> 4) & 15);
      if (bits.isShort) return this.#shortOf(limit);
      if (distance > this.out - this.history) throw damaged("a match reaches back before the start of the stream");
      this.#pendingDistance = distance;
      this.#pendingLength = length;
    }
    this.at = bits.at;
    this.#hold = bits.hold;
    this.#bits = bits.bits;
    if (entry >= endOfBlock && entry < baseValue) return this.#endBlock();
    return this.#writePending(limit) ? undefined : "output";
  }

  #shortOf(limit: number): Stop {
    if (this.out < limit) return "input";
    this.starved = true;
    return "output";
  }
}

function second(entries: Int32Array, entry: number, hold: number, rootBits: number): number {
  if (entry >= invalidCode) return entry;
  return entries[((entry >>> 8) & 0xffff) + ((hold >>> rootBits) & ((1 << ((entry >>> 4) & 15)) - 1))];
}

/** Copies from `distance` bytes before `out`; a distance smaller than the length repeats what was just written. */
function copyMatch(window: Uint8Array, out: number, distance: number, length: number): void {
  if (distance >= length) window.copyWithin(out, out - distance, out - distance + length);
  else if (distance === 1) window.fill(window[out - 1], out, out + length);
  else for (const end = out + length; out < end; out++) window[out] = window[out - distance];
}

/** Takes bits one byte at a time, as few bytes as it needs. After the end of input everything is 0 and `isShort` is set. */
class BitReader {
  readonly #input: Uint8Array;
  readonly #end: number;
  at: number;
  hold: number;
  bits: number;
  isShort = false;

  constructor(input: Uint8Array, at: number, end: number, hold: number, bits: number) {
    this.#input = input;
    this.at = at;
    this.#end = end;
    this.hold = hold;
    this.bits = bits;
  }

  #need(count: number): boolean {
    while (this.bits < count) {
      if (this.at === this.#end) {
        this.isShort = true;
        return false;
      }
      this.hold |= this.#input[this.at++] << this.bits;
      this.bits += 8;
    }
    return true;
  }

  take(count: number): number {
    if (!this.#need(count)) return 0;
    const value = this.hold & ((1 << count) - 1);
    this.hold >>>= count;
    this.bits -= count;
    return value;
  }

  alignToByte(): void {
    this.hold >>>= this.bits & 7;
    this.bits -= this.bits & 7;
  }

  /** The entry of the next code; 0 when short. */
  entry(entries: Int32Array, mask: number, rootBits: number): number {
    for (;;) {
      let entry = entries[this.hold & mask];
      if (entry >= subtable && entry < invalidCode && this.bits >= rootBits) entry = second(entries, entry, this.hold, rootBits);
      // A code that is not used is known as such only when no longer code can begin like it.
      const length = entry >= invalidCode ? 15 : entry >= subtable ? rootBits + 1 : entry & 15;
      if (length <= this.bits) {
        if (entry < invalidCode) {
          this.hold >>>= length;
          this.bits -= length;
        }
        return entry;
      }
      if (!this.#need(this.bits + 1)) return 0;
    }
  }

  symbol(entries: Int32Array, mask: number): number {
    const entry = this.entry(entries, mask, 7);
    return entry >= invalidCode ? 16 : entry >>> 8;
  }
}

function damaged(what: string): BuilderError {
  return new BuilderError("BUILD_TAR", `the gzip stream is damaged: ${what}`);
}

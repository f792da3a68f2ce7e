/**
 * Tables that decode Huffman codes of deflate: a code is looked up by its first `rootBits` bits, longer ones in a second step.
 *
 * An entry is `flags | value << 8 | extra << 4 | length`: `length` is the whole code's bits, so it is dropped once. Entries below
 * `endOfBlock` are literals. No entry is 0. Source: RFC 1951, section 3.2
 */

/** Flags of entries that are not literals. */
export const endOfBlock = 0x1000000;
export const baseValue = 0x2000000;
export const subtable = 0x4000000;
export const invalidCode = 0x8000000;

export const literalRootBits = 10;
export const distanceRootBits = 9;
const codeLengthRootBits = 7;
const codeBitsMax = 15;

const lengthBases = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const lengthExtras = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];

/** What a symbol means, as an entry without code length. */
const literalSymbols = Int32Array.from({ length: 288 }, (_, symbol) => {
  if (symbol < 256) return symbol << 8;
  if (symbol === 256) return endOfBlock;
  if (symbol > 285) return invalidCode;
  return baseValue | (lengthBases[symbol - 257] << 8) | (lengthExtras[symbol - 257] << 4);
});
const distanceSymbols = Int32Array.from({ length: 32 }, (_, symbol) => {
  if (symbol > 29) return invalidCode;
  const extra = symbol < 2 ? 0 : (symbol >> 1) - 1;
  const base = symbol < 2 ? symbol + 1 : ((2 + (symbol & 1)) << extra) + 1;
  return baseValue | (base << 8) | (extra << 4);
});
const codeLengthSymbols = Int32Array.from({ length: 19 }, (_, symbol) => symbol << 8);

/** One decoding table, filled anew for every block. */
export class HuffmanTable {
  readonly entries: Int32Array;
  readonly #symbols: Int32Array;
  readonly #rootBits: number;
  readonly #next = new Uint16Array(codeBitsMax + 1);
  readonly #counts = new Uint16Array(codeBitsMax + 1);

  constructor(kind: "literal" | "distance" | "codeLength") {
    this.#rootBits = kind === "literal" ? literalRootBits : kind === "distance" ? distanceRootBits : codeLengthRootBits;
    this.#symbols = kind === "literal" ? literalSymbols : kind === "distance" ? distanceSymbols : codeLengthSymbols;
    // A subtable of at most 2^(15 − root) entries for each symbol is more than any set of lengths needs.
    this.entries = new Int32Array(
      (1 << this.#rootBits) + (kind === "codeLength" ? 0 : this.#symbols.length << (codeBitsMax - this.#rootBits)),
    );
  }

  /**
   * Fills the table from the code lengths of symbols 0…count − 1, at `start` in `lengths`. False for lengths that are no Huffman code:
   * too many codes, or too few, but for the one code of one bit that deflate allows (`mayBeIncomplete`).
   */
  build(lengths: Uint8Array, start: number, count: number, mayBeIncomplete: boolean): boolean {
    const counts = this.#counts.fill(0);
    for (let i = 0; i < count; i++) counts[lengths[start + i]]++;
    let longest = codeBitsMax;
    while (longest > 0 && counts[longest] === 0) longest--;
    const { entries } = this;
    const root = this.#rootBits;
    const rootSize = 1 << root;
    entries.fill(invalidCode | 1, 0, rootSize);
    if (longest === 0) return mayBeIncomplete;
    let left = 1;
    let code = 0;
    const next = this.#next;
    for (let length = 1; length <= codeBitsMax; length++) {
      left = left * 2 - counts[length];
      if (left < 0) return false;
      code = (code + (length === 1 ? 0 : counts[length - 1])) << 1;
      next[length] = code;
    }
    if (left > 0 && !(mayBeIncomplete && longest === 1)) return false;
    let free = rootSize;
    for (let symbol = 0; symbol < count; symbol++) {
      const length = lengths[start + symbol];
      if (length === 0) continue;
      const reversed = reverse(next[length]++, length);
      const entry = this.#symbols[symbol] | length;
      if (length <= root) {
        for (let i = reversed; i < rootSize; i += 1 << length) entries[i] = entry;
        continue;
      }
      const prefix = reversed & (rootSize - 1);
      if ((entries[prefix] & subtable) === 0) {
        // Codes come in order of symbols, not of lengths: the subtable is made for the longest code there is.
        const bits = longest - root;
        entries.fill(invalidCode | 1, free, free + (1 << bits));
        entries[prefix] = subtable | (free << 8) | (bits << 4) | root;
        free += 1 << bits;
      }
      const at = (entries[prefix] >>> 8) & 0xffff;
      const size = 1 << (longest - root);
      for (let i = reversed >>> root; i < size; i += 1 << (length - root)) entries[at + i] = entry;
    }
    return true;
  }
}

function reverse(code: number, length: number): number {
  let result = 0;
  for (let bit = 0; bit < length; bit++) result |= ((code >>> bit) & 1) << (length - 1 - bit);
  return result;
}

/** Tables of blocks with fixed codes. */
export function fixedTables(): { literals: HuffmanTable; distances: HuffmanTable } {
  const lengths = new Uint8Array(288);
  lengths.fill(8, 0, 144).fill(9, 144, 256).fill(7, 256, 280).fill(8, 280, 288);
  const literals = new HuffmanTable("literal");
  const distances = new HuffmanTable("distance");
  literals.build(lengths, 0, 288, false);
  distances.build(new Uint8Array(32).fill(5), 0, 32, false);
  return { literals, distances };
}

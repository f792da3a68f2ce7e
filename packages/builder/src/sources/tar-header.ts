/** One 512-byte tar header and the extended records before it. Source: POSIX pax; GNU tar manual, "Basic Tar Format"; spec/nydus-image.md, section 6.3 */
import { BuilderError } from "../errors.ts";

export const tarBlockBytes = 512;

export interface TarHeader {
  /** one byte per code unit, ustar prefix joined */
  name: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  type: string;
  linkName: string;
  deviceMajor: number;
  deviceMinor: number;
}

/** Undefined for a block of zeros. @throws BuilderError BUILD_TAR, naming `position` in the stream */
export function parseTarHeader(block: Buffer, position: number): TarHeader | undefined {
  if (isZero(block)) return undefined;
  const stored = octal(block, 148, 8);
  let sum = 0;
  for (let i = 0; i < tarBlockBytes; i++) sum += i >= 148 && i < 156 ? 0x20 : block[i];
  if (sum !== stored) throw new BuilderError("BUILD_TAR", `archive header checksum mismatch at byte ${position} of the tar`);
  const isUstar = block.toString("latin1", 257, 263) === "ustar\0";
  const prefix = isUstar ? text(block, 345, 155) : "";
  const name = text(block, 0, 100);
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    mode: (octal(block, 100, 8) ?? 0) & 0o7777,
    uid: number(block, 108, 8) ?? 0,
    gid: number(block, 116, 8) ?? 0,
    size: number(block, 124, 12) ?? 0,
    mtime: number(block, 136, 12) ?? 0,
    type: block[156] === 0 ? "0" : String.fromCharCode(block[156]),
    linkName: text(block, 157, 100),
    deviceMajor: number(block, 329, 8) ?? 0,
    deviceMinor: number(block, 337, 8) ?? 0,
  };
}

function isZero(block: Buffer): boolean {
  for (let i = 0; i < tarBlockBytes; i++) if (block[i] !== 0) return false;
  return true;
}

function text(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString("latin1", start, end < 0 || end > start + length ? start + length : end);
}

function octal(block: Buffer, start: number, length: number): number | undefined {
  const digits = text(block, start, length).trim();
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : undefined;
}

/** Octal text, or base-256 when the top bit is set: two's complement, big-endian. */
function number(block: Buffer, start: number, length: number): number | undefined {
  if ((block[start] & 0x80) === 0) return octal(block, start, length);
  let value = BigInt.asIntN(7, BigInt(block[start] & 0x7f));
  for (let i = start + 1; i < start + length; i++) value = (value << 8n) | BigInt(block[i]);
  const result = Number(value);
  if (!Number.isSafeInteger(result)) throw new BuilderError("BUILD_TAR", `a number in a tar header is out of range: ${value}`);
  return result;
}

/**
 * Records of a pax header: `<length> <key>=<value>\n`, the length counting everything. Keys and values are one byte per code unit.
 * Taken by their length, so a value may hold newlines (which the original can not read).
 */
export function parsePaxRecords(data: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  let at = 0;
  while (at < data.length && data[at] !== 0) {
    const blank = data.indexOf(0x20, at);
    const length = blank < 0 ? Number.NaN : Number(data.toString("latin1", at, blank));
    const end = at + length;
    const equals = data.indexOf(0x3d, blank);
    if (!Number.isInteger(length) || length < 5 || end > data.length || data[end - 1] !== 0x0a || equals < 0 || equals >= end) {
      throw new BuilderError("BUILD_TAR", `a pax header is malformed at byte ${at} of its records`);
    }
    records.set(data.toString("latin1", blank + 1, equals), data.subarray(equals + 1, end - 1));
    at = end;
  }
  return records;
}

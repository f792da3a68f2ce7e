import { RafsError } from "./errors.ts";
import { TAR_HEADER } from "./records/blob.ts";

/** The tar header that stands behind a section of a blob and names it. */
export interface SectionHeader {
  /** One of `sectionNames`, or anything: a blob is foreign data. */
  readonly name: string;
  /** Bytes of the section in front of the header, at most 2^33 − 1. */
  readonly size: number;
}

const regular = 0x30;

/**
 * Reads a section's tar header.
 *
 * @param bytes  512 bytes
 * @returns undefined when this is no GNU tar header of a regular file
 * @throws RafsError RAFS_TAR_HEADER when it is one, with a size that is no octal number or a wrong checksum
 * Source: spec/rafs.md 6.1
 */
export function readTarHeader(bytes: Uint8Array): SectionHeader | undefined {
  if (bytes.length !== TAR_HEADER.recordSize) return undefined;
  if (text(bytes, TAR_HEADER.magic, 8) !== "ustar  " || bytes[TAR_HEADER.type] !== regular) return undefined;
  const name = text(bytes, TAR_HEADER.name, 100);
  const size = octal(bytes, TAR_HEADER.size, 12, name);
  const checksum = octal(bytes, TAR_HEADER.checksum, 8, name);
  if (checksum !== checksumOf(bytes))
    throw new RafsError("RAFS_TAR_HEADER", `tar header ${JSON.stringify(name)}: checksum is ${checksumOf(bytes)}, recorded ${checksum}`);
  return { name, size };
}

/** Sum of the header's bytes with the checksum field as blanks. */
function checksumOf(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at++) {
    sum += at >= TAR_HEADER.checksum && at < TAR_HEADER.type ? 0x20 : (bytes[at] as number);
  }
  return sum;
}

function octal(bytes: Uint8Array, offset: number, size: number, name: string): number {
  const digits = text(bytes, offset, size).trim();
  if (!/^[0-7]+$/.test(digits))
    throw new RafsError("RAFS_TAR_HEADER", `tar header ${JSON.stringify(name)}: ${JSON.stringify(digits)} is no octal number`);
  return Number.parseInt(digits, 8);
}

function text(bytes: Uint8Array, offset: number, size: number): string {
  const field = bytes.subarray(offset, offset + size);
  const nul = field.indexOf(0);
  return Buffer.from(nul < 0 ? field : field.subarray(0, nul)).toString("latin1");
}

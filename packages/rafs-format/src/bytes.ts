import { RafsError, type RafsErrorCode } from "./errors.ts";
import type { PagedView } from "./paged-view.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** A bootstrap as readers see it: whole in memory, or in pages. */
export type ByteView = DataView | PagedView;

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function byteViewOf(source: Uint8Array | PagedView): ByteView {
  return source instanceof Uint8Array ? viewOf(source) : source;
}

/** Bytes [start, end): in place where the whole is in memory, else a copy. */
export function bytesOf(view: ByteView, start: number, end: number): Uint8Array {
  return view instanceof DataView ? new Uint8Array(view.buffer, view.byteOffset + start, end - start) : view.copy(start, end);
}

/** An unsigned 64-bit field as a number. @throws RafsError RAFS_RANGE above 2^53 − 1 */
export function readU64(view: ByteView, offset: number, what: string): number {
  const value = view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 4294967296;
  if (value > Number.MAX_SAFE_INTEGER) throw new RafsError("RAFS_RANGE", `${what} is ${view.getBigUint64(offset, true)}, above 2^53 − 1`);
  return value;
}

/** Text in a fixed field, padded with NULs. @throws RafsError `code` when the bytes are not UTF-8 or something follows the padding */
export function readPaddedText(bytes: Uint8Array, code: RafsErrorCode, what: string): string {
  const nul = bytes.indexOf(0);
  const end = nul < 0 ? bytes.length : nul;
  for (let at = end; at < bytes.length; at++) {
    if (bytes[at] !== 0) throw new RafsError(code, `${what}: bytes follow the NUL that ends the text`);
  }
  return readText(bytes.subarray(0, end), code, what);
}

/** @throws RafsError `code` when the bytes are not UTF-8 */
export function readText(bytes: Uint8Array, code: RafsErrorCode, what: string): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new RafsError(code, `${what}: not UTF-8 text (hex ${Buffer.from(bytes).toString("hex")})`, { cause });
  }
}

export const isPowerOfTwo = (value: number): boolean => value > 0 && 2 ** Math.round(Math.log2(value)) === value;

export const roundUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;

export function allZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at++) if (bytes[at] !== 0) return false;
  return true;
}

/** Byte order of two names: negative, 0 or positive. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const common = Math.min(a.length, b.length);
  for (let at = 0; at < common; at++) {
    const difference = (a[at] as number) - (b[at] as number);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** The u32 numbers in bytes [offset, offset + size). */
export function readNumbers(view: ByteView, table: { readonly offset: number; readonly size: number }): number[] {
  const numbers = viewOf(bytesOf(view, table.offset, table.offset + table.size));
  return Array.from({ length: table.size / 4 }, (_, index) => numbers.getUint32(index * 4, true));
}

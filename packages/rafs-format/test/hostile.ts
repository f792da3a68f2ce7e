import { RafsError } from "../src/index.ts";

/** The code of the RafsError that `run` throws; "no error" when it returns. Any other exception goes on. */
export function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof RafsError) return error.code;
    throw error;
  }
  return "no error";
}

/** Changes each byte in turn in two ways (one bit; all bits set or clear) and puts it back after `probe`, which must not throw. */
export function eachFlip(bytes: Uint8Array, probe: (at: number) => void): void {
  for (let at = 0; at < bytes.length; at++) {
    const before = bytes[at] as number;
    for (const value of [before ^ (1 << (at % 8)), before > 127 ? 0x00 : 0xff]) {
      if (value === before) continue;
      bytes[at] = value;
      try {
        probe(at);
      } catch (cause) {
        throw new Error(`byte ${at} changed from ${before} to ${value}`, { cause });
      } finally {
        bytes[at] = before;
      }
    }
  }
}

export const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

import koffi from "koffi";

export { koffi };

/** The C library of the process. Every prototype of this package is made from it, one family of calls a file. */
export const libc = koffi.load("libc.so.6");

/**
 * The address of the first byte of `bytes` (offset of the view included). User space addresses fit 47 bits, so a `number` holds them.
 * The memory stays where it is as long as `bytes` is reachable; keep it so while the kernel uses the address.
 */
export function addressOf(bytes: ArrayBufferView): number {
  return Number(koffi.address(bytes));
}

/** Of an output that is used again: enough for every chunk. The index of a layer may have hundreds of MiB, once. */
const keptBytesMax = 17 * 1024 * 1024;

let kept: Buffer = Buffer.alloc(0);

/** Room for an encoder's output of at most `bound` bytes: `target` if that is large enough, else memory that the next call in this thread gives again. */
export function outputRoom(bound: number, target: Uint8Array | undefined): Uint8Array {
  if (target && target.length >= bound) return target;
  const output = kept.length >= bound ? kept : Buffer.allocUnsafeSlow(bound);
  if (output.length <= keptBytesMax) kept = output;
  return output;
}

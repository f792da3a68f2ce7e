import { createRequire } from "node:module";
import koffi from "koffi";

/** Bytes of the source, the target, and their lengths. Returns the bytes written; 0: it failed. */
type Compress = (source: Uint8Array, target: Uint8Array, sourceBytes: number, targetBytes: number) => number;

/** Of the output that is used again: enough for every chunk. The chunk info of a blob may have 256 MiB, once. */
const keptBytesMax = 17 * 1024 * 1024;

/** Source: LZ4_MAX_INPUT_SIZE in lz4.h */
const inputBytesMax = 0x7e000000;

let compress: Compress | undefined;
let target: Buffer = Buffer.alloc(0);

/** Largest output for `size` bytes. Source: LZ4_COMPRESSBOUND in lz4.h */
function lz4Bound(size: number): number {
  return size + Math.floor(size / 255) + 16;
}

/**
 * One raw block of the reference library at its default acceleration. What is returned is valid until the next call in this thread.
 *
 * The library is inside a compiled module of lmdb, called past that: 1.4 ms for 1 MiB of a root file system where lz4_flex (lz4-napi) takes
 * 3.9, nothing is left for the garbage collector, and the bytes are the original's.
 */
export function compressLz4(data: Uint8Array): Uint8Array {
  if (data.length > inputBytesMax) throw new Error(`lz4: ${data.length} bytes are more than a block can hold`);
  compress ??= loadLibrary();
  const bound = lz4Bound(data.length);
  const output = target.length >= bound ? target : Buffer.allocUnsafeSlow(bound);
  if (output.length <= keptBytesMax) target = output;
  const bytes = compress(data, output, data.length, output.length);
  if (bytes <= 0) throw new Error(`lz4: a block of ${data.length} bytes could not be compressed`);
  return output.subarray(0, bytes);
}

function loadLibrary(): Compress {
  const file = createRequire(import.meta.url).resolve(`@lmdb/lmdb-linux-${process.arch}/node.napi.glibc.node`);
  return koffi.load(file).func("int LZ4_compress_default(const void *source, void *target, int sourceBytes, int targetBytes)");
}

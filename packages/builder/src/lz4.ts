import { BuilderError } from "./errors.ts";
import { onDemand } from "./on-demand.ts";
import { outputRoom } from "./output-room.ts";

/** Bytes of the source, the target, and their lengths. Returns the bytes written; 0: it failed. */
type Compress = (source: Uint8Array, target: Uint8Array, sourceBytes: number, targetBytes: number) => number;

/** Source: LZ4_MAX_INPUT_SIZE in lz4.h */
const inputBytesMax = 0x7e000000;

let compress: Compress | undefined;

/** Largest output for `size` bytes. Source: LZ4_COMPRESSBOUND in lz4.h */
function lz4Bound(size: number): number {
  return size + Math.floor(size / 255) + 16;
}

/**
 * One raw block of the reference library at its default acceleration. It is put where `target` starts if that has room for the worst;
 * otherwise what is returned is valid until the next call in this thread.
 *
 * The library is inside a compiled module of lmdb, called past that: nothing is left for the garbage collector, and the bytes are the
 * original's.
 */
export function compressLz4(data: Uint8Array, target?: Uint8Array): Uint8Array {
  if (data.length > inputBytesMax) throw new Error(`lz4: ${data.length} bytes are more than a block can hold`);
  compress ??= loadLibrary();
  const output = outputRoom(lz4Bound(data.length), target);
  const bytes = compress(data, output, data.length, output.length);
  if (bytes <= 0) throw new Error(`lz4: a block of ${data.length} bytes could not be compressed`);
  return output.subarray(0, bytes);
}

function loadLibrary(): Compress {
  return openLibrary().func("int LZ4_compress_default(const void *source, void *target, int sourceBytes, int targetBytes)");
}

/** @throws BuilderError BUILD_UNSUPPORTED */
function openLibrary() {
  const name = `@lmdb/lmdb-linux-${process.arch}`;
  try {
    return onDemand.koffi.load(onDemand.resolve(`${name}/node.napi.glibc.node`));
  } catch (cause) {
    const why = (cause as Error).message.split("\n")[0];
    throw new BuilderError(
      "BUILD_UNSUPPORTED",
      `lz4_block needs the package ${name}: ${why}; install it (npm omits optional packages when told to), or use zstd`,
      { cause },
    );
  }
}

import { onDemand } from "./on-demand.ts";
import { outputRoom } from "./output-room.ts";

interface Library {
  readonly compress: (
    context: unknown,
    target: Uint8Array,
    targetBytes: number,
    source: Uint8Array,
    sourceBytes: number,
  ) => number | bigint;
  readonly isError: (result: number | bigint) => number;
  readonly errorName: (result: number | bigint) => string;
  /** One a thread, of 1.3 MB. It lies in `memory`, so the collector frees it with the thread; a context of the library's own would stay. */
  readonly context: unknown;
  readonly memory: Uint8Array;
}

/** Source: ZSTD_CLEVEL_DEFAULT and ZSTD_reset_parameters in zstd.h */
const level = 3;
const resetParameters = 2;

let library: Library | undefined | "absent";

/** Largest output of zstd for `size` bytes. Source: ZSTD_COMPRESSBOUND in zstd.h */
export function zstdBound(size: number): number {
  return size + (size >>> 8) + (size < 131072 ? (131072 - size) >>> 11 : 0);
}

/**
 * One frame of level 3 with its content size, made in one shot. It is put where `target` starts if that has room for the worst; otherwise
 * what is returned is valid until the next call in this thread.
 *
 * The library is the one inside Node's own binary, called with a context and a target that are used again: 1.5 µs for 64 bytes where
 * `zlib.zstdCompressSync` takes 15, 3.4 ms for 1 MiB against 3.8, and nothing is left for the garbage collector. If the binary hides it,
 * node:zlib serves. The bytes are the same.
 */
export function compressZstd(data: Uint8Array, target?: Uint8Array): Uint8Array {
  const zstd = loadLibrary();
  if (zstd === undefined) return compressByZlib(data);
  const output = outputRoom(zstdBound(data.length), target);
  const result = zstd.compress(zstd.context, output, output.length, data, data.length);
  if (zstd.isError(result) !== 0) throw new Error(`zstd: ${zstd.errorName(result)}`);
  return output.subarray(0, Number(result));
}

/**
 * The same by node:zlib, which hands everything over at once only in its synchronous form and with room for all output; else the frame
 * is another, and an image must not depend on the path its chunks took.
 */
export function compressByZlib(data: Uint8Array): Uint8Array {
  return onDemand.zlib.zstdCompressSync(data, { chunkSize: Math.max(64, zstdBound(data.length)) });
}

function loadLibrary(): Library | undefined {
  if (library === undefined) {
    try {
      const node = onDemand.koffi.load(null);
      const contextBytes = node.func("size_t ZSTD_estimateCCtxSize(int level)") as (level: number) => number | bigint;
      const newContext = node.func("void *ZSTD_initStaticCCtx(void *memory, size_t bytes)") as (
        memory: Uint8Array,
        bytes: number,
      ) => unknown;
      const reset = node.func("size_t ZSTD_CCtx_reset(void *context, int what)") as (context: unknown, what: number) => number | bigint;
      const memory = Buffer.allocUnsafeSlow(Number(contextBytes(level)));
      const context = newContext(memory, memory.length);
      if (context === null) throw new Error("zstd refuses the memory for its context");
      reset(context, resetParameters); // a static context comes without the defaults, of which the content size is one
      library = {
        compress: node.func(
          "size_t ZSTD_compress2(void *context, void *target, size_t targetBytes, const void *source, size_t sourceBytes)",
        ),
        isError: node.func("uint32_t ZSTD_isError(size_t result)"),
        errorName: node.func("const char *ZSTD_getErrorName(size_t result)"),
        context,
        memory,
      } as unknown as Library;
    } catch {
      library = "absent";
    }
  }
  return library === "absent" ? undefined : library;
}

/** Compresses a file that memory shall not hold, to the very bytes that one call over all of it gives: zstd cuts blocks by what lies ahead. */
import koffi from "koffi";
import { BuilderError } from "../errors.ts";
import { zstdBound } from "../zstd.ts";
import { TemporaryFile } from "./temporary-file.ts";

interface Library {
  readonly mmap: (address: null, bytes: number, protection: number, flags: number, fd: number, offset: number) => number | bigint;
  readonly munmap: (address: bigint, bytes: number) => number;
  readonly madvise: (address: bigint, bytes: number, advice: number) => number;
  readonly allocate: (fd: number, offset: number, bytes: number) => number;
  readonly create: () => unknown;
  readonly free: (context: unknown) => number | bigint;
  readonly compress: {
    async: (
      context: unknown,
      target: bigint,
      targetBytes: number,
      source: bigint,
      sourceBytes: number,
      done: (failure: Error | null, result: number | bigint) => void,
    ) => void;
  };
  readonly isError: (result: number | bigint) => number;
}

/** Source: mmap(2), madvise(2): include/uapi/asm-generic/mman-common.h */
const protection = { read: 1, write: 2 } as const;
const shared = 1;
const dontNeed = 4;
const noSpace = 28;

/** Between two moments at which pages that were used leave memory: zstd passes about 5 MiB in it. */
const dropIntervalMs = 10;

let library: Library | undefined | "absent";

/**
 * One frame of level 3 with its content size, as `compressZstd` makes it, in a file of its own. Both files are mapped and their pages leave
 * memory every `dropIntervalMs`. Undefined if the binary hides its zstd or the file can not be mapped.
 * @throws BuilderError BUILD_OUTPUT: no room for the output
 */
export async function compressFile(file: TemporaryFile, directory: string): Promise<TemporaryFile | undefined> {
  const system = loadLibrary();
  if (!system) return undefined;
  using resources = new DisposableStack();
  const output = new TemporaryFile(directory);
  using onFailure = new DisposableStack();
  onFailure.use(output);
  const bound = zstdBound(file.size);
  // A disk that is full would else end the program by SIGBUS.
  const failure = system.allocate(output.fd, 0, bound);
  if (failure === noSpace) throw new BuilderError("BUILD_OUTPUT", `no space left for a temporary file of ${bound} bytes`);
  if (failure !== 0) return undefined;
  const map = (fd: number, bytes: number, access: number): bigint | undefined => {
    const address = BigInt(system.mmap(null, bytes, access, shared, fd, 0));
    if (address === -1n) return undefined;
    resources.defer(() => void system.munmap(address, bytes));
    return address;
  };
  const source = map(file.fd, file.size, protection.read);
  const target = source && map(output.fd, bound, protection.read | protection.write);
  if (source === undefined || target === undefined) return undefined;
  const context = resources.adopt(system.create(), (each) => void system.free(each));
  const timer = setInterval(() => {
    system.madvise(source, file.size, dontNeed);
    system.madvise(target, bound, dontNeed);
  }, dropIntervalMs);
  resources.defer(() => clearInterval(timer));
  const result = await new Promise<number | bigint>((resolve, reject) => {
    system.compress.async(context, target, bound, source, file.size, (error, size) => (error ? reject(error) : resolve(size)));
  });
  if (system.isError(result) !== 0) return undefined;
  output.size = Number(result);
  onFailure.move();
  return output;
}

function loadLibrary(): Library | undefined {
  if (library === undefined) {
    try {
      const node = koffi.load(null);
      library = {
        mmap: node.func("int64_t mmap(void *address, uint64_t length, int protection, int flags, int fd, int64_t offset)"),
        munmap: node.func("int munmap(uintptr_t address, uint64_t length)"),
        madvise: node.func("int madvise(uintptr_t address, uint64_t length, int advice)"),
        allocate: node.func("int posix_fallocate(int fd, int64_t offset, int64_t length)"),
        create: node.func("void *ZSTD_createCCtx()"),
        free: node.func("size_t ZSTD_freeCCtx(void *context)"),
        compress: node.func(
          "size_t ZSTD_compress2(void *context, uintptr_t target, size_t targetBytes, uintptr_t source, size_t sourceBytes)",
        ),
        isError: node.func("uint32_t ZSTD_isError(size_t result)"),
      } as unknown as Library;
    } catch {
      library = "absent";
    }
  }
  return library === "absent" ? undefined : library;
}

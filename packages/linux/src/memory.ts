import { lastErrno } from "./errors.ts";
import { koffi, libc } from "./libc.ts";

// mmap(2), munmap(2), madvise(2); values from include/uapi/asm-generic/mman-common.h
const rawMmap = libc.func("int64_t mmap(void *address, uint64_t length, int protection, int flags, int fd, int64_t offset)");
const rawMunmap = libc.func("int munmap(uintptr_t address, uint64_t length)");
const PROT_READ = 1;
const MAP_SHARED = 1;

/** A read-only shared map of a file. `address` may be posted to a worker, which makes its own view with `viewMemory`. */
export interface FileMap {
  readonly address: number;
  readonly length: number;
  readonly bytes: Uint8Array;
  /** Removes the map. Nobody may touch any view of it afterwards: the process would die of SIGSEGV. Twice is harmless. */
  unmap(): void;
}

/** Maps the first `length` bytes of a file. The file must not shrink while mapped (SIGBUS). @throws ErrnoError EACCES, EBADF, EINVAL (length 0), ENODEV, ENOMEM */
export function mapFile(fd: number, length: number): FileMap {
  const address = Number(rawMmap(null, length, PROT_READ, MAP_SHARED, fd, 0));
  if (address === -1) throw lastErrno("mmap");
  let mapped = true;
  return {
    address,
    length,
    bytes: viewMemory(address, length),
    unmap() {
      if (!mapped) return;
      mapped = false;
      if (rawMunmap(address, length) < 0) throw lastErrno("munmap");
    },
  };
}

/** A map that lives as long as the process; see `mapFile`. */
export function mmapFile(fd: number, length: number): Uint8Array {
  return mapFile(fd, length).bytes;
}

/** The bytes at an address of this process, in place: for maps another thread made. */
export function viewMemory(address: number, length: number): Uint8Array {
  return new Uint8Array(koffi.view(BigInt(address), length));
}

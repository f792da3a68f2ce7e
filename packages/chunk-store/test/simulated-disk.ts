import type * as FileIo from "../src/file-io.ts";

type Io = typeof FileIo;

interface StoredFile {
  readonly initial: Uint8Array;
}

type Entry =
  | { readonly kind: "write"; readonly file: StoredFile; readonly position: number; readonly bytes: Uint8Array }
  | { readonly kind: "truncate"; readonly file: StoredFile; readonly size: number }
  | { readonly kind: "sync"; readonly file: StoredFile; readonly begin: number }
  /** `begin`: of a replacement, which is durable when it has ended; a plain creation or removal is durable only when the disk likes. */
  | { readonly kind: "name"; readonly path: string; readonly file: StoredFile | undefined; readonly begin: number | undefined };

const sectorBytes = 512;

/**
 * What reached a disk, so that a power failure can be played at any moment afterwards. It records the calls of `file-io.ts` and passes
 * them on; `afterCrash` gives what a disk may hold that was cut off after the first `count` of them: all that was synced, and of the
 * rest any part, in sectors.
 */
export class SimulatedDisk {
  readonly #entries: Entry[] = [];
  readonly #files = new Map<number, StoredFile>();
  readonly #names = new Map<string, StoredFile>();

  get length(): number {
    return this.#entries.length;
  }

  /** The functions of `file-io.ts`, recorded. */
  wrap(io: Io): Io {
    const entries = this.#entries;
    const fileOf = (fd: number): StoredFile => {
      const file = this.#files.get(fd);
      if (file === undefined) throw new TypeError(`descriptor ${fd} was not opened through file-io.ts`);
      return file;
    };
    const name = (path: string, file: StoredFile | undefined, begin?: number): void => {
      if (file === undefined) this.#names.delete(path);
      else this.#names.set(path, file);
      entries.push({ kind: "name", path, file, begin });
    };
    const sync = (real: (fd: number) => Promise<void>) => async (fd: number) => {
      const begin = entries.length;
      const file = fileOf(fd);
      await real(fd);
      entries.push({ kind: "sync", file, begin });
    };
    return {
      ...io,
      syncData: sync(io.syncData),
      syncFile: sync(io.syncFile),
      openFd: async (path, flags, mode) => {
        const fd = await io.openFd(path, flags, mode);
        if (!this.#names.has(path)) name(path, { initial: new Uint8Array(0) });
        this.#files.set(fd, this.#names.get(path)!);
        return fd;
      },
      writeAt: (fd, bytes, position) => {
        entries.push({ kind: "write", file: fileOf(fd), position, bytes: Uint8Array.from(bytes) });
        return io.writeAt(fd, bytes, position);
      },
      truncateFile: (fd, size) => {
        entries.push({ kind: "truncate", file: fileOf(fd), size });
        return io.truncateFile(fd, size);
      },
      removeFile: async (path) => {
        await io.removeFile(path);
        name(path, undefined);
      },
      replaceFile: async (path, bytes) => {
        const begin = entries.length;
        await io.replaceFile(path, bytes);
        name(path, { initial: Uint8Array.from(bytes) }, begin);
      },
    };
  }

  /** Files by path. @param random  in [0, 1) */
  afterCrash(count: number, random: () => number): Map<string, Uint8Array> {
    const names = new Map<string, StoredFile>();
    const stuck = new Set<string>();
    this.#entries.forEach((entry, index) => {
      if (entry.kind !== "name" || stuck.has(entry.path)) return;
      const ended = index < count;
      const begun = ended || (entry.begin !== undefined && entry.begin < count);
      const durable = ended && entry.begin !== undefined;
      if (!begun) return;
      if (!durable && random() < 0.5) {
        // Names of one path change in order: what came later is lost too, unless it was made durable by itself.
        if (
          !this.#entries.some(
            (later, at) => at > index && at < count && later.kind === "name" && later.path === entry.path && later.begin !== undefined,
          )
        )
          stuck.add(entry.path);
        return;
      }
      if (entry.file === undefined) names.delete(entry.path);
      else names.set(entry.path, entry.file);
    });
    return new Map([...names].map(([path, file]) => [path, this.#contentOf(file, count, random)]));
  }

  #contentOf(file: StoredFile, count: number, random: () => number): Uint8Array {
    let durableBelow = 0;
    for (const entry of this.#entries.slice(0, count)) {
      if (entry.kind === "sync" && entry.file === file) durableBelow = Math.max(durableBelow, entry.begin);
    }
    let content = Uint8Array.from(file.initial);
    const grow = (size: number): void => {
      const larger = new Uint8Array(size);
      larger.set(content.subarray(0, size));
      content = larger;
    };
    this.#entries.slice(0, count).forEach((entry, index) => {
      if (entry.kind === "sync" || entry.kind === "name" || entry.file !== file) return;
      const durable = index < durableBelow;
      if (entry.kind === "truncate") {
        if (durable || random() < 0.5) grow(entry.size);
        return;
      }
      const { position, bytes } = entry;
      for (let at = 0; at < bytes.length; ) {
        const end = Math.min(bytes.length, at + sectorBytes - ((position + at) % sectorBytes));
        if (durable || random() < 0.5) {
          if (content.length < position + end) grow(position + end);
          content.set(bytes.subarray(at, end), position + at);
        }
        at = end;
      }
    });
    return content;
  }
}

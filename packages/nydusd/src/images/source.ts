import { randomBytes } from "node:crypto";
import { closeSync, fstatSync, openSync, unlinkSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { type FileMap, mapFile } from "@nydus-ts/linux";
import { type Bootstrap, checkSection, findInlinedBootstrap, openBootstrap, RafsError, tocTailBytes } from "@nydus-ts/rafs-format";
import { describeError, NydusdError } from "../errors.ts";

/** The bootstrap of an image, memory-mapped. */
export interface ImageSource {
  /** Base name of the file it came from: names blobs that hold their own bootstrap. */
  readonly name: string;
  /** A path under which every thread of this process can open the bootstrap, beginning at byte 0. */
  readonly bootstrapPath: string;
  readonly bootstrap: Bootstrap;
  readonly sizeBytes: number;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Opens a bootstrap file, or a blob with a bootstrap inside (which is copied out to an unnamed temporary file).
 * @throws NydusdError MOUNT_SOURCE (can't be opened), MOUNT_IMAGE (no bootstrap, damaged, or of a kind this build does not serve)
 */
export async function openImageSource(path: string): Promise<ImageSource> {
  const file = openForReading(path);
  let inner: number | undefined;
  let map: FileMap | undefined;
  try {
    map = mapWhole(file, path);
    let bootstrapPath = path;
    const inlined = inlinedBootstrap(map.bytes);
    if (inlined !== undefined) {
      inner = unnamedCopy(inlined);
      map.unmap();
      map = mapWhole(inner, path);
      bootstrapPath = `/proc/self/fd/${inner}`;
    }
    return new MappedSource(basename(path), bootstrapPath, openBootstrap(map.bytes), map, inner);
  } catch (cause) {
    map?.unmap();
    if (inner !== undefined) closeSync(inner);
    throw asImageFault(cause, path);
  } finally {
    closeSync(file);
  }
}

/** What a damaged bootstrap is to whoever mounts it; any other error as it is. */
export function asImageFault(cause: unknown, path: string): unknown {
  if (!(cause instanceof RafsError)) return cause;
  return new NydusdError("MOUNT_IMAGE", `${path}: not a usable image: ${cause.message} (${cause.code})`, { cause });
}

/** The bootstrap inside a blob; undefined when the file is a bootstrap itself. */
function inlinedBootstrap(file: Uint8Array): Uint8Array | undefined {
  const section = findInlinedBootstrap(file.subarray(file.length - tocTailBytes(file.length)), file.length);
  if (section === undefined) return undefined;
  const stored = file.subarray(section.offset, section.offset + section.compressedSize);
  const bytes = section.compressor === "zstd" ? zstdDecompressSync(stored, { maxOutputLength: section.uncompressedSize }) : stored;
  checkSection(section, bytes);
  return bytes;
}

class MappedSource implements ImageSource {
  readonly name: string;
  readonly bootstrapPath: string;
  readonly bootstrap: Bootstrap;
  readonly sizeBytes: number;
  readonly #map: FileMap;
  #fd: number | undefined;

  constructor(name: string, bootstrapPath: string, bootstrap: Bootstrap, map: FileMap, fd: number | undefined) {
    this.name = name;
    this.bootstrapPath = bootstrapPath;
    this.bootstrap = bootstrap;
    this.sizeBytes = map.length;
    this.#map = map;
    this.#fd = fd;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#map.unmap();
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function openForReading(path: string): number {
  try {
    return openSync(path, "r");
  } catch (cause) {
    throw new NydusdError("MOUNT_SOURCE", `${path}: the bootstrap can't be opened (${describeError(cause)}); check the path`, { cause });
  }
}

function mapWhole(fd: number, path: string): FileMap {
  const stat = fstatSync(fd);
  if (!stat.isFile() || stat.size === 0) throw new NydusdError("MOUNT_SOURCE", `${path}: not a regular file with content, so no bootstrap`);
  return mapFile(fd, stat.size);
}

function unnamedCopy(bytes: Uint8Array): number {
  const path = join(tmpdir(), `nydusd-bootstrap-${randomBytes(8).toString("hex")}`);
  const fd = openSync(path, "wx+", 0o600);
  unlinkSync(path);
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
  return fd;
}

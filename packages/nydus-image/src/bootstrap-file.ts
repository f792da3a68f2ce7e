/** A bootstrap from a file: the file itself, or a blob with a bootstrap inside. Source: spec/nydus-image.md, section 11.3 */
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { promisify } from "node:util";
import { zstdDecompress } from "node:zlib";
import {
  type BlobRecord,
  type Bootstrap,
  blobFeatures,
  checkSection,
  DEVICE_SLOT,
  deviceSlotOffset,
  effectiveBlobId,
  findInlinedBootstrap,
  hasBlobMeta,
  hasFeature,
  isBootstrapV6,
  openBootstrap,
  RafsError,
  readToc,
  type Toc,
  tocTailBytes,
} from "@nydus-ts/rafs-format";
import { NydusImageError } from "./errors.ts";

const zstdDecompressAsync = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(zstdDecompress);

/** Bytes of a bootstrap file. A larger one is refused: the format of version 5 ends there, and no image comes near. */
const bootstrapFileBytesMax = 2 ** 31;
const rafsV5MagicBytes = Buffer.from("SFAR");

export interface BootstrapFile {
  path: string;
  bytes: Buffer;
  bootstrap: Bootstrap;
  /** the blob that the bootstrap came out of, if the file is one */
  blob: { size: number; toc: Toc | undefined } | undefined;
}

/** @throws NydusImageError IMAGE_FILE; RafsError */
export async function readBootstrapFile(path: string): Promise<BootstrapFile> {
  const handle = await open(path, "r").catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_FILE", `failed to open ${path}`, { cause });
  });
  try {
    const { size } = await handle.stat();
    const read = async (offset: number, length: number): Promise<Buffer> => {
      const bytes = Buffer.alloc(length);
      const { bytesRead } = await handle.read(bytes, 0, length, offset);
      if (bytesRead < length)
        throw new NydusImageError("IMAGE_FILE", `${path} ends at ${offset + bytesRead}, before byte ${offset + length}`);
      return bytes;
    };
    const head = await read(0, Math.min(size, 4096));
    const isBootstrap = isBootstrapV6(head) || head.subarray(0, 4).equals(rafsV5MagicBytes);
    const tail = await read(size - tocTailBytes(size), tocTailBytes(size));
    const section = findInlinedBootstrap(tail, size);
    // A blob without data begins with its bootstrap, too.
    if (!section || (isBootstrap && section.offset !== 0)) {
      if (size > bootstrapFileBytesMax)
        throw new NydusImageError("IMAGE_FILE", `${path} has ${size} bytes and is no RAFS blob with a bootstrap inside`);
      const bytes = await read(0, size);
      return { path, bytes, bootstrap: openBootstrap(bytes), blob: undefined };
    }
    const stored = await read(section.offset, section.compressedSize);
    const bytes = section.compressor === "zstd" ? await zstdDecompressAsync(stored, { maxOutputLength: section.uncompressedSize }) : stored;
    checkSection(section, bytes);
    return { path, bytes, bootstrap: openBootstrap(bytes), blob: { size, toc: readToc(tail, size) } };
  } catch (cause) {
    if (cause instanceof NydusImageError) throw cause;
    throw new NydusImageError("IMAGE_FILE", `${path} is not a RAFS image that can be read`, { cause });
  } finally {
    await handle.close();
  }
}

/** The id under which a blob of this image is stored. */
export function storedBlobId(file: BootstrapFile, blob: BlobRecord): string {
  return effectiveBlobId(blob, basename(file.path));
}

/** Block of a flattened device at which the data of a blob begins; 0 in version 5. Source: spec/rafs.md, section 2.4 */
export function mappedBlock({ bootstrap, bytes }: BootstrapFile, blob: BlobRecord): number {
  if (bootstrap.version === 5) return 0;
  return bytes.readUInt32LE(deviceSlotOffset + blob.index * DEVICE_SLOT.recordSize + DEVICE_SLOT.mappedBlock);
}

/** Bytes of chunk data alone. Source: section 13.2 */
export function compressedDataSize(blob: BlobRecord): number {
  if (hasFeature(blob, "separate") || (blob.features & blobFeatures.capTarToc) === 0) return blob.compressedSize;
  return (hasBlobMeta(blob) ? blob.ciOffset : blob.compressedSize) - (hasFeature(blob, "hasTarHeader") ? 512 : 0);
}

/** Name of a file up to its first dot: what a blob is called whose bootstrap lies in that file. */
export function namePrefix(path: string): string {
  const prefix = basename(path).split(".")[0];
  if (prefix === "")
    throw new RafsError("RAFS_BLOB_TABLE", `the file name ${basename(path)} begins with a dot: no blob id can be taken from it`);
  return prefix;
}

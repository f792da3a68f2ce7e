/** An image as one block device: the bootstrap, then the data of every blob at its mapped block. Source: spec/nydus-image.md, section 15 */
import type { FileHandle } from "node:fs/promises";
import { type BootstrapFile, mappedBlock } from "./bootstrap-file.ts";
import { NydusImageError } from "./errors.ts";
import type { ImageChunks } from "./image-chunks.ts";
import { writeAt } from "./verity.ts";

const bootstrapUnit = 4096;
const zeros = Buffer.alloc(1024 * 1024);

export interface DeviceRegion {
  blobIndex: number;
  offset: number;
  length: number;
}

export interface DeviceLayout {
  blockSize: number;
  blockCount: number;
  regions: readonly DeviceRegion[];
}

/** @throws NydusImageError IMAGE_FILE (blobs have no place, or not one of their own) */
export function deviceLayout(file: BootstrapFile): DeviceLayout {
  const { bootstrap, bytes } = file;
  const { blockSize } = bootstrap;
  const refuse = (fault: string): never => {
    throw new NydusImageError("IMAGE_FILE", `${file.path}: ${fault}`);
  };
  if (bootstrap.version !== 6) refuse("a version 5 image has no form as a block device; build it with `--fs-version 6`");
  if (bytes.length % bootstrapUnit !== 0) refuse(`its bootstrap has ${bytes.length} bytes, which is not a multiple of ${bootstrapUnit}`);
  let end = bytes.length;
  const regions: DeviceRegion[] = [];
  for (const blob of bootstrap.blobs) {
    const offset = mappedBlock(file, blob) * blockSize;
    const length = Math.floor(blob.uncompressedSize / blockSize) * blockSize;
    if (offset === 0) refuse(`blob ${blob.id} has no mapped block address`);
    if (offset < end) refuse(`blob ${blob.id} is mapped to byte ${offset}, what stands before it ends at ${end}`);
    regions.push({ blobIndex: blob.index, offset, length });
    end = offset + length;
  }
  return { blockSize, blockCount: end / blockSize, regions };
}

/**
 * Writes the device from its start to its end. `isSparse`: the output reads as zeros where nothing was written.
 * @throws ChunkStoreError; NydusImageError IMAGE_FILE; the signal's reason
 */
export async function writeDevice(
  output: FileHandle,
  file: BootstrapFile,
  layout: DeviceLayout,
  chunks: ImageChunks | undefined,
  isSparse: boolean,
): Promise<void> {
  await writeAt(output, file.bytes, 0);
  let position = file.bytes.length;
  const fillTo = async (offset: number) => {
    if (!isSparse) {
      for (; position < offset; position += zeros.length)
        await writeAt(output, zeros.subarray(0, Math.min(zeros.length, offset - position)), position);
    }
    position = offset;
  };
  for (const region of layout.regions) {
    const end = region.offset + region.length;
    for await (const { offset, data } of chunks!.blobData(region.blobIndex, region.length)) {
      const at = region.offset + offset;
      if (at < position || at + data.length > end) {
        throw new NydusImageError(
          "IMAGE_FILE",
          `blob ${region.blobIndex}: the chunk at ${offset} overlaps another, or passes the end of the blob`,
        );
      }
      await fillTo(at);
      await writeAt(output, data, at);
      position = at + data.length;
    }
    await fillTo(end);
  }
  if (isSparse) await output.truncate(position);
}

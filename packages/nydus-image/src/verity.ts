/**
 * The hash tree of dm-verity, format 1, SHA-256, no salt, no superblock, behind the data in the same file.
 * Source: Linux Documentation/admin-guide/device-mapper/verity.rst; spec/nydus-image.md, section 15
 *
 * Unused digests of a page are zeros, as the kernel's documentation and `veritysetup verify` want it. The original fills them with the digest
 * of a page of zeros, and `veritysetup verify` refuses that ("Spare area is not zeroed"), so its root digests are others.
 */
import { hash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { NydusImageError } from "./errors.ts";

const hashPageBytes = 4096;
const digestBytes = 32;
const digestsPerPage = hashPageBytes / digestBytes;
const readBytes = 1024 * 1024;

export interface VerityTree {
  /** where the tree begins */
  offset: number;
  /** of the top page; of the data block when there is but one */
  rootDigest: Buffer;
}

/** Writes the tree of `blockCount` blocks that stand at the beginning of `output`. Memory does not depend on their number. */
export async function writeVerityTree(output: FileHandle, blockCount: number, blockSize: number, signal: AbortSignal): Promise<VerityTree> {
  const offset = Math.ceil((blockCount * blockSize) / hashPageBytes) * hashPageBytes;
  if (blockCount === 0) return { offset, rootDigest: hash("sha256", Buffer.alloc(hashPageBytes), "buffer") };
  const pages: number[] = [];
  for (let count = blockCount; count > 1; count = pages.at(-1)!) pages.push(Math.ceil(count / digestsPerPage));
  let position = 0;
  let below = { count: blockCount, size: blockSize };
  let end = offset + pages.reduce((sum, count) => sum + count, 0) * hashPageBytes;
  for (const count of pages) {
    end -= count * hashPageBytes;
    await writeLevel(output, { from: position, ...below }, end, signal);
    position = end;
    below = { count, size: hashPageBytes };
  }
  const top = await readExactly(output, position, below.size);
  return { offset, rootDigest: hash("sha256", top, "buffer") };
}

/** Digests of the blocks below, page by page. */
async function writeLevel(
  output: FileHandle,
  below: { from: number; count: number; size: number },
  to: number,
  signal: AbortSignal,
): Promise<void> {
  const zeroDigest = hash("sha256", Buffer.alloc(below.size), "buffer");
  const zeros = Buffer.alloc(below.size);
  // Whole pages of digests at a time: a read gives 2 pages for blocks of 4 KiB, 16 for those of 512 bytes.
  const blocksAtOnce = readBytes / below.size;
  for (let block = 0; block < below.count; block += blocksAtOnce) {
    signal.throwIfAborted();
    const blocks = Math.min(blocksAtOnce, below.count - block);
    const data = await readExactly(output, below.from + block * below.size, blocks * below.size);
    const digests = Buffer.alloc(Math.ceil(blocks / digestsPerPage) * hashPageBytes);
    for (let i = 0; i < blocks; i++) {
      const bytes = data.subarray(i * below.size, (i + 1) * below.size);
      digests.set(bytes.equals(zeros) ? zeroDigest : hash("sha256", bytes, "buffer"), i * digestBytes);
    }
    await writeAt(output, digests, to + block * digestBytes);
  }
}

async function readExactly(output: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await output.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) throw new NydusImageError("IMAGE_FILE", `the output ends at ${position + done}: somebody else changed it`);
    done += bytesRead;
  }
  return bytes;
}

/** All of `bytes`: write(2) may take a part, on a full disk for instance, and the next call then says why. */
export async function writeAt(output: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await output.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
}

import type { BlobRecord } from "@nydus-ts/rafs-format";
import type { BufferPool } from "./buffer-pool.ts";
import { decompress, decompressInThread } from "./codecs/decompress.ts";
import { decryptXts } from "./codecs/xts.ts";
import { decodeZran } from "./codecs/zran.ts";
import { ChunkStoreError } from "./errors.ts";
import { decodeInlineBytesMax } from "./limits.ts";
import type { StoredItems } from "./stored-items.ts";

export interface DecodedItem {
  readonly data: Uint8Array;
  /** Memory of the pool behind `data`, to be given back when it has been used. */
  readonly pooled: Uint8Array | undefined;
}

/**
 * Decrypts and decompresses the stored bytes of an item: a chunk, a whole batch, or the output of a zran context.
 *
 * @param busy  other work waits for the event loop: a large item is decoded in a thread
 * @throws ChunkStoreError CHUNK_DECODE
 * Source: spec/rafs.md 4, 5.4, 5.5
 */
export async function decodeItem(
  blob: BlobRecord,
  items: StoredItems,
  item: number,
  stored: Uint8Array,
  pool: BufferPool,
  busy: boolean,
): Promise<DecodedItem> {
  const { info } = items;
  const context = items.contextOf(item);
  if (items.isZran(item)) return { data: decodeZran(stored, info.zranContext(context)), pooled: undefined };
  const size = items.decodedSize(item);
  const encrypted = context < 0 ? info.isEncrypted(item) : blob.cipherKey !== undefined;
  const plain = encrypted ? decrypt(blob, stored) : stored;
  // Batches carry no flag of their own; see spec/rafs.md 5.4 and for the padded ones 11, 20.
  const compressed = context < 0 ? info.isCompressed(item) : plain.length !== size;
  if (!compressed || blob.compressor === "none") {
    if (plain.length === size) return { data: plain, pooled: undefined };
    throw new ChunkStoreError("CHUNK_DECODE", `raw data of ${plain.length} bytes, recorded are ${size}`);
  }
  const target = pool.take(size);
  try {
    const inThread = busy && size > decodeInlineBytesMax;
    const data = inThread ? await decompressInThread(blob.compressor, plain, target) : decompress(blob.compressor, plain, target);
    if (data === target) return { data, pooled: target };
    pool.give(target);
    return { data, pooled: undefined };
  } catch (error) {
    pool.give(target);
    throw error;
  }
}

function decrypt(blob: BlobRecord, stored: Uint8Array): Uint8Array {
  if (blob.cipherKey === undefined || blob.cipherIv === undefined) {
    throw new ChunkStoreError("CHUNK_DECODE", `blob ${blob.id}: encrypted chunk, and the blob record has no key`);
  }
  return decryptXts(stored, blob.cipherKey, blob.cipherIv);
}

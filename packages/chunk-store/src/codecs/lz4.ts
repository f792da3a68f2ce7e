import { uncompress, uncompressSync } from "lz4-napi";
import { ChunkStoreError, describeCause } from "../errors.ts";

/**
 * Decodes one raw LZ4 block that must come out at exactly `size` bytes.
 *
 * @throws ChunkStoreError CHUNK_DECODE
 */
export function decompressLz4(stored: Uint8Array, size: number): Uint8Array {
  try {
    return checked(uncompressSync(withSize(stored, size)), size);
  } catch (cause) {
    throw refused(cause);
  }
}

/** The same in a thread of the pool. */
export async function decompressLz4InThread(stored: Uint8Array, size: number): Promise<Uint8Array> {
  try {
    return checked(await uncompress(withSize(stored, size)), size);
  } catch (cause) {
    throw refused(cause);
  }
}

/** The library wants the decoded size in front of the block, and never writes more. */
function withSize(stored: Uint8Array, size: number): Uint8Array {
  const sized = Buffer.allocUnsafe(stored.length + 4);
  sized.writeUInt32LE(size, 0);
  sized.set(stored, 4);
  return sized;
}

function checked(data: Uint8Array, size: number): Uint8Array {
  if (data.length !== size) throw new ChunkStoreError("CHUNK_DECODE", `lz4_block: decodes to ${data.length} bytes, recorded are ${size}`);
  return data;
}

const refused = (cause: unknown): ChunkStoreError =>
  cause instanceof ChunkStoreError ? cause : new ChunkStoreError("CHUNK_DECODE", `lz4_block: ${describeCause(cause)}`, { cause });

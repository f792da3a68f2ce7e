import type { Compressor } from "@nydus-ts/rafs-format";
import { ChunkStoreError } from "../errors.ts";
import { decompressGzip } from "./inflate.ts";
import { decompressLz4, decompressLz4InThread } from "./lz4.ts";
import { decompressZstd, decompressZstdInThread } from "./zstd.ts";

/**
 * Decodes one stored item that must come out at exactly the length of `target`. The result is `target`, `stored` (compressor none)
 * or memory of its own.
 *
 * @throws ChunkStoreError CHUNK_DECODE
 * Source: spec/rafs.md 4.2
 */
export function decompress(compressor: Compressor, stored: Uint8Array, target: Uint8Array): Uint8Array {
  switch (compressor) {
    case "none":
      return raw(stored, target.length);
    case "zstd":
      return decompressZstd(stored, target);
    case "lz4_block":
      return decompressLz4(stored, target.length);
    case "gzip":
      return decompressGzip(stored, target.length);
  }
}

/** The same in a thread of the pool where the codec can. `stored` and `target` must be left alone until it settles. */
export async function decompressInThread(compressor: Compressor, stored: Uint8Array, target: Uint8Array): Promise<Uint8Array> {
  if (compressor === "zstd") return decompressZstdInThread(stored, target);
  if (compressor === "lz4_block") return decompressLz4InThread(stored, target.length);
  return decompress(compressor, stored, target);
}

function raw(stored: Uint8Array, size: number): Uint8Array {
  if (stored.length !== size) throw new ChunkStoreError("CHUNK_DECODE", `raw data of ${stored.length} bytes, recorded are ${size}`);
  return stored;
}

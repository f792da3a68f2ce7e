import { crc32c, type Digester } from "@nydus-ts/rafs-format";
import type { ChunkInfo } from "./chunk-info.ts";
import { hasDigest } from "./digest.ts";
import { ChunkStoreError } from "./errors.ts";

/** What decoded data is held against. */
export interface ChunkProof {
  /** Digest of a chunk's data by chunk index; undefined or zeros where none is known. */
  readonly digestOf?: ((chunkIndex: number) => Uint8Array | undefined) | undefined;
  readonly digester: Digester;
}

/**
 * Compares the data of a chunk with its recorded length, and with its digest or else its CRC.
 *
 * @returns false when neither is recorded
 * @throws ChunkStoreError CHUNK_DECODE (another length), CHUNK_DIGEST
 */
export function verifyChunk(info: ChunkInfo, chunk: number, data: Uint8Array, proof: ChunkProof): boolean {
  const size = info.uncompressedSize(chunk);
  if (data.length !== size)
    throw new ChunkStoreError("CHUNK_DECODE", `chunk ${chunk}: ${data.length} bytes came out, ${size} are recorded`);
  const digest = proof.digestOf?.(chunk);
  if (digest?.some((byte) => byte !== 0) === true) {
    if (hasDigest(proof.digester, data, digest)) return true;
    throw new ChunkStoreError(
      "CHUNK_DIGEST",
      `chunk ${chunk} is not what the image was built from (${proof.digester} differs): the blob is damaged, or a host serves other bytes`,
    );
  }
  const crc = info.crc32(chunk);
  if (crc === undefined) return false;
  if (crc32c(data) === crc) return true;
  throw new ChunkStoreError("CHUNK_DIGEST", `chunk ${chunk}: its CRC differs: the blob is damaged, or a host serves other bytes`);
}

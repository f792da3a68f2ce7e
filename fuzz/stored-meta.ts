import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type BlobRecord,
  hasBlobMeta,
  hasFeature,
  hasMisplacedMeta,
  locateBlobMeta,
  metaBlobId,
  metaHeaderBytes,
  metaTrailerBytes,
  openBootstrap,
} from "@nydus-ts/rafs-format";
import { decompress, decryptXts } from "@nydus-ts/chunk-store";
import { goldenFiles } from "./golden-files.ts";

export interface StoredChunkInfo {
  readonly name: string;
  /** The file of the chunk info; for most blobs the blob itself. */
  readonly file: Buffer;
  readonly blob: BlobRecord;
  readonly ci: Uint8Array;
  readonly header: Uint8Array;
  /** Folder of the golden case. */
  readonly directory: string;
}

/** Blob records of a golden case; none when its bootstrap is kept elsewhere or empty. */
export function blobsOf(directory: string): readonly BlobRecord[] {
  const file = join(directory, "bootstrap");
  const bytes = existsSync(file) ? readFileSync(file) : new Uint8Array(0);
  return bytes.length === 0 ? [] : openBootstrap(bytes).blobs;
}

/** Decoded chunk info of every golden blob that is stored. */
export function chunkInfoOf(golden: string | undefined): StoredChunkInfo[] {
  return goldenFiles(golden, /^bootstrap$/).flatMap(({ name, directory }) =>
    blobsOf(directory)
      .filter(hasBlobMeta)
      .flatMap((record) => {
        const path = join(directory, "blobs", metaBlobId(record, undefined));
        return existsSync(path) ? [read(`${name}, blob ${record.index}`, directory, readFileSync(path), record)] : [];
      }),
  );
}

function read(name: string, directory: string, file: Buffer, record: BlobRecord): StoredChunkInfo {
  const blob = hasMisplacedMeta(record) ? locateBlobMeta(record, file.subarray(file.length - metaTrailerBytes), file.length) : record;
  const end = blob.ciOffset + blob.ciCompressedSize;
  const plain = (bytes: Uint8Array): Uint8Array =>
    hasFeature(blob, "encrypted") ? decryptXts(bytes, blob.cipherKey as Uint8Array, blob.cipherIv as Uint8Array) : bytes;
  const stored = plain(file.subarray(blob.ciOffset, end));
  const raw = blob.ciCompressedSize === blob.ciUncompressedSize;
  const ci = decompress(raw ? "none" : blob.ciCompressor, stored, new Uint8Array(blob.ciUncompressedSize));
  return { name, directory, file, blob, ci, header: plain(file.subarray(end, end + metaHeaderBytes)) };
}

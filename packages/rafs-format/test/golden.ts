import { createDecipheriv } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { type GoldenCase, goldenAbsent, goldenCases } from "@nydus-ts/testkit";
import {
  type BlobRecord,
  effectiveBlobId,
  hasMisplacedMeta,
  locateBlobMeta,
  metaBlobId,
  metaHeaderBytes,
  metaTrailerBytes,
} from "../src/index.ts";

export const cases: readonly GoldenCase[] = goldenCases();
if (cases.length === 0) console.log(goldenAbsent);

/** Cases of which the original wrote a bootstrap; the two others are empty files. */
export const withBootstrap = (version: 5 | 6): GoldenCase[] =>
  cases.filter(
    ({ name, version: found }) => found === version && !["plain-v6-estargztoc", "layers-v6-compact", "layers-v5-compact"].includes(name),
  );

/** Folders of golden/bad by name. */
export function damaged(prefix: string, golden: string): { readonly name: string; readonly directory: string }[] {
  return readdirSync(join(golden, "bad"))
    .filter((name) => name.startsWith(prefix))
    .map((name) => ({ name, directory: join(golden, "bad", name) }));
}

export interface StoredMeta {
  readonly blob: BlobRecord;
  readonly ci: Uint8Array;
  readonly header: Uint8Array;
}

/** Name of the file that held the bootstrap: of inline cases the blob itself. */
export function bootstrapFileOf(entry: GoldenCase): string | undefined {
  if (entry.bootstrapFile !== undefined || entry.blobDirectory === undefined) return undefined;
  return readdirSync(entry.blobDirectory)[0];
}

/** Reads, decrypts and decompresses the chunk info of a stored golden blob; undefined when the blob is not stored. */
export function storedMeta(entry: GoldenCase, record: BlobRecord): StoredMeta | undefined {
  const file = join(entry.directory, "blobs", metaBlobId(record, bootstrapFileOf(entry)));
  if (!existsSync(file)) return undefined;
  const bytes = readFileSync(file);
  const blob = hasMisplacedMeta(record) ? locateBlobMeta(record, bytes.subarray(bytes.length - metaTrailerBytes), bytes.length) : record;
  const at = blob.ciOffset;
  const stored = decrypt(blob, bytes.subarray(at, at + blob.ciCompressedSize));
  const header = decrypt(blob, bytes.subarray(at + blob.ciCompressedSize, at + blob.ciCompressedSize + metaHeaderBytes));
  return { blob, ci: decompress(blob, stored), header };
}

export const blobFile = (entry: GoldenCase, record: BlobRecord): string =>
  join(entry.directory, "blobs", effectiveBlobId(record, bootstrapFileOf(entry)));

function decrypt(blob: BlobRecord, bytes: Uint8Array): Uint8Array {
  if (blob.cipherKey === undefined || blob.cipherIv === undefined) return bytes;
  const decipher = createDecipheriv("aes-128-xts", blob.cipherKey, blob.cipherIv);
  return Buffer.concat([decipher.update(bytes), decipher.final()]);
}

function decompress(blob: BlobRecord, bytes: Uint8Array): Uint8Array {
  if (blob.ciCompressedSize === blob.ciUncompressedSize) return bytes;
  if (blob.ciCompressor === "zstd") return zstdDecompressSync(bytes);
  if (blob.ciCompressor === "gzip") return gunzipSync(bytes);
  return unLz4(bytes, blob.ciUncompressedSize);
}

/** A raw LZ4 block (lz4_Block_format.md), enough for tests. */
export function unLz4(block: Uint8Array, size: number): Uint8Array {
  const out = new Uint8Array(size);
  let from = 0;
  let to = 0;
  const length = (short: number): number => {
    let total = short;
    if (short === 15) {
      let more: number;
      do {
        more = block[from++] as number;
        total += more;
      } while (more === 255);
    }
    return total;
  };
  while (from < block.length) {
    const token = block[from++] as number;
    const literals = length(token >> 4);
    out.set(block.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    if (from >= block.length) break;
    const distance = (block[from] as number) | ((block[from + 1] as number) << 8);
    from += 2;
    for (let left = length(token & 15) + 4; left > 0; left--, to++) out[to] = out[to - distance] as number;
  }
  return out;
}

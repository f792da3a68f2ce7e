/** Reads chunks of a finished blob file, each checked against its digest. For blobs whose chunks are stored one by one. */
import { type FileHandle, open } from "node:fs/promises";
import { promisify } from "node:util";
import { gunzip, zstdDecompress } from "node:zlib";
import {
  type BlobMeta,
  type BlobRecord,
  checkChunkInfoSize,
  hasBlobMeta,
  hasFeature,
  metaHeaderBytes,
  openBlobMeta,
} from "@nydus-ts/rafs-format";
import { uncompress } from "lz4-napi";
import { digest } from "./codecs.ts";
import { BuilderError } from "./errors.ts";

const zstdDecompressAsync = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(zstdDecompress);
const gunzipAsync = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(gunzip);

export class BlobFileReader implements AsyncDisposable {
  readonly #handle: FileHandle;
  readonly #record: BlobRecord;
  readonly #meta: BlobMeta;
  readonly #path: string;

  private constructor(handle: FileHandle, record: BlobRecord, meta: BlobMeta, path: string) {
    this.#handle = handle;
    this.#record = record;
    this.#meta = meta;
    this.#path = path;
  }

  /**
   * @throws BuilderError BUILD_SOURCE (the file can not be read, or ends early), BUILD_UNSUPPORTED (batches, encryption, gzip contexts, no
   *   chunk records); RafsError for damaged chunk records
   */
  static async open(path: string, record: BlobRecord): Promise<BlobFileReader> {
    const special = (["batch", "zran", "encrypted", "separate"] as const).find((feature) => hasFeature(record, feature));
    if (special ?? !hasBlobMeta(record)) {
      throw new BuilderError(
        "BUILD_UNSUPPORTED",
        `blob ${record.id} ${special ? `has the feature ${special}` : "has no chunk records"}: its chunks can not be read one by one`,
      );
    }
    checkChunkInfoSize(record);
    const handle = await open(path, "r").catch((cause: unknown) => {
      throw new BuilderError("BUILD_SOURCE", `can not open the blob ${path}: ${(cause as Error).message}`, { cause });
    });
    try {
      const stored = await readExactly(handle, path, record.ciOffset, record.ciCompressedSize);
      const isStoredPlain = record.ciCompressedSize === record.ciUncompressedSize;
      const ci = isStoredPlain ? stored : await decode(stored, record.ciCompressor, record.ciUncompressedSize);
      const header = await readExactly(handle, path, record.ciOffset + record.ciCompressedSize, metaHeaderBytes);
      return new BlobFileReader(handle, record, openBlobMeta(ci, header, record), path);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** The data of one chunk. `expected`: its digest, where one is known. @throws BuilderError BUILD_SOURCE: it is another */
  async chunk(index: number, expected: Uint8Array | undefined): Promise<Buffer> {
    const size = this.#meta.uncompressedSize(index);
    const stored = await readExactly(this.#handle, this.#path, this.#meta.compressedOffset(index), this.#meta.compressedSize(index));
    let data = stored;
    try {
      if (this.#meta.isCompressed(index)) data = await decode(stored, this.#record.compressor, size);
    } catch (cause) {
      throw new BuilderError("BUILD_SOURCE", `chunk ${index} of ${this.#path} can not be decompressed: the blob is damaged`, { cause });
    }
    if (data.length !== size || (expected && Buffer.compare(digest(data, this.#record.digester), expected) !== 0)) {
      throw new BuilderError("BUILD_SOURCE", `chunk ${index} of ${this.#path} has another digest than the image says: the blob is damaged`);
    }
    return data;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}

async function readExactly(handle: FileHandle, path: string, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset);
  if (bytesRead < length)
    throw new BuilderError("BUILD_SOURCE", `${path} ends at byte ${offset + bytesRead}, before ${offset + length}: the blob is truncated`);
  return bytes;
}

/** Decompresses to at most `size` bytes. */
async function decode(stored: Buffer, compressor: BlobRecord["compressor"], size: number): Promise<Buffer> {
  const options = { maxOutputLength: Math.max(1, size) };
  if (compressor === "zstd") return await zstdDecompressAsync(stored, options);
  if (compressor === "gzip") return await gunzipAsync(stored, options);
  if (compressor === "none") return stored;
  // The binding wants the size in front of the block. It is bounded: openBlobMeta refuses chunks, and checkChunkInfoSize chunk info, that are larger.
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32LE(size);
  return await uncompress(Buffer.concat([prefix, stored]));
}

/** A plain tar that stays as it is and is the data blob: nothing is written for it, chunks are places in it. Source: spec/rafs.md, section 9 */
import { blobFeatures } from "@nydus-ts/rafs-format";
import { type BlobEntry, newBlobEntry, type StoredChunk } from "@nydus-ts/rafs-format/writer";
import { GivenBlob } from "./built-blob.ts";
import { compressorNumbers, digesterNumbers } from "./codecs.ts";
import { BuilderError } from "./errors.ts";
import { chunksPerBlobMax } from "./limits.ts";
import type { ChunkSink, ChunkSlot } from "./sources/chunk-sink.ts";
import type { LayerInput } from "./zran/ref-writer.ts";

/** Digests are not recorded. */
const noDigest = new Uint8Array(32);

export class TarfsSink implements ChunkSink {
  blob: BlobEntry | undefined;

  readonly #options: { chunkSize: number; id: string };
  readonly #input: LayerInput;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  #chunkStart = 0;

  /** `id`: of the blob; empty for the SHA-256 of the tar */
  constructor(options: { chunkSize: number; id: string }, input: LayerInput) {
    this.#options = options;
    this.#input = input;
    this.#buffer = new Uint8Array(new ArrayBuffer(options.chunkSize));
  }

  allocate(bytes: number): Uint8Array<ArrayBuffer> {
    this.#chunkStart = this.#input.position;
    return this.#buffer.subarray(0, bytes);
  }

  /** @throws BuilderError BUILD_LIMIT */
  add(data: Uint8Array, { chunks, index }: ChunkSlot): void {
    const blob = this.blob ?? this.#begin();
    if (blob.chunkCount >= chunksPerBlobMax)
      throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one blob; use a larger chunk size`);
    const chunk: StoredChunk = {
      digest: noDigest,
      blob,
      index: blob.chunkCount++,
      flags: 0,
      compressedOffset: this.#chunkStart,
      compressedSize: data.length,
      uncompressedOffset: this.#chunkStart,
      uncompressedSize: data.length,
      crc32: 0,
    };
    chunks[index] = chunk;
  }

  #begin(): BlobEntry {
    this.blob = newBlobEntry({
      id: "",
      chunkSize: this.#options.chunkSize,
      compressor: compressorNumbers.none,
      digester: digesterNumbers.sha256,
      features: (blobFeatures.capTarToc | blobFeatures.tarfs) >>> 0,
    });
    // What the original records where there is no chunk info. Source: spec/rafs.md, section 2.5
    this.blob.ciCompressor = compressorNumbers.lz4_block;
    return this.blob;
  }

  /** The tar must have been read to its end. */
  describe(): GivenBlob {
    const { blob } = this;
    if (blob) {
      blob.id = this.#options.id || this.#input.sourceDigest().toString("hex");
      blob.compressedSize = this.#input.sourceBytes;
      blob.uncompressedSize = this.#input.sourceBytes;
    }
    return new GivenBlob(blob);
  }
}

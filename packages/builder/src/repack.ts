/** Chunks of blobs that exist, gathered in a new one: their stored bytes are taken over where the new blob can hold them. */
import { blobFeatures, chunkFlags } from "@nydus-ts/rafs-format";
import { type BlobEntry, newBlobEntry, roundUp, type StoredChunk, writeChunkInfo } from "@nydus-ts/rafs-format/writer";
import { Artifact, type Destination } from "./artifact.ts";
import { BlobTail } from "./blob-tail.ts";
import { type Compressed, type Compressor, compressHere, compressorNumbers, type Digester, digesterNumbers } from "./codecs.ts";
import { type BlobKey, encryptItem, looksPadded } from "./encryption.ts";
import { BuilderError } from "./errors.ts";
import { chunksPerBlobMax } from "./limits.ts";

export interface RepackOptions {
  destination: Destination;
  version: 5 | 6;
  /** of chunks whose stored bytes can not be taken over */
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  /** version 6: 2 keeps the checksums of chunks */
  chunkInfoVersion: 1 | 2;
  /** beside those that follow from the other options */
  features: number;
  /** a tar header stands behind each section, as in blobs with a bootstrap inside */
  sectionHeaders: boolean;
  /** encrypts the blob; version 6 only */
  key: BlobKey | undefined;
}

/** Where the bytes of a chunk come from; both verify it. */
export interface ChunkBytes {
  /** as they are stored; undefined when the chunk is not stored alone, or in a form that only its own blob can hold */
  stored(chunk: StoredChunk): Promise<Uint8Array | undefined>;
  data(chunk: StoredChunk): Promise<Uint8Array>;
}

const alignment = 4096;

export class RepackedBlob implements AsyncDisposable {
  /** the row of the blob table; whole after `commit` */
  readonly blob: BlobEntry;
  /** chunk info and header, plain, as the cache file `<id>.blob.meta` holds them; after `commit`, version 6 only */
  metaFile: Buffer | undefined;
  readonly #options: RepackOptions;
  readonly #artifact: Artifact;
  readonly #chunks: StoredChunk[] = [];
  #storedBytes = 0;
  #uncompressedCursor = 0;

  private constructor(options: RepackOptions, artifact: Artifact) {
    this.#options = options;
    this.#artifact = artifact;
    let features = blobFeatures.capTarToc | options.features;
    if (options.version === 6) features |= blobFeatures.aligned;
    if (options.version === 6 && options.sectionHeaders) features |= blobFeatures.hasTarHeader;
    if (options.version === 6 && (options.chunkInfoVersion === 2 || options.key)) features |= blobFeatures.chunkInfoV2;
    if (options.key) features |= blobFeatures.encrypted;
    this.blob = newBlobEntry({
      id: "",
      chunkSize: options.chunkSize,
      compressor: compressorNumbers[options.compressor],
      digester: digesterNumbers[options.digester],
      features: features >>> 0,
    });
    if (!options.key) return;
    this.blob.cipher = 1;
    this.blob.metaDigest = options.key.key;
    this.blob.cipherIv = options.key.iv;
  }

  /** @throws BuilderError BUILD_OUTPUT */
  static async create(options: RepackOptions): Promise<RepackedBlob> {
    return new RepackedBlob(options, await Artifact.create(options.destination));
  }

  /** Appends a chunk of another blob; returns the new one. @throws BuilderError BUILD_LIMIT, BUILD_OUTPUT; what `bytes` throws */
  async add(chunk: StoredChunk, bytes: ChunkBytes): Promise<StoredChunk> {
    const index = this.blob.chunkCount++;
    if (index >= chunksPerBlobMax) throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one blob`);
    const isPlain = (chunk.flags & chunkFlags.compressed) === 0;
    const taken = isPlain || chunk.blob.compressor === this.blob.compressor ? await bytes.stored(chunk) : undefined;
    const encoded = taken ? { bytes: taken, compressed: !isPlain } : compressHere(await bytes.data(chunk), this.#options.compressor);
    const stored = await this.#encrypt(encoded, chunk, bytes);
    const moved: StoredChunk = {
      ...chunk,
      blob: this.blob,
      index,
      flags:
        (chunk.flags & chunkFlags.crc32) | (stored.compressed ? chunkFlags.compressed : 0) | (this.#options.key ? chunkFlags.encrypted : 0),
      compressedOffset: this.#storedBytes,
      compressedSize: stored.bytes.length,
      uncompressedOffset: this.#uncompressedCursor,
    };
    this.#storedBytes += moved.compressedSize;
    this.#uncompressedCursor += this.#options.version === 6 ? roundUp(moved.uncompressedSize, alignment) : moved.uncompressedSize;
    await this.#artifact.append(stored.bytes);
    this.#chunks.push(moved);
    return moved;
  }

  async #encrypt(encoded: Compressed, chunk: StoredChunk, bytes: ChunkBytes): Promise<Compressed> {
    const { key } = this.#options;
    if (!key) return encoded;
    const isSafe = !encoded.compressed || !looksPadded(encoded.bytes);
    return isSafe
      ? { bytes: encryptItem(encoded.bytes, key), compressed: encoded.compressed }
      : { bytes: encryptItem(await bytes.data(chunk), key), compressed: false };
  }

  /** Writes what describes the chunks and makes the blob appear. Its id is the SHA-256 of the file. */
  async commit(): Promise<void> {
    const { blob } = this;
    const { version, sectionHeaders, compressor, key } = this.#options;
    const chunkInfoVersion = key ? 2 : this.#options.chunkInfoVersion;
    const tail = new BlobTail(this.#artifact, { inlineBootstrap: sectionHeaders, toc: false, hashDigests: true, key });
    blob.uncompressedSize = this.#uncompressedCursor;
    await tail.endData({ offset: 0, storedBytes: this.#storedBytes, uncompressedBytes: blob.uncompressedSize });
    if (version === 6) {
      const chunks = this.#chunks;
      this.metaFile = await tail.appendMeta(blob, { bytes: writeChunkInfo(chunks, { version: chunkInfoVersion }), chunks }, compressor);
    }
    blob.compressedSize = version === 6 ? this.#artifact.position : this.#storedBytes;
    blob.id = this.#artifact.digest().toString("hex");
    await this.#artifact.commit(blob.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#artifact[Symbol.asyncDispose]();
  }
}

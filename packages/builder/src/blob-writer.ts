/**
 * Writes one data blob: chunks come in, equal ones are stored once, the rest is compressed in parallel and written in the order it came.
 *
 * Invariants: chunk indexes and uncompressed offsets are given when a chunk comes in, stored offsets when its turn to be written comes, so
 * the bytes never depend on which compression finishes first. At most `bytesInFlightMax` bytes and `chunksInFlightMax` chunks wait.
 * Source: spec/nydus-image.md, sections 7 and 8
 */
import { blobFeatures, chunkFlags, crc32c } from "@nydus-ts/rafs-format";
import { type BlobEntry, newBlobEntry, roundUp, type StoredChunk, writeChunkInfo } from "@nydus-ts/rafs-format/writer";
import { Artifact, type Destination } from "./artifact.ts";
import { BlobTail } from "./blob-tail.ts";
import { BufferPool } from "./buffer-pool.ts";
import { type Compressor, compressorNumbers, type Digester, digest, digesterNumbers } from "./codecs.ts";
import type { CompressPool } from "./compress-pool.ts";
import { BuilderError } from "./errors.ts";
import { bytesInFlightMax, chunksInFlightMax, chunksPerBlobMax } from "./limits.ts";

export interface BlobOptions {
  destination: Destination;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  /** empty: the SHA-256 of what is written */
  id: string;
  /** recorded position of the first chunk, for blobs that will stand behind something else */
  offset: number;
  /** the bootstrap goes to the end of the blob */
  inlineBootstrap: boolean;
  /** a table of contents and the chunk digests go into the blob */
  toc: boolean;
  chunkInfoVersion: 1 | 2;
  /** for RAFS v5, whose bootstrap describes all chunks: the blob has none but their data, aligned or not */
  version5: Version5Options | undefined;
}

export interface Version5Options {
  /** chunks start at multiples of 4 KiB of the uncompressed blob, as they always do in version 6 */
  alignedChunks: boolean;
}

const alignment = 4096;
/** Id in the blob table of a bootstrap that is inside the blob, whose id can not be known yet. */
const placeholderId = "x".repeat(64);

/** Chunks that are known already, by digest. Shared by the blobs of one build. */
export class ChunkDictionary {
  readonly #chunks = new Map<string, StoredChunk>();

  /** A chunk of this digest, unless its size is another one. */
  find(key: string, uncompressedSize: number): StoredChunk | undefined {
    const chunk = this.#chunks.get(key);
    return chunk && chunk.uncompressedSize === uncompressedSize ? chunk : undefined;
  }

  /** The first chunk of a digest stays. */
  add(key: string, chunk: StoredChunk): void {
    if (!this.#chunks.has(key)) this.#chunks.set(key, chunk);
  }
}

export function chunkKey(chunkDigest: Uint8Array): string {
  return Buffer.from(chunkDigest.buffer, chunkDigest.byteOffset, chunkDigest.length).toString("latin1");
}

/** What a finished blob is called, and where it is. */
export interface FinishedBlob {
  id: string;
  path: string;
  size: number;
}

export class BlobWriter implements AsyncDisposable {
  /** the row of the blob table; undefined until a chunk was stored */
  blob: BlobEntry | undefined;
  /** bytes of data that came in and were found to be there already */
  deduplicatedBytes = 0;
  deduplicatedChunks = 0;
  /** bytes of data that came in */
  uncompressedBytes = 0;
  /** plain chunk info array and header, in the form of the cache file `<id>.blob.meta`; set by `finishData` */
  metaFile: Buffer | undefined;

  readonly #options: BlobOptions;
  readonly #dictionary: ChunkDictionary;
  readonly #pool: CompressPool;
  readonly #buffers = new BufferPool();
  readonly #chunks: StoredChunk[] = [];
  #opened: { artifact: Artifact; tail: BlobTail } | undefined;
  #uncompressedCursor = 0;
  #storedBytes = 0;
  #bytesInFlight = 0;
  #chunksInFlight = 0;
  #turn: Promise<void> = Promise.resolve();
  #failure: unknown;
  #wake: (() => void) | undefined;

  constructor(options: BlobOptions, dictionary: ChunkDictionary, pool: CompressPool) {
    this.#options = options;
    this.#dictionary = dictionary;
    this.#pool = pool;
  }

  /** A buffer for one chunk, to be filled and given to `add`. */
  allocate(bytes: number): Uint8Array<ArrayBuffer> {
    return this.#buffers.take(bytes);
  }

  /**
   * Takes one chunk in a buffer of `allocate`, which must not be touched afterwards. Resolves as soon as the next chunk may come; stored offsets of the result are
   * valid after `finishData`.
   * @throws BuilderError BUILD_LIMIT, BUILD_OUTPUT
   */
  async add(data: Uint8Array<ArrayBuffer>): Promise<StoredChunk> {
    if (this.#failure !== undefined) throw this.#failure;
    const { digester, compressor } = this.#options;
    this.uncompressedBytes += data.length;
    const chunkDigest = digest(data, digester);
    const key = chunkKey(chunkDigest);
    const known = this.#dictionary.find(key, data.length);
    if (known) {
      this.deduplicatedBytes += data.length;
      this.deduplicatedChunks++;
      this.#buffers.give(data.buffer);
      return known;
    }
    const blob = this.#begin();
    const index = blob.chunkCount++;
    if (index >= chunksPerBlobMax)
      throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one blob; use a larger chunk size`);
    const chunk: StoredChunk = {
      digest: chunkDigest,
      blob,
      index,
      flags: chunkFlags.crc32,
      compressedOffset: 0,
      compressedSize: 0,
      uncompressedOffset: this.#uncompressedCursor,
      uncompressedSize: data.length,
      crc32: crc32c(data),
    };
    this.#uncompressedCursor += this.#isAligned ? roundUp(data.length, alignment) : data.length;
    blob.uncompressedSize = this.#uncompressedCursor;
    this.#chunks.push(chunk);
    this.#dictionary.add(key, chunk);
    await this.#store(chunk, data, compressor);
    return chunk;
  }

  get #isAligned(): boolean {
    return this.#options.version5?.alignedChunks ?? true;
  }

  #begin(): BlobEntry {
    if (this.blob) return this.blob;
    const options = this.#options;
    let features: number = blobFeatures.capTarToc;
    if (!options.version5) features |= blobFeatures.aligned;
    if (options.inlineBootstrap) features |= blobFeatures.inlinedFsMeta | blobFeatures.hasTarHeader;
    if (options.toc) features |= blobFeatures.hasToc | blobFeatures.hasTarHeader | blobFeatures.inlinedChunkDigest;
    if (options.chunkInfoVersion === 2) features |= blobFeatures.chunkInfoV2;
    this.blob = newBlobEntry({
      id: options.id,
      chunkSize: options.chunkSize,
      compressor: compressorNumbers[options.compressor],
      digester: digesterNumbers[options.digester],
      features: features >>> 0,
    });
    return this.blob;
  }

  /** Starts compression now, puts the write behind all earlier ones, and waits only if too much is in flight. */
  async #store(chunk: StoredChunk, data: Uint8Array<ArrayBuffer>, compressor: Compressor): Promise<void> {
    const bytes = data.length;
    this.#bytesInFlight += bytes;
    this.#chunksInFlight++;
    const compressed = this.#pool.compress(data, compressor);
    compressed.catch(() => {}); // told to whoever waits for the turn below
    this.#turn = this.#turn.then(async () => {
      if (this.#failure !== undefined) return;
      try {
        const result = await compressed;
        chunk.compressedOffset = this.#options.offset + this.#storedBytes;
        chunk.compressedSize = result.bytes.length;
        if (result.compressed) chunk.flags |= chunkFlags.compressed;
        this.#storedBytes += result.bytes.length;
        await (await this.#output()).artifact.append(result.bytes);
        if (result.compressed) this.#buffers.give(result.input.buffer as ArrayBuffer);
      } catch (failure) {
        this.#failure = failure;
      } finally {
        this.#bytesInFlight -= bytes;
        this.#chunksInFlight--;
        this.#wake?.();
      }
    });
    while (this.#failure === undefined && (this.#bytesInFlight > bytesInFlightMax || this.#chunksInFlight > chunksInFlightMax)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #output(): Promise<{ artifact: Artifact; tail: BlobTail }> {
    if (!this.#opened) {
      const { destination, inlineBootstrap, toc } = this.#options;
      const artifact = await Artifact.create(destination);
      // The original leaves the digests out of the hash that becomes the id of a blob without inlined bootstrap. Source: section 8.2
      this.#opened = { artifact, tail: new BlobTail(artifact, { inlineBootstrap, toc, hashDigests: inlineBootstrap }) };
    }
    return this.#opened;
  }

  /** Waits for all chunks and writes the sections that describe them. Afterwards only a bootstrap and the table of contents can follow. */
  async finishData(): Promise<void> {
    await this.#turn;
    if (this.#failure !== undefined) throw this.#failure;
    if (!this.blob) return;
    const { offset, inlineBootstrap } = this.#options;
    const { artifact, tail } = await this.#output();
    await tail.endData({ offset, storedBytes: this.#storedBytes, uncompressedBytes: this.blob.uncompressedSize });
    if (!this.#options.version5) await this.#appendMeta(this.blob, tail);
    // An inlined bootstrap can not know the blob's final size: it records what stands before it. Source: section 8.4
    this.blob.compressedSize = artifact.position;
    if (inlineBootstrap) this.blob.id = placeholderId;
  }

  async #appendMeta(blob: BlobEntry, tail: BlobTail): Promise<void> {
    const chunks = this.#chunks;
    const bytes = writeChunkInfo(chunks, { version: this.#options.chunkInfoVersion });
    const digests = chunks.map((chunk) => chunk.digest);
    this.metaFile = await tail.appendMeta(blob, { bytes, count: chunks.length, digests }, this.#options.compressor);
  }

  /** Puts the bootstrap of this image at the end of the blob. */
  async appendBootstrap(bootstrap: Buffer): Promise<void> {
    await (await this.#output()).tail.appendBootstrap(bootstrap);
  }

  /** Writes the table of contents and makes the blob appear under its name. Undefined if there was nothing to store. */
  async commit(): Promise<FinishedBlob | undefined> {
    if (!this.#opened) return undefined;
    const { artifact, tail } = this.#opened;
    await tail.appendToc(this.blob);
    const size = artifact.position;
    const id = this.#options.id || artifact.digest().toString("hex");
    const path = await artifact.commit(id);
    if (this.blob) {
      this.blob.id = id;
      this.blob.compressedSize = size;
    }
    return { id, path, size };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#failure ??= new BuilderError("BUILD_OUTPUT", "the build was given up");
    await this.#turn;
    await this.#opened?.artifact[Symbol.asyncDispose]();
  }
}

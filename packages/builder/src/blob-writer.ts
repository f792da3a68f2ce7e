/**
 * Writes one data blob: chunks come in, equal ones are stored once, the rest is compressed in parallel and written in the order it came.
 *
 * Invariants: chunk indexes and uncompressed offsets are given when a chunk comes in, stored offsets when its turn to be written comes, so
 * the bytes never depend on which compression finishes first. At most `bytesInFlightMax` bytes and `chunksInFlightMax` chunks wait.
 * Source: spec/nydus-image.md, sections 7 and 8
 */
import { blobFeatures, chunkFlags, crc32c } from "@nydus-ts/rafs-format";
import {
  type Batch,
  type BlobEntry,
  newBlobEntry,
  roundUp,
  type StoredChunk,
  writeBatchContexts,
  writeChunkInfo,
} from "@nydus-ts/rafs-format/writer";
import { Artifact, type BlobOutput, type Destination } from "./artifact.ts";
import { BlobTail, type ChunkInfo } from "./blob-tail.ts";
import { BufferPool } from "./buffer-pool.ts";
import { CacheFiles } from "./cache-files.ts";
import { type ChunkDictionary, chunkKey } from "./chunk-dictionary.ts";
import { type Compressed, type Compressor, compressorNumbers, type Digester, digest, digesterNumbers } from "./codecs.ts";
import type { CompressPool } from "./compress-pool.ts";
import { type BlobKey, encryptItem, looksPadded } from "./encryption.ts";
import { BuilderError } from "./errors.ts";
import { bytesInFlightMax, chunksInFlightMax, chunksPerBlobMax } from "./limits.ts";
import type { ChunkSink } from "./sources/chunk-sink.ts";

/** Cache files of a daemon instead of a blob; nothing is compressed in them. */
export interface CacheDestination {
  cacheDirectory: string;
}

export interface BlobOptions {
  destination: Destination | CacheDestination;
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
  /** bytes of a batch of small files; 0: each is stored alone */
  batchSize: number;
  key: BlobKey | undefined;
  /** for RAFS v5, whose bootstrap describes all chunks: the blob has none but their data, aligned or not */
  version5: Version5Options | undefined;
}

export interface Version5Options {
  /** chunks start at multiples of 4 KiB of the uncompressed blob, as they always do in version 6 */
  alignedChunks: boolean;
}

const alignment = 4096;
/** A shorter item gets longer by encryption, and readers take a batch whose stored size is another than its plain one for a compressed one. Source: spec/rafs.md, 5.4, 11.20 */
const encryptedBatchBytesMin = 16;
/** Id in the blob table of a bootstrap that is inside the blob, whose id can not be known yet. */
const placeholderId = "x".repeat(64);

/** What a finished blob is called, and where it is. */
export interface FinishedBlob {
  id: string;
  path: string;
  size: number;
}

/** The blob of a build, as it gets described. */
export interface BuiltBlob {
  /** the row of the blob table; undefined until a chunk was stored */
  readonly blob: BlobEntry | undefined;
  /** data that came in and was found to be there already */
  readonly deduplicatedBytes: number;
  readonly deduplicatedChunks: number;
  /** bytes of data that came in */
  readonly uncompressedBytes: number;
  /** plain chunk info array and header, in the form of the cache file `<id>.blob.meta`; set by `finishData` */
  readonly metaFile: Buffer | undefined;
  /** Writes what describes the data, after all of it came. Afterwards only a bootstrap can follow. */
  finishData(): Promise<void>;
  /** Puts the bootstrap of this image at the end of the blob. */
  appendBootstrap(bootstrap: Buffer): Promise<void>;
  /** Makes the blob appear under its name. Undefined if there was nothing to store. */
  commit(): Promise<FinishedBlob | undefined>;
}

/** Takes the data of a build and describes it as one blob. */
export interface DataWriter extends ChunkSink, BuiltBlob {}

/** A blob that is there already, so that nothing is written for it. */
export class GivenBlob implements BuiltBlob {
  readonly blob: BlobEntry | undefined;
  readonly deduplicatedBytes = 0;
  readonly deduplicatedChunks = 0;
  readonly uncompressedBytes = 0;
  readonly metaFile = undefined;

  constructor(blob: BlobEntry | undefined) {
    this.blob = blob;
  }

  async finishData(): Promise<void> {}

  async appendBootstrap(): Promise<void> {
    throw new BuilderError("BUILD_UNSUPPORTED", "a layer that stays as it is can not take the bootstrap in: give it a file of its own");
  }

  async commit(): Promise<FinishedBlob | undefined> {
    return undefined;
  }
}

/** One piece of the blob: a chunk, or a batch of them back to back in `data`. */
interface Item {
  data: Uint8Array<ArrayBuffer>;
  members: StoredChunk[];
  batch: Batch | undefined;
}

export class BlobWriter implements DataWriter, AsyncDisposable {
  blob: BlobEntry | undefined;
  deduplicatedBytes = 0;
  deduplicatedChunks = 0;
  uncompressedBytes = 0;
  metaFile: Buffer | undefined;

  readonly #options: BlobOptions;
  readonly #dictionary: ChunkDictionary;
  readonly #pool: CompressPool;
  readonly #buffers = new BufferPool();
  readonly #chunks: StoredChunk[] = [];
  readonly #batches: Batch[] = [];
  /** the batch that small files go to; `data` is as long as it is filled */
  #open: Item | undefined;
  #opened: { output: BlobOutput; tail: BlobTail } | undefined;
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

  allocate(bytes: number): Uint8Array<ArrayBuffer> {
    return this.#buffers.take(bytes);
  }

  /**
   * Resolves as soon as the next chunk may come; stored offsets of the result are valid after `finishData`.
   * @throws BuilderError BUILD_LIMIT, BUILD_OUTPUT
   */
  async add(data: Uint8Array<ArrayBuffer>, isWholeFile: boolean): Promise<StoredChunk> {
    if (this.#failure !== undefined) throw this.#failure;
    this.uncompressedBytes += data.length;
    const chunkDigest = digest(data, this.#options.digester);
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
      flags: this.#options.key ? chunkFlags.crc32 | chunkFlags.encrypted : chunkFlags.crc32,
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
    if (isWholeFile && data.length < Math.floor(this.#options.batchSize / 2)) {
      await this.#addToBatch(chunk, data);
    } else {
      await this.#endBatch();
      await this.#store({ data, members: [chunk], batch: undefined });
    }
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
    if (this.#chunkInfoVersion === 2) features |= blobFeatures.chunkInfoV2;
    if (options.batchSize > 0) features |= blobFeatures.batch;
    if (options.key) features |= blobFeatures.encrypted;
    this.blob = newBlobEntry({
      id: options.id,
      chunkSize: options.chunkSize,
      compressor: compressorNumbers[options.compressor],
      digester: digesterNumbers[options.digester],
      features: features >>> 0,
    });
    if (options.key) {
      this.blob.cipher = 1;
      this.blob.metaDigest = options.key.key;
      this.blob.cipherIv = options.key.iv;
    }
    this.#dictionary.blobs.push(this.blob);
    return this.blob;
  }

  get #chunkInfoVersion(): 1 | 2 {
    const { batchSize, key, chunkInfoVersion } = this.#options;
    return batchSize > 0 || key ? 2 : chunkInfoVersion;
  }

  /** Source: spec/nydus-image.md, section 7.6 */
  async #addToBatch(chunk: StoredChunk, data: Uint8Array<ArrayBuffer>): Promise<void> {
    const { batchSize } = this.#options;
    if (this.#open && this.#open.data.length + data.length >= batchSize) await this.#endBatch();
    this.#open ??= {
      data: this.#buffers.take(batchSize).subarray(0, 0),
      members: [],
      batch: { index: this.#batches.length, storedOffset: 0, storedSize: 0, plainSize: 0 },
    };
    const { members, batch } = this.#open;
    const filled = this.#open.data.length;
    this.#open.data = new Uint8Array(this.#open.data.buffer, 0, filled + data.length);
    this.#open.data.set(data, filled);
    this.#buffers.give(data.buffer);
    chunk.place = { batch: batch!, offset: filled };
    members.push(chunk);
  }

  async #endBatch(): Promise<void> {
    const item = this.#open;
    if (!item) return;
    this.#open = undefined;
    if (this.#options.key && item.data.length < encryptedBatchBytesMin) {
      for (const chunk of item.members) {
        const data = this.#buffers.take(chunk.uncompressedSize);
        data.set(item.data.subarray(chunk.place!.offset, chunk.place!.offset + data.length));
        chunk.place = undefined;
        await this.#store({ data, members: [chunk], batch: undefined });
      }
      this.#buffers.give(item.data.buffer);
      return;
    }
    item.batch!.plainSize = item.data.length;
    this.#batches.push(item.batch!);
    await this.#store(item);
  }

  /** Starts compression now, puts the write behind all earlier ones, and waits only if too much is in flight. */
  async #store(item: Item): Promise<void> {
    const bytes = item.data.length;
    this.#bytesInFlight += bytes;
    this.#chunksInFlight++;
    const { compressor, key } = this.#options;
    const compressed = this.#pool.compress(item.data, compressor, key && looksPadded);
    compressed.catch(() => {}); // told to whoever waits for the turn below
    this.#turn = this.#turn.then(async () => {
      if (this.#failure !== undefined) return;
      try {
        await this.#write(item, await compressed);
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

  async #write(item: Item, { bytes, compressed }: Compressed): Promise<void> {
    const { key, offset } = this.#options;
    const stored = key ? encryptItem(bytes, key) : bytes;
    const place = { storedOffset: offset + this.#storedBytes, storedSize: stored.length };
    if (item.batch) {
      Object.assign(item.batch, place);
    } else {
      const [chunk] = item.members;
      chunk.compressedOffset = place.storedOffset;
      chunk.compressedSize = place.storedSize;
      if (compressed) chunk.flags |= chunkFlags.compressed;
    }
    this.#storedBytes += stored.length;
    const { output } = await this.#output();
    const release = () => this.#buffers.give(bytes.buffer as ArrayBuffer);
    if (output instanceof CacheFiles) {
      await output.append(stored);
      for (const { place: inBatch, uncompressedSize } of item.members) {
        const start = inBatch?.offset ?? 0;
        // Nothing is compressed here, so these are the chunk's own bytes.
        await output.appendPlain(bytes.subarray(start, start + uncompressedSize));
      }
    } else {
      await output.append(stored, { release });
    }
  }

  async #output(): Promise<{ output: BlobOutput; tail: BlobTail }> {
    if (!this.#opened) {
      const { destination, inlineBootstrap, toc, key } = this.#options;
      const output =
        "cacheDirectory" in destination ? await CacheFiles.create(destination.cacheDirectory) : await Artifact.create(destination);
      // The original leaves the digests out of the hash that becomes the id of a blob without inlined bootstrap. Source: section 8.2
      this.#opened = { output, tail: new BlobTail(output, { inlineBootstrap, toc, hashDigests: inlineBootstrap, key }) };
    }
    return this.#opened;
  }

  /** Waits for all chunks and writes the sections that describe them. */
  async finishData(): Promise<void> {
    await this.#endBatch();
    await this.#turn;
    if (this.#failure !== undefined) throw this.#failure;
    if (!this.blob) return;
    const { offset, inlineBootstrap } = this.#options;
    const { output, tail } = await this.#output();
    await tail.endData({ offset, storedBytes: this.#storedBytes, uncompressedBytes: this.blob.uncompressedSize });
    if (!this.#options.version5) this.metaFile = await tail.appendMeta(this.blob, this.#chunkInfo(), this.#options.compressor);
    if (output instanceof CacheFiles && this.metaFile) output.setMeta(this.metaFile);
    // An inlined bootstrap can not know the blob's final size: it records what stands before it. Source: section 8.4
    this.blob.compressedSize = output.position;
    if (inlineBootstrap) this.blob.id = placeholderId;
  }

  #chunkInfo(): ChunkInfo {
    const digests = this.#chunks.map((chunk) => chunk.digest);
    const records = writeChunkInfo(this.#chunks, { version: this.#chunkInfoVersion });
    const count = this.#chunks.length;
    if (this.#options.batchSize === 0) return { bytes: records, count, digests };
    const contexts = writeBatchContexts(this.#batches);
    return {
      bytes: Buffer.concat([records, contexts]),
      count,
      digests,
      contexts: { count: this.#batches.length, offset: records.length, size: contexts.length },
    };
  }

  async appendBootstrap(bootstrap: Buffer): Promise<void> {
    await (await this.#output()).tail.appendBootstrap(bootstrap);
  }

  /** Writes the table of contents before. */
  async commit(): Promise<FinishedBlob | undefined> {
    if (!this.#opened) return undefined;
    const { output, tail } = this.#opened;
    await tail.appendToc(this.blob);
    const size = output.position;
    const id = this.#options.id || output.digest().toString("hex");
    const path = await output.commit(id);
    if (this.blob) {
      this.blob.id = id;
      this.blob.compressedSize = size;
    }
    return { id, path, size };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#failure ??= new BuilderError("BUILD_OUTPUT", "the build was given up");
    await this.#turn;
    await this.#opened?.output[Symbol.asyncDispose]();
  }
}

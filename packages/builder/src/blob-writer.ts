/**
 * Writes one data blob: chunks come in, are digested and compressed in parallel, a buffer full of them at a time, and in the order they came
 * equal ones are left out and the rest gets its place and is written.
 *
 * Invariants: chunks get indexes and offsets in the order they came in, so the bytes never depend on which buffer is packed first. Two
 * chains keep that order: `#turn` for the places of chunks, `#writes` for what is stored, since a batch is compressed after its place is
 * known. A buffer goes back to the pool when all of it is written, also after a failure.
 * Source: spec/nydus-image.md, sections 7 and 8
 */
import { blobFeatures, chunkFlags } from "@nydus-ts/rafs-format";
import {
  type Batch,
  type BlobEntry,
  newBlobEntry,
  roundUp,
  type StoredChunk,
  type TreeNode,
  writeBatchContexts,
  writeChunkInfo,
} from "@nydus-ts/rafs-format/writer";
import { Artifact, type BlobOutput, type Destination } from "./artifact.ts";
import { BlobTail, type ChunkInfo } from "./blob-tail.ts";
import type { DataWriter, FinishedBlob } from "./built-blob.ts";
import { CacheFiles } from "./cache-files.ts";
import type { ChunkDictionary } from "./chunk-dictionary.ts";
import { type Compressor, compressHere, compressorNumbers, type Digester, digesterNumbers } from "./codecs.ts";
import type { CompressPool } from "./compress-pool.ts";
import { type BlobKey, encryptItem } from "./encryption.ts";
import { BuilderError } from "./errors.ts";
import { chunksPerBlobMax, chunksPerBufferMax, packSlackBytes } from "./limits.ts";
import { digestBytes, type Packed, type PackJob } from "./pack.ts";
import { type ChunkSlot, roomForChunks } from "./sources/chunk-sink.ts";

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

/** One piece of the blob: a chunk, or a batch of them back to back. `bytes` are what is stored of it. */
interface Item {
  bytes: Uint8Array;
  compressed: boolean;
  members: StoredChunk[];
  batch: Batch | undefined;
}

/** A batch that is still being filled, or compressed. */
interface OpenBatch {
  data: Uint8Array<SharedArrayBuffer>;
  members: StoredChunk[];
  batch: Batch;
}

/** A buffer that is being filled, and where the records of its chunks go. */
interface Filling {
  job: PackJob & { plain: boolean[] };
  slots: ChunkSlot[];
  end: number;
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
  readonly #chunks: StoredChunk[] = [];
  readonly #batches: Batch[] = [];
  /** the batch that small files go to; `data` is as long as it is filled */
  #open: OpenBatch | undefined;
  #filling: Filling | undefined;
  #opened: { output: BlobOutput; tail: BlobTail } | undefined;
  #sealed: { id: string; size: number } | undefined;
  #uncompressedCursor = 0;
  #storedBytes = 0;
  #turn: Promise<void> = Promise.resolve();
  #writes: Promise<void> = Promise.resolve();
  #failure: unknown;

  constructor(options: BlobOptions, dictionary: ChunkDictionary, pool: CompressPool) {
    this.#options = options;
    this.#dictionary = dictionary;
    this.#pool = pool;
  }

  /** @throws BuilderError of a chunk before, as `add` does */
  async allocate(bytes: number): Promise<Uint8Array> {
    const filling = await this.#room(bytes, false);
    return new Uint8Array(filling.job.buffer, filling.end, bytes);
  }

  /** The last that was allocated. @throws BuilderError BUILD_LIMIT, BUILD_OUTPUT */
  add(data: Uint8Array, slot: ChunkSlot): void {
    this.#take(this.#filling as Filling, data.length, slot);
  }

  /**
   * The data is read in another thread. The size is the node's: a file that got longer is cut there, one that got shorter fails the build.
   * Resolves as soon as the next may come.
   * @throws BuilderError BUILD_SOURCE, BUILD_LIMIT, BUILD_OUTPUT, also for files before it
   */
  async addFile({ path, offset: start }: { path: string; offset: number }, node: TreeNode): Promise<void> {
    const { chunkSize } = this.#options;
    const { size } = node;
    const chunks = roomForChunks(node, chunkSize);
    for (let offset = 0; offset < size; offset += chunkSize) {
      const bytes = Math.min(chunkSize, size - offset);
      const filling = this.#roomNow(bytes, true) ?? (await this.#room(bytes, true));
      filling.job.files?.paths.push(path);
      filling.job.files?.offsets.push(start + offset);
      this.#take(filling, bytes, { chunks, index: offset / chunkSize, isWholeFile: size <= chunkSize });
    }
  }

  #roomNow(bytes: number, fromFiles: boolean): Filling | undefined {
    const filling = this.#filling;
    const fits =
      filling &&
      (filling.job.files !== undefined) === fromFiles &&
      filling.slots.length < chunksPerBufferMax &&
      filling.end + bytes <= filling.job.buffer.byteLength - packSlackBytes;
    return fits ? filling : undefined;
  }

  /** A buffer with room for a chunk. What is full goes to be packed; then this waits if too much is in flight. */
  async #room(bytes: number, fromFiles: boolean): Promise<Filling> {
    const there = this.#roomNow(bytes, fromFiles);
    if (there) return there;
    this.#dispatch();
    if (this.#failure !== undefined) throw this.#failure;
    const { digester, compressor, chunkSize, key } = this.#options;
    const buffer = await this.#pool.takeBuffer(Math.max(bytes, chunkSize));
    const files = fromFiles ? { paths: [], offsets: [] } : undefined;
    this.#filling = {
      job: { buffer, lengths: [], files, digester, compressor, plain: [], encrypted: key !== undefined },
      slots: [],
      end: 0,
    };
    return this.#filling;
  }

  #take(filling: Filling, bytes: number, slot: ChunkSlot): void {
    this.uncompressedBytes += bytes;
    filling.job.lengths.push(bytes);
    filling.job.plain.push(this.#goesToBatch(bytes, slot.isWholeFile));
    filling.slots.push(slot);
    filling.end += bytes;
  }

  #goesToBatch(bytes: number, isWholeFile: boolean): boolean {
    return isWholeFile && bytes < Math.floor(this.#options.batchSize / 2);
  }

  /** Starts packing of what came in, and puts its turn behind all before it. */
  #dispatch(): void {
    const filling = this.#filling;
    if (!filling) return;
    this.#filling = undefined;
    const { job } = filling;
    const packing = this.#pool.pack(job);
    packing.catch(() => {}); // told to whoever waits for the turn below
    this.#turn = this.#turn.then(async () => {
      try {
        const packed = await packing;
        if (this.#failure === undefined) this.#place(filling, packed);
      } catch (failure) {
        this.#failure ??= failure;
      } finally {
        this.#then(() => this.#giveBack(job.buffer), true);
      }
    });
  }

  /** Once all that was appended is written; meanwhile what comes next is hashed and appended. */
  async #giveBack(buffer: SharedArrayBuffer): Promise<void> {
    const written = this.#opened?.output.flush() ?? Promise.resolve();
    written
      .catch((failure: unknown) => {
        this.#failure ??= failure;
      })
      .finally(() => this.#pool.giveBuffer(buffer));
  }

  /** Puts a step behind the writes before it; after a failure only what must be done anyway still happens. */
  #then(step: () => Promise<void>, always = false): void {
    this.#writes = this.#writes.then(async () => {
      if (this.#failure !== undefined && !always) return;
      try {
        await step();
      } catch (failure) {
        this.#failure ??= failure;
      }
    });
  }

  /** Gives chunks their places, leaves out those that are there, and has the rest written. */
  #place({ job, slots }: Filling, packed: Packed): void {
    let items: Item[] = [];
    let start = 0;
    const write = () => {
      const ready = items;
      items = [];
      if (ready.length > 0) this.#then(async () => await this.#writeAll(ready));
    };
    for (const [i, slot] of slots.entries()) {
      const length = job.lengths[i];
      const { chunk, isNew } = this.#chunk(packed, i, length);
      slot.chunks[slot.index] = chunk;
      if (isNew) {
        const stored = packed.storedLengths[i];
        const data = new Uint8Array(job.buffer, start, stored);
        if (this.#goesToBatch(length, slot.isWholeFile)) {
          // A batch is written later than what came before it.
          if (this.#open && this.#open.data.length + length >= this.#options.batchSize) {
            write();
            this.#endBatch();
          }
          this.#addToBatch(chunk, data);
        } else {
          if (this.#open) write();
          this.#endBatch();
          items.push({ bytes: data, compressed: stored < length, members: [chunk], batch: undefined });
        }
      }
      start += packed.storedLengths[i];
    }
    write();
  }

  #chunk({ digests, checksums }: Packed, i: number, length: number): { chunk: StoredChunk; isNew: boolean } {
    const digest = digests.slice(i * digestBytes, (i + 1) * digestBytes);
    const known = this.#dictionary.find(digest, length);
    if (known) {
      this.deduplicatedBytes += length;
      this.deduplicatedChunks++;
      return { chunk: known, isNew: false };
    }
    const blob = this.#begin();
    const index = blob.chunkCount++;
    if (index >= chunksPerBlobMax)
      throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one blob; use a larger chunk size`);
    const chunk: StoredChunk = {
      digest,
      blob,
      index,
      flags: this.#options.key ? chunkFlags.crc32 | chunkFlags.encrypted : chunkFlags.crc32,
      compressedOffset: 0,
      compressedSize: 0,
      uncompressedOffset: this.#uncompressedCursor,
      uncompressedSize: length,
      crc32: checksums[i],
    };
    this.#uncompressedCursor += this.#isAligned ? roundUp(length, alignment) : length;
    blob.uncompressedSize = this.#uncompressedCursor;
    this.#chunks.push(chunk);
    this.#dictionary.add(chunk);
    return { chunk, isNew: true };
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
  #addToBatch(chunk: StoredChunk, data: Uint8Array): void {
    this.#open ??= {
      data: new Uint8Array(new SharedArrayBuffer(this.#options.batchSize), 0, 0),
      members: [],
      batch: { index: this.#batches.length, storedOffset: 0, storedSize: 0, plainSize: 0 },
    };
    const { members, batch } = this.#open;
    const filled = this.#open.data.length;
    this.#open.data = new Uint8Array(this.#open.data.buffer, 0, filled + data.length);
    this.#open.data.set(data, filled);
    chunk.place = { batch, offset: filled };
    members.push(chunk);
  }

  /** Starts compression of the open batch, and puts its write behind all before it. */
  #endBatch(): void {
    const open = this.#open;
    if (!open) return;
    this.#open = undefined;
    const { data, members, batch } = open;
    const { compressor, key } = this.#options;
    if (key && data.length < encryptedBatchBytesMin) {
      const items = members.map((chunk): Item => {
        const { offset } = chunk.place!;
        chunk.place = undefined;
        const plain = data.subarray(offset, offset + chunk.uncompressedSize);
        return { ...compressHere(plain, compressor), members: [chunk], batch: undefined };
      });
      this.#then(async () => await this.#writeAll(items));
      return;
    }
    batch.plainSize = data.length;
    this.#batches.push(batch);
    const job = { buffer: data.buffer, lengths: [data.length], files: undefined, digester: undefined, compressor, plain: undefined };
    const packing = this.#pool.pack({ ...job, encrypted: key !== undefined });
    packing.catch(() => {}); // told to whoever waits for the turn below
    this.#then(async () => {
      const stored = (await packing).storedLengths[0];
      await this.#writeAll([{ bytes: data.subarray(0, stored), compressed: stored < data.length, members, batch }]);
    });
  }

  async #writeAll(items: readonly Item[]): Promise<void> {
    const { output } = await this.#output();
    for (const item of items) await this.#write(output, item);
  }

  async #write(output: BlobOutput, { bytes, compressed, members, batch }: Item): Promise<void> {
    const { key, offset } = this.#options;
    const stored = key ? encryptItem(bytes, key) : bytes;
    const place = { storedOffset: offset + this.#storedBytes, storedSize: stored.length };
    if (batch) {
      Object.assign(batch, place);
    } else {
      const [chunk] = members;
      chunk.compressedOffset = place.storedOffset;
      chunk.compressedSize = place.storedSize;
      if (compressed) chunk.flags |= chunkFlags.compressed;
    }
    this.#storedBytes += stored.length;
    await output.append(stored);
    if (!(output instanceof CacheFiles)) return;
    for (const { place: inBatch, uncompressedSize } of members) {
      const start = inBatch?.offset ?? 0;
      // Nothing is compressed here, so these are the chunk's own bytes.
      await output.appendPlain(bytes.subarray(start, start + uncompressedSize));
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

  /** Waits until all chunks that came in have their places. @throws what stopped one of them */
  async settle(): Promise<void> {
    this.#dispatch();
    await this.#turn;
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Waits for all chunks and writes the sections that describe them. */
  async finishData(): Promise<void> {
    await this.settle();
    this.#endBatch();
    await this.#writes;
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
    const chunks = this.#chunks;
    const records = writeChunkInfo(chunks, { version: this.#chunkInfoVersion });
    if (this.#options.batchSize === 0) return { bytes: records, chunks };
    const contexts = writeBatchContexts(this.#batches);
    return {
      bytes: Buffer.concat([records, contexts]),
      chunks,
      contexts: { count: this.#batches.length, offset: records.length, size: contexts.length },
    };
  }

  async appendBootstrap(bootstrap: Buffer): Promise<void> {
    await (await this.#output()).tail.appendBootstrap(bootstrap);
  }

  async seal(): Promise<void> {
    if (!this.#opened) return;
    const { output, tail } = this.#opened;
    await tail.appendToc(this.blob);
    this.#sealed = { id: this.#options.id || output.digest().toString("hex"), size: output.position };
    if (!this.blob) return;
    this.blob.id = this.#sealed.id;
    this.blob.compressedSize = this.#sealed.size;
  }

  beginSync(): void {
    this.#opened?.output.beginSync();
  }

  async commit(): Promise<FinishedBlob | undefined> {
    if (!this.#opened || !this.#sealed) return undefined;
    return { ...this.#sealed, path: await this.#opened.output.commit(this.#sealed.id) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#failure ??= new BuilderError("BUILD_OUTPUT", "the build was given up");
    this.#dispatch();
    await this.#turn;
    await this.#writes;
    await this.#opened?.output.flush().catch(() => {});
    await this.#opened?.output[Symbol.asyncDispose]();
  }
}

/**
 * Describes a layer that stays as it is: chunks are looked at but not stored, and the blob that is written holds only where they are.
 * Source: spec/nydus-image.md, sections 6.4, 7 and 8; spec/rafs.md, sections 5 and 9
 */
import { dirname } from "node:path";
import { crc32c } from "@node-rs/crc32";
import { blobFeatures, CHUNK_INFO_V2, chunkFlags, chunkInfoV2Flags, ZRAN_CONTEXT } from "@nydus-ts/rafs-format";
import { type BlobEntry, type ContextArea, newBlobEntry, roundUp, type StoredChunk, writeChunkInfo } from "@nydus-ts/rafs-format/writer";
import { Artifact, type Destination } from "../artifact.ts";
import { BlobTail } from "../blob-tail.ts";
import type { DataWriter, FinishedBlob } from "../built-blob.ts";
import type { ChunkDictionary } from "../chunk-dictionary.ts";
import { compressorNumbers, digest, digesterNumbers } from "../codecs.ts";
import { BuilderError } from "../errors.ts";
import { chunksPerBlobMax } from "../limits.ts";
import type { TarInput } from "../sources/byte-stream.ts";
import type { ChunkSlot } from "../sources/chunk-sink.ts";
import { ContextCutter, type ZranChunk, type ZranContext } from "./contexts.ts";
import { DictionaryStore } from "./dictionary-store.ts";
import type { FoundChunk } from "./index-messages.ts";
import { GzipReader } from "./gzip-reader.ts";
import { TemporaryFile } from "./temporary-file.ts";
import { compressFile } from "./zstd-file.ts";

/** What a layer is read from; it knows its size and SHA-256 when it was read to its end. */
export interface LayerInput extends TarInput {
  readonly sourceBytes: number;
  sourceDigest(): Buffer;
}

/** What is known of a layer once a thread read all of it. */
export interface FoundLayer {
  contexts: readonly ZranContext[];
  sourceBytes: number;
  sourceDigest: Buffer;
}

export interface RefOptions {
  destination: Destination;
  chunkSize: number;
  inlineBootstrap: boolean;
  toc: boolean;
  /** false: `metaFile` stays undefined, if it can not be had without all of it in memory */
  keepsMetaFile: boolean;
}

const alignment = 4096;

export class RefBlobWriter implements DataWriter, AsyncDisposable {
  blob: BlobEntry | undefined;
  deduplicatedBytes = 0;
  deduplicatedChunks = 0;
  uncompressedBytes = 0;
  metaFile: Buffer | undefined;

  readonly #options: RefOptions;
  readonly #input: LayerInput | undefined;
  readonly #cutter: ContextCutter | undefined;
  readonly #isGzip: boolean;
  /** what a thread that read the layer says at its end */
  #found: FoundLayer | undefined;
  readonly #dictionary: ChunkDictionary;
  readonly #dictionaries: DictionaryStore;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #chunks: StoredChunk[] = [];
  readonly #places: ZranChunk[] = [];
  #chunkStart = 0;
  #opened: { artifact: Artifact; tail: BlobTail } | undefined;
  #sealed: { id: string; size: number } | undefined;

  /** @param input  undefined: a thread reads the layer, which is a gzip file */
  constructor(options: RefOptions, input: LayerInput | undefined, dictionary: ChunkDictionary) {
    this.#options = options;
    this.#dictionary = dictionary;
    this.#input = input;
    this.#dictionaries = new DictionaryStore(directoryOf(options.destination));
    this.#cutter = input instanceof GzipReader ? new ContextCutter(input, (dictionary) => this.#dictionaries.add(dictionary)) : undefined;
    this.#isGzip = input === undefined || input instanceof GzipReader;
    this.#buffer = new Uint8Array(new ArrayBuffer(input ? options.chunkSize : 0));
  }

  allocate(bytes: number): Uint8Array<ArrayBuffer> {
    this.#cutter?.startChunk(this.#options.chunkSize);
    this.#chunkStart = this.#input!.position;
    return this.#buffer.subarray(0, bytes);
  }

  /** @throws BuilderError BUILD_LIMIT */
  add(data: Uint8Array, { chunks, index }: ChunkSlot): void {
    chunks[index] = this.#store(data);
  }

  /** A chunk that a thread found. @throws BuilderError BUILD_LIMIT */
  addFound({ digest, crc32, size, place }: FoundChunk): StoredChunk {
    return this.#place({ digest, size, place, crc32: () => crc32 });
  }

  addDictionary(dictionary: Uint8Array): void {
    this.#dictionaries.add(dictionary);
  }

  /** The thread came to the end of the layer. */
  endFound(layer: FoundLayer): void {
    this.#found = layer;
  }

  #store(data: Uint8Array): StoredChunk {
    const place = this.#cutter?.finishChunk();
    return this.#place({ digest: digest(data, "sha256"), size: data.length, place, crc32: () => crc32c(data) });
  }

  #place(found: { digest: Uint8Array; size: number; place: ZranChunk | undefined; crc32: () => number }): StoredChunk {
    const { size, place } = found;
    this.uncompressedBytes += size;
    const known = this.#dictionary.find(found.digest, size);
    if (known) {
      this.deduplicatedBytes += size;
      this.deduplicatedChunks++;
      return known;
    }
    const blob = this.blob ?? this.#begin();
    if (blob.chunkCount >= chunksPerBlobMax)
      throw new BuilderError("BUILD_LIMIT", `more than ${chunksPerBlobMax} chunks in one blob; use a larger chunk size`);
    const chunk: StoredChunk = {
      digest: found.digest,
      blob,
      index: blob.chunkCount++,
      flags: place ? chunkFlags.crc32 | chunkFlags.compressed : chunkFlags.crc32,
      compressedOffset: place?.compressedOffset ?? this.#chunkStart,
      compressedSize: place?.compressedSize ?? size,
      uncompressedOffset: blob.uncompressedSize,
      uncompressedSize: size,
      crc32: found.crc32(),
    };
    blob.uncompressedSize += roundUp(size, alignment);
    this.#chunks.push(chunk);
    if (place) this.#places.push(place);
    this.#dictionary.add(chunk);
    return chunk;
  }

  #begin(): BlobEntry {
    const { inlineBootstrap, toc, chunkSize } = this.#options;
    let features = blobFeatures.capTarToc | blobFeatures.aligned | blobFeatures.chunkInfoV2 | blobFeatures.separate;
    if (this.#isGzip) features |= blobFeatures.zran;
    if (inlineBootstrap) features |= blobFeatures.inlinedFsMeta | blobFeatures.hasTarHeader;
    if (toc) features |= blobFeatures.hasToc | blobFeatures.hasTarHeader | blobFeatures.inlinedChunkDigest;
    this.blob = newBlobEntry({
      id: "",
      chunkSize,
      compressor: compressorNumbers.gzip,
      digester: digesterNumbers.sha256,
      features: features >>> 0,
    });
    this.#dictionary.blobs.push(this.blob);
    return this.blob;
  }

  async #output(): Promise<{ artifact: Artifact; tail: BlobTail }> {
    if (!this.#opened) {
      const artifact = await Artifact.create(this.#options.destination);
      this.#opened = { artifact, tail: new BlobTail(artifact, { ...this.#options, hashDigests: false }) };
    }
    return this.#opened;
  }

  /** Writes the chunk info. The layer must have been read to its end. */
  async finishData(): Promise<void> {
    const { blob } = this;
    if (!blob) return;
    blob.id = (this.#found?.sourceDigest ?? this.#input!.sourceDigest()).toString("hex");
    blob.compressedSize = this.#found?.sourceBytes ?? this.#input!.sourceBytes;
    const { tail } = await this.#output();
    const { head, contexts } = this.#describe();
    if (this.#dictionaries.isSpilled) {
      await this.#finishLarge(tail, blob, head, contexts);
      return;
    }
    const bytes = Buffer.concat([head, ...this.#dictionaries.pieces()]);
    this.metaFile = await tail.appendMeta(blob, { bytes, contexts, chunks: this.#chunks }, "zstd");
  }

  /** The index of a large layer is put together in a file. */
  async #finishLarge(tail: BlobTail, blob: BlobEntry, head: Buffer, contexts: ContextArea | undefined): Promise<void> {
    const directory = directoryOf(this.#options.destination);
    using file = new TemporaryFile(directory);
    file.append(head);
    for (const piece of this.#dictionaries.pieces()) file.append(piece);
    this.#dictionaries[Symbol.dispose]();
    using encoded = await compressFile(file, directory);
    if (!encoded) {
      this.metaFile = await tail.appendMeta(blob, { bytes: file.read(), contexts, chunks: this.#chunks }, "zstd");
      return;
    }
    const isSmaller = encoded.size < file.size;
    const header = await tail.appendStoredMeta(blob, { plain: file, stored: isSmaller ? encoded : file, contexts, chunks: this.#chunks });
    if (!this.#options.keepsMetaFile) return;
    this.metaFile = Buffer.concat([file.read(), Buffer.alloc(roundUp(file.size, alignment) - file.size), header]);
  }

  /** Records and contexts, behind which the dictionaries stand. */
  #describe(): { head: Buffer; contexts: ContextArea | undefined } {
    const records = writeChunkInfo(this.#chunks, { version: 2 });
    const cut = this.#found?.contexts ?? this.#cutter?.contexts;
    if (!cut) return { head: records, contexts: undefined };
    for (const [i, place] of this.#places.entries()) pointToContext(records, i * CHUNK_INFO_V2.recordSize, place);
    const written = writeContexts(cut);
    const size = written.length + this.#dictionaries.size;
    return {
      head: Buffer.concat([records, written]),
      contexts: { count: cut.length, offset: records.length, size },
    };
  }

  async appendBootstrap(bootstrap: Buffer): Promise<void> {
    await (await this.#output()).tail.appendBootstrap(bootstrap);
  }

  /** The blob of chunk info is named by its SHA-256. */
  async seal(): Promise<void> {
    if (!this.#opened) return;
    const { artifact, tail } = this.#opened;
    await tail.appendToc(this.blob);
    const hash = artifact.digest();
    this.#sealed = { id: hash.toString("hex"), size: artifact.position };
    if (!this.blob || this.#options.inlineBootstrap) return;
    this.blob.metaDigest = hash;
    this.blob.metaSize = this.#sealed.size;
  }

  beginSync(): void {
    this.#opened?.artifact.beginSync();
  }

  async commit(): Promise<FinishedBlob | undefined> {
    if (!this.#opened || !this.#sealed) return undefined;
    return { ...this.#sealed, path: await this.#opened.artifact.commit(this.#sealed.id) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#dictionaries[Symbol.dispose]();
    await this.#opened?.artifact[Symbol.asyncDispose]();
  }
}

/** Where a temporary file may lie beside the output. */
function directoryOf(destination: Destination): string {
  return "file" in destination ? dirname(destination.file) : destination.directory;
}

/** Flag and third word of the record of a chunk that is found through a context. Source: spec/rafs.md, section 5.3 */
function pointToContext(records: Buffer, at: number, place: ZranChunk): void {
  records[at + CHUNK_INFO_V2.uncompressed + 7] = chunkInfoV2Flags.compressed | chunkInfoV2Flags.zran;
  records.writeUInt32LE(place.offset, at + CHUNK_INFO_V2.data);
  records.writeUInt32LE(place.context, at + CHUNK_INFO_V2.data + 4);
}

/** Contexts, in the order of their dictionaries, which follow. Source: spec/rafs.md, section 5.5 */
function writeContexts(contexts: readonly ZranContext[]): Buffer {
  const out = Buffer.alloc(contexts.length * ZRAN_CONTEXT.recordSize);
  let dictionaryOffset = 0;
  for (const [i, context] of contexts.entries()) {
    const at = i * ZRAN_CONTEXT.recordSize;
    out.writeBigUInt64LE(BigInt(context.inPosition), at + ZRAN_CONTEXT.inOffset);
    out.writeBigUInt64LE(BigInt(context.outPosition), at + ZRAN_CONTEXT.outOffset);
    out.writeBigUInt64LE(BigInt(dictionaryOffset), at + ZRAN_CONTEXT.dictionaryOffset);
    out.writeUInt32LE(context.inLength, at + ZRAN_CONTEXT.inLength);
    out.writeUInt32LE(context.outLength, at + ZRAN_CONTEXT.outLength);
    out.writeUInt32LE(context.dictionarySize, at + ZRAN_CONTEXT.dictionarySize);
    out[at + ZRAN_CONTEXT.primeByte] = context.primeByte;
    out[at + ZRAN_CONTEXT.primeBits] = context.primeBits;
    dictionaryOffset += context.dictionarySize;
  }
  return out;
}

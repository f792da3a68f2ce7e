/** What stands behind the chunks of a blob: chunk info and its header, digests, an inlined bootstrap, the table of contents. Source: spec/nydus-image.md, section 8 */
import { createHash } from "node:crypto";
import { sectionNames, tocFlags } from "@nydus-ts/rafs-format";
import {
  type BlobEntry,
  type ContextArea,
  roundUp,
  type StoredChunk,
  type TocSection,
  writeMetaHeader,
  writeSectionHeader,
  writeToc,
} from "@nydus-ts/rafs-format/writer";
import type { BlobOutput } from "./artifact.ts";
import { type Compressor, compressHere, compressorNumbers, sha256 } from "./codecs.ts";
import { type BlobKey, encryptItem } from "./encryption.ts";

const alignment = 4096;

const tocFlagOf = { none: tocFlags.raw, lz4_block: tocFlags.lz4Block, zstd: tocFlags.zstd } as const satisfies Record<Compressor, number>;

/** Chunk info of a blob, plain. */
export interface ChunkInfo {
  bytes: Buffer;
  /** in index order */
  chunks: readonly StoredChunk[];
  /** where contexts lie behind the records, for blobs that have some */
  contexts?: ContextArea | undefined;
}

/** Bytes that are in a file. */
export interface InfoFile {
  readonly size: number;
  /** of the first `size` bytes; each is valid until the next is asked for */
  pieces(size: number): Iterable<Uint8Array>;
}

export interface TailOptions {
  inlineBootstrap: boolean;
  toc: boolean;
  /** the digest array is part of the hash that names the file */
  hashDigests: boolean;
  /** encrypts chunk info and its header */
  key?: BlobKey | undefined;
}

export class BlobTail {
  readonly #artifact: BlobOutput;
  readonly #options: TailOptions;
  readonly #sections: TocSection[] = [];

  constructor(artifact: BlobOutput, options: TailOptions) {
    this.#artifact = artifact;
    this.#options = options;
  }

  get #hasHeaders(): boolean {
    return this.#options.inlineBootstrap || this.#options.toc;
  }

  /** Names the chunk data before it. */
  async endData(data: { offset: number; storedBytes: number; uncompressedBytes: number }): Promise<void> {
    if (this.#hasHeaders) await this.#artifact.append(writeSectionHeader(sectionNames.data, data.storedBytes));
    this.#add(sectionNames.data, "none", this.#artifact.digest(), data.offset, data.storedBytes, data.uncompressedBytes);
  }

  /** Writes chunk info and digests and puts their place into `blob`. Returns the plain form, as the cache file `<id>.blob.meta` has it. */
  async appendMeta(blob: BlobEntry, info: ChunkInfo, compressor: Compressor): Promise<Buffer> {
    const artifact = this.#artifact;
    const { key } = this.#options;
    const encoded = compressHere(info.bytes, compressor);
    const stored = key ? encryptItem(encoded.bytes, key) : encoded.bytes;
    const usedCompressor = encoded.compressed ? compressor : "none";
    blob.ciCompressor = compressorNumbers[usedCompressor];
    blob.ciOffset = artifact.position;
    blob.ciCompressedSize = stored.length;
    blob.ciUncompressedSize = info.bytes.length;
    const header = writeMetaHeader({ ...blob, ciEntries: info.chunks.length, contexts: info.contexts });
    await artifact.append(stored);
    await this.#appendHeader(blob, header, key ? encryptItem(header, key) : header, usedCompressor, sha256(info.bytes), info.chunks);
    return Buffer.concat([info.bytes, Buffer.alloc(roundUp(info.bytes.length, alignment) - info.bytes.length), header]);
  }

  /**
   * Writes chunk info that is in files, in both its forms, and not encrypted; stored plainly if both are the same. Returns its header.
   */
  async appendStoredMeta(
    blob: BlobEntry,
    { plain, stored, chunks, contexts }: { plain: InfoFile; stored: InfoFile } & Omit<ChunkInfo, "bytes">,
  ): Promise<Buffer> {
    const artifact = this.#artifact;
    const compressor = stored === plain ? "none" : "zstd";
    blob.ciCompressor = compressorNumbers[compressor];
    blob.ciOffset = artifact.position;
    blob.ciCompressedSize = stored.size;
    blob.ciUncompressedSize = plain.size;
    for (const piece of stored.pieces(stored.size)) {
      await artifact.append(piece);
      await artifact.flush();
    }
    const digest = createHash("sha256");
    for (const piece of plain.pieces(plain.size)) digest.update(piece);
    const header = writeMetaHeader({ ...blob, ciEntries: chunks.length, contexts });
    await this.#appendHeader(blob, header, header, compressor, digest.digest(), chunks);
    return header;
  }

  /** What follows stored chunk info. */
  async #appendHeader(
    blob: BlobEntry,
    header: Buffer,
    storedHeader: Uint8Array,
    compressor: Compressor,
    infoDigest: Buffer,
    chunks: readonly StoredChunk[],
  ): Promise<void> {
    const artifact = this.#artifact;
    await artifact.append(storedHeader);
    if (this.#hasHeaders) await artifact.append(writeSectionHeader(sectionNames.meta, blob.ciCompressedSize + header.length));
    if (!this.#options.toc) return;
    const headerOffset = blob.ciOffset + blob.ciCompressedSize;
    this.#add(sectionNames.meta, compressor, infoDigest, blob.ciOffset, blob.ciCompressedSize, blob.ciUncompressedSize);
    this.#add(sectionNames.metaHeader, "none", sha256(header), headerOffset, header.length, header.length);
    const digests = Buffer.concat(chunks.map(({ digest }) => digest));
    this.#add(sectionNames.digests, "none", sha256(digests), artifact.position, digests.length, digests.length);
    await artifact.append(digests, { hashed: this.#options.hashDigests });
    await artifact.append(writeSectionHeader(sectionNames.digests, digests.length));
  }

  async appendBootstrap(bootstrap: Buffer): Promise<void> {
    const stored = compressHere(bootstrap, this.#options.toc ? "zstd" : "none");
    const offset = this.#artifact.position;
    await this.#artifact.append(stored.bytes);
    await this.#artifact.append(writeSectionHeader(sectionNames.bootstrap, stored.bytes.length));
    const compressor = stored.compressed ? "zstd" : "none";
    this.#add(sectionNames.bootstrap, compressor, sha256(bootstrap), offset, stored.bytes.length, bootstrap.length);
  }

  /** Ends the file with the table of contents, if it shall have one, and notes it in `blob`. */
  async appendToc(blob: BlobEntry | undefined): Promise<void> {
    if (!this.#options.toc) return;
    const toc = writeToc(this.#sections, sectionNames.toc);
    await this.#artifact.append(toc);
    if (!blob) return;
    blob.tocSize = toc.length;
    blob.tocDigest = sha256(toc);
  }

  #add(name: string, compressor: Compressor, digest: Uint8Array, offset: number, compressedSize: number, uncompressedSize: number): void {
    this.#sections.push({ flags: tocFlagOf[compressor], name, digest, offset, compressedSize, uncompressedSize });
  }
}

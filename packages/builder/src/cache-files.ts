/**
 * A build that fills a daemon's cache instead of storing a blob: the blob is only hashed, and the files of its cache are written.
 * Source: spec/rafs.md, section 8; spec/nydus-image.md, section 7.4
 */
import { createHash, type Hash } from "node:crypto";
import { join } from "node:path";
import { cacheFileNames } from "@nydus-ts/rafs-format";
import { roundUp } from "@nydus-ts/rafs-format/writer";
import { type AppendOptions, Artifact, type BlobOutput, writeFileWhole } from "./artifact.ts";

const alignment = 4096;

export class CacheFiles implements BlobOutput {
  readonly #directory: string;
  readonly #data: Artifact;
  readonly #hash: Hash = createHash("sha256");
  #position = 0;
  #meta: Uint8Array | undefined;

  private constructor(directory: string, data: Artifact) {
    this.#directory = directory;
    this.#data = data;
  }

  /** @throws BuilderError BUILD_OUTPUT */
  static async create(directory: string): Promise<CacheFiles> {
    return new CacheFiles(directory, await Artifact.create({ directory }));
  }

  get position(): number {
    return this.#position;
  }

  async append(bytes: Uint8Array, { hashed = true }: AppendOptions = {}): Promise<void> {
    if (hashed) this.#hash.update(bytes);
    this.#position += bytes.length;
  }

  async flush(): Promise<void> {
    await this.#data.flush();
  }

  digest(): Buffer {
    return this.#hash.copy().digest();
  }

  /** The next chunk, plain. Chunks come in order of their uncompressed offsets, each filled up to the next 4 KiB. */
  async appendPlain(data: Uint8Array): Promise<void> {
    await this.#data.append(data);
    await this.#data.append(new Uint8Array(roundUp(data.length, alignment) - data.length));
  }

  /** Chunk info and header as the cache file holds them. */
  setMeta(meta: Uint8Array): void {
    this.#meta = meta;
  }

  beginSync(): void {
    this.#data.beginSync();
  }

  async commit(id: string): Promise<string> {
    const names = cacheFileNames(id);
    const path = await this.#data.commit(names.data);
    if (this.#meta) await writeFileWhole(join(this.#directory, names.meta), this.#meta);
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#data[Symbol.asyncDispose]();
  }
}

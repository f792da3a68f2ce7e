/** What images hold, in the tables of the original. Source: spec/nydus-image.md, section 18, step 3 */
import { DatabaseSync } from "node:sqlite";
import { NydusImageError } from "../errors.ts";

/** A reference of an image to a chunk. */
export interface ChunkRow {
  image: string;
  version: string;
  blobId: string;
  /** hexadecimal */
  digest: string;
  crc32: number;
  compressedSize: number;
  uncompressedSize: number;
  compressedOffset: number;
  uncompressedOffset: number;
}

export interface BlobRow {
  blobId: string;
  compressedSize: number;
  uncompressedSize: number;
  compressor: string;
  ciCompressedSize: number;
  ciUncompressedSize: number;
  ciOffset: number;
}

const tables = `
CREATE TABLE IF NOT EXISTS chunk (
  id INTEGER PRIMARY KEY, image_reference TEXT, version TEXT, chunk_blob_id TEXT NOT NULL, chunk_digest TEXT, chunk_crc32 INT,
  chunk_compressed_size INT, chunk_uncompressed_size INT, chunk_compressed_offset INT, chunk_uncompressed_offset INT);
CREATE TABLE IF NOT EXISTS blob (
  id INTEGER PRIMARY KEY, blob_id TEXT NOT NULL, blob_compressed_size INT, blob_uncompressed_size INT, blob_compressor TEXT,
  blob_meta_ci_compressed_size INT, blob_meta_ci_uncompressed_size INT, blob_meta_ci_offset INT);`;

/** The file of `sqlite://PATH`, or `:memory:`. @throws NydusImageError IMAGE_ARGUMENT */
export function databasePath(url: string): string {
  const [scheme, path] = /^([a-z0-9+.-]+):\/\/(.*)$/is.exec(url)?.slice(1) ?? [];
  if (scheme === undefined) throw new NydusImageError("IMAGE_ARGUMENT", `Invalid database URL: ${url}`);
  if (scheme !== "sqlite") throw new NydusImageError("IMAGE_ARGUMENT", `Unsupported database type: ${scheme}; use sqlite:///PATH`);
  if (!/^[/:]/.test(path)) throw new NydusImageError("IMAGE_ARGUMENT", `Invalid database URL: ${url}; the path must be absolute`);
  return path;
}

export class ChunkDatabase implements Disposable {
  readonly #database: DatabaseSync;

  /** @throws NydusImageError IMAGE_FILE */
  constructor(path: string) {
    try {
      this.#database = new DatabaseSync(path);
      this.#database.exec(tables);
    } catch (cause) {
      throw new NydusImageError("IMAGE_FILE", `the database ${path} can not be opened`, { cause });
    }
  }

  /** Appends rows, all or none: a run that ended early leaves nothing to be counted twice. @throws NydusImageError IMAGE_FILE */
  add(blobs: Iterable<BlobRow>, chunks: Iterable<ChunkRow>): void {
    try {
      this.#database.exec("BEGIN");
      const blob = this.#database.prepare(
        "INSERT INTO blob (blob_id, blob_compressed_size, blob_uncompressed_size, blob_compressor, blob_meta_ci_compressed_size, blob_meta_ci_uncompressed_size, blob_meta_ci_offset) VALUES (?, ?, ?, ?, ?, ?, ?)",
      );
      for (const row of blobs)
        blob.run(
          row.blobId,
          row.compressedSize,
          row.uncompressedSize,
          row.compressor,
          row.ciCompressedSize,
          row.ciUncompressedSize,
          row.ciOffset,
        );
      const chunk = this.#database.prepare(
        "INSERT INTO chunk (image_reference, version, chunk_blob_id, chunk_digest, chunk_crc32, chunk_compressed_size, chunk_uncompressed_size, chunk_compressed_offset, chunk_uncompressed_offset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
      );
      for (const row of chunks)
        chunk.run(
          row.image,
          row.version,
          row.blobId,
          row.digest,
          row.crc32,
          row.compressedSize,
          row.uncompressedSize,
          row.compressedOffset,
          row.uncompressedOffset,
        );
      this.#database.exec("COMMIT");
    } catch (cause) {
      throw new NydusImageError("IMAGE_FILE", "the database can not be written", { cause });
    }
  }

  chunks(): ChunkRow[] {
    return this.#database
      .prepare(
        "SELECT image_reference AS image, version, chunk_blob_id AS blobId, chunk_digest AS digest, chunk_crc32 AS crc32, chunk_compressed_size AS compressedSize, chunk_uncompressed_size AS uncompressedSize, chunk_compressed_offset AS compressedOffset, chunk_uncompressed_offset AS uncompressedOffset FROM chunk ORDER BY id",
      )
      .all() as unknown as ChunkRow[];
  }

  /** The first row of each blob. */
  blobs(): Map<string, BlobRow> {
    const rows = this.#database
      .prepare(
        "SELECT blob_id AS blobId, blob_compressed_size AS compressedSize, blob_uncompressed_size AS uncompressedSize, blob_compressor AS compressor, blob_meta_ci_compressed_size AS ciCompressedSize, blob_meta_ci_uncompressed_size AS ciUncompressedSize, blob_meta_ci_offset AS ciOffset FROM blob ORDER BY id DESC",
      )
      .all() as unknown as BlobRow[];
    return new Map(rows.map((row) => [row.blobId, row]));
  }

  [Symbol.dispose](): void {
    this.#database.close();
  }
}

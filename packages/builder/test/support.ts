/** What several test files share: the golden sources, a build with options left out, and a reader of what was built. */
import { execFileSync } from "node:child_process";
import { createDecipheriv, createHash } from "node:crypto";
import { createReadStream, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { lgetxattr, llistxattr } from "@nydus-ts/linux";
import { type BlobMeta, type BlobRecord, type Bootstrap, openBlobMeta } from "@nydus-ts/rafs-format";
import { goldenDir, jsonBytes, type ListingEntry } from "@nydus-ts/testkit";
import { uncompressSync } from "lz4-napi";
import { type CreateOptions, type CreateResult, createImage } from "../src/index.ts";

/** A directory of its own that goes with the test. */
export class TemporaryDirectory implements Disposable {
  readonly path: string;

  /** @param parent  the kernel mounts no EROFS image that lies on a tmpfs, which /tmp often is: /var/tmp is on a disk */
  constructor(parent = tmpdir()) {
    this.path = mkdtempSync(join(parent, "nydus-builder-test-"));
  }

  join(...parts: string[]): string {
    return join(this.path, ...parts);
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Makes the sources of the golden cases: needs root, for devices and owners. */
export function makeGoldenSources(directory: string): void {
  execFileSync("bash", [join(goldenDir()!, "make-sources.sh"), directory]);
}

export function readXattrs(path: Buffer): Map<string, Uint8Array> {
  return new Map(llistxattr(path).map((name) => [name.toString("latin1"), lgetxattr(path, name)!]));
}

/** Builds into `directory`, which holds `bootstrap` and `blobs/` afterwards. */
export async function build(
  source: string,
  directory: string,
  options: Partial<CreateOptions> & { inline?: boolean } = {},
): Promise<CreateResult> {
  mkdirSync(join(directory, "blobs"), { recursive: true });
  const { inline, ...rest } = options;
  return await createImage({
    source: /\.tar|\.estargz/.test(source)
      ? { kind: "tar", stream: createReadStream(source) }
      : { kind: "directory", path: source, readXattrs, whiteouts: "oci" },
    blob: { directory: join(directory, "blobs") },
    bootstrap: inline ? undefined : { file: join(directory, "bootstrap") },
    blobId: "",
    blobOffset: 0,
    compressor: "zstd",
    digester: "blake3",
    chunkSize: 0x100000,
    chunkInfoVersion: 1,
    toc: false,
    explicitUidGid: true,
    prefetch: { policy: "none", patterns: [] },
    ...rest,
  });
}

/** Reads chunks of built blobs through their own chunk info, as a daemon does. */
export class BlobReader {
  readonly #record: BlobRecord;
  readonly #bytes: Buffer;
  readonly meta: BlobMeta;

  constructor(record: BlobRecord, path: string) {
    this.#record = record;
    this.#bytes = readFileSync(path);
    const ci = decode(this.#stored(record.ciOffset, record.ciCompressedSize), record.ciCompressor, record.ciUncompressedSize);
    this.meta = openBlobMeta(ci, this.#stored(record.ciOffset + record.ciCompressedSize, 4096), record);
  }

  /** One stored item, decrypted. Source: spec/rafs.md, section 4.3 */
  #stored(offset: number, size: number): Buffer {
    const item = this.#bytes.subarray(offset, offset + size);
    const { cipherKey, cipherIv } = this.#record;
    if (!cipherKey || !cipherIv) return item;
    const plain = createDecipheriv("aes-128-xts", cipherKey, cipherIv).update(item);
    const isPadded = plain.length === 18 && plain.readUInt16BE(16) === 0x7890;
    return isPadded ? plain.subarray(0, 16 - plain[15]) : plain;
  }

  chunk(index: number): Buffer {
    const { meta } = this;
    const { compressor } = this.#record;
    const size = meta.uncompressedSize(index);
    const batch = meta.batchOf(index);
    if (batch >= 0) {
      const { compressedSize, uncompressedSize } = meta.batchContext(batch);
      const plain = decode(this.#stored(meta.compressedOffset(index), compressedSize), compressor, uncompressedSize);
      return plain.subarray(meta.offsetInContext(index)).subarray(0, size);
    }
    const stored = this.#stored(meta.compressedOffset(index), meta.compressedSize(index));
    return meta.isCompressed(index) ? decode(stored, compressor, size) : stored;
  }

  /** The uncompressed image of the blob: what a finished cache file holds. */
  image(): Buffer {
    const out = Buffer.alloc(this.#record.uncompressedSize);
    for (let i = 0; i < this.meta.count; i++) this.chunk(i).copy(out, this.meta.uncompressedOffset(i));
    return out;
  }
}

function decode(stored: Buffer, compressor: string, size: number): Buffer {
  if (stored.length === size) return stored;
  if (compressor === "zstd") return zstdDecompressSync(stored);
  if (compressor === "gzip") return gunzipSync(stored);
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32LE(size);
  return uncompressSync(Buffer.concat([prefix, stored]));
}

/** The image in the form of golden listings, content included. */
export function listImage(bootstrap: Bootstrap, blobs: readonly BlobReader[]): ListingEntry[] {
  return Array.from(bootstrap.walk(), ({ path, nid, inode }) => ({
    path: jsonBytes(path),
    type: inode.type,
    mode: (inode.mode & 0o7777).toString(8).padStart(4, "0"),
    uid: inode.uid,
    gid: inode.gid,
    mtime: Number(inode.mtime),
    nsec: inode.mtimeNsec,
    size: inode.size,
    nlink: inode.nlink,
    rdev: inode.rdev,
    ...(inode.type === "symlink" ? { target: jsonBytes(bootstrap.readLink(nid)) } : {}),
    xattrs: Object.fromEntries(Array.from(bootstrap.xattrs(nid), ([name, value]) => [name, Buffer.from(value).toString("base64")])),
    ...(inode.type === "file" ? { sha256: contentDigest(bootstrap, nid, blobs) } : {}),
  }));
}

function contentDigest(bootstrap: Bootstrap, nid: number, blobs: readonly BlobReader[]): string {
  const hash = createHash("sha256");
  for (const chunk of bootstrap.chunksOf(nid)) hash.update(blobs[chunk.blobIndex].chunk(chunk.chunkIndex).subarray(0, chunk.length));
  return hash.digest("hex");
}

/** A tar from members, made here so that it can hold what tools refuse to write. */
export function tar(
  ...members: Array<{
    name: string;
    type?: string;
    data?: string | Buffer;
    link?: string;
    mode?: number;
    uid?: number;
    mtime?: string;
    pax?: Record<string, string>;
  }>
): Buffer {
  const parts: Buffer[] = [];
  for (const member of members) {
    if (member.pax) {
      const records = Object.entries(member.pax).map(([key, value]) => paxRecord(key, value));
      parts.push(...tarEntry("pax", "x", Buffer.from(records.join(""), "latin1"), {}));
    }
    parts.push(...tarEntry(member.name, member.type ?? "0", Buffer.from(member.data ?? ""), member));
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length++;
  return `${length}${rest}`;
}

function tarEntry(
  name: string,
  type: string,
  data: Buffer,
  options: { link?: string; mode?: number; uid?: number; mtime?: string },
): Buffer[] {
  const header = Buffer.alloc(512);
  header.write(name, 0, 100, "latin1");
  header.write((options.mode ?? 0o644).toString(8).padStart(7, "0"), 100);
  header.write((options.uid ?? 0).toString(8).padStart(7, "0"), 108);
  header.write("0000000", 116);
  header.write(data.length.toString(8).padStart(11, "0"), 124);
  header.write(options.mtime ?? "00000000144", 136, "latin1");
  header.write("        ", 148);
  header.write(type, 156);
  header.write(options.link ?? "", 157, 100, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, "0")}\0 `,
    148,
    "latin1",
  );
  return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
}

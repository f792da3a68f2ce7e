/** The last layer of a nydus image: a small tar with the bootstrap and the blobs' chunk records. Source: spec/images.md, section 2.2 */
import { createHash } from "node:crypto";
import { promisify } from "node:util";
import { gzip } from "node:zlib";

const gzipAsync = promisify<Uint8Array, Buffer>(gzip);
const blockBytes = 512;

export interface BootstrapLayer {
  gzip: Buffer;
  /** `sha256:` digest of the tar before compression */
  diffId: string;
}

/**
 * Equal input gives equal bytes: owners and times are zero.
 *
 * @param metaFiles  by blob id; their order is the order in the tar
 * @param more  other files, by their whole name
 */
export async function packBootstrapLayer(
  bootstrap: Buffer,
  metaFiles: ReadonlyMap<string, Buffer>,
  more: ReadonlyMap<string, Buffer> = new Map(),
): Promise<BootstrapLayer> {
  const parts = [tarHeader("image", 0o755, 0, "5"), ...member("image/image.boot", bootstrap)];
  for (const [id, bytes] of metaFiles) parts.push(...member(`image/${id}.blob.meta`, bytes));
  for (const [name, bytes] of more) parts.push(...member(name, bytes));
  parts.push(Buffer.alloc(2 * blockBytes));
  const tar = Buffer.concat(parts);
  return { gzip: await gzipAsync(tar), diffId: `sha256:${createHash("sha256").update(tar).digest("hex")}` };
}

function member(name: string, bytes: Buffer): Buffer[] {
  return [tarHeader(name, 0o444, bytes.length, "0"), bytes, Buffer.alloc((blockBytes - (bytes.length % blockBytes)) % blockBytes)];
}

/** POSIX ustar header. Names here have at most 100 bytes: `image/`, 64 hex digits, `.blob.meta`. */
function tarHeader(name: string, mode: number, size: number, type: "0" | "5"): Buffer {
  const header = Buffer.alloc(blockBytes);
  const octal = (value: number, offset: number, digits: number) => header.write(value.toString(8).padStart(digits, "0"), offset, "latin1");
  header.write(name, 0, "latin1");
  octal(mode, 100, 7);
  octal(0, 108, 7);
  octal(0, 116, 7);
  octal(size, 124, 11);
  octal(0, 136, 11);
  header.write("        ", 148, "latin1");
  header.write(type, 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

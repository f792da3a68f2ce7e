/** Tar headers of an unpacked image: ustar, with pax records for what does not fit. Source: spec/nydus-image.md, section 14 */

export interface TarEntry {
  /** one byte per code unit, as all texts here */
  name: string;
  type: "0" | "1" | "2" | "3" | "4" | "5" | "6";
  mode: number;
  uid: number;
  gid: number;
  mtime: bigint;
  size: number;
  linkName: string;
  rdev: number;
  xattrs: ReadonlyMap<string, Uint8Array>;
}

const blockBytes = 512;
const nameBytes = 100;

/** Header blocks of one member, its pax header in front if it needs one. */
export function encodeTarEntry(entry: TarEntry): Buffer {
  const records: Array<[string, Buffer]> = [];
  if (entry.name.length > nameBytes) records.push(["path", Buffer.from(entry.name, "latin1")]);
  if (entry.linkName.length > nameBytes) records.push(["linkpath", Buffer.from(entry.linkName, "latin1")]);
  for (const [name, value] of entry.xattrs) records.push([`SCHILY.xattr.${name}`, Buffer.from(value)]);
  const header = encodeHeader({ ...entry, name: entry.name.slice(0, nameBytes), linkName: entry.linkName.slice(0, nameBytes) });
  if (records.length === 0) return header;
  const data = Buffer.concat(records.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) => encodeRecord(key, value)));
  const slash = entry.name.lastIndexOf("/");
  const name = `${slash < 0 ? "" : `${entry.name.slice(0, slash)}/`}PaxHeaders.0/${entry.name.slice(slash + 1)}`.slice(0, nameBytes);
  const extended = encodeHeader({
    ...entry,
    name,
    type: "x",
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: 0n,
    size: data.length,
    linkName: "",
    rdev: 0,
  });
  return Buffer.concat([extended, data, tarPadding(data.length), header]);
}

/** Zeros that fill the last block of `bytes` bytes. */
export function tarPadding(bytes: number): Buffer {
  return Buffer.alloc((blockBytes - (bytes % blockBytes)) % blockBytes);
}

/** Two blocks of zeros. */
export const tarEnd = Buffer.alloc(2 * blockBytes);

function encodeRecord(key: string, value: Buffer): Buffer {
  const rest = key.length + value.length + 3;
  let length = rest;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return Buffer.concat([Buffer.from(`${length} ${key}=`, "latin1"), value, Buffer.from("\n")]);
}

function encodeHeader(entry: Omit<TarEntry, "type"> & { type: string }): Buffer {
  const header = Buffer.alloc(blockBytes);
  header.write(entry.name, 0, nameBytes, "latin1");
  writeNumber(header, BigInt(entry.mode), 100, 8);
  writeNumber(header, BigInt(entry.uid), 108, 8);
  writeNumber(header, BigInt(entry.gid), 116, 8);
  writeNumber(header, BigInt(entry.size), 124, 12);
  writeNumber(header, entry.mtime, 136, 12);
  header.write("        ", 148, "latin1");
  header.write(entry.type, 156, "latin1");
  header.write(entry.linkName, 157, nameBytes, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  const isDevice = entry.type === "3" || entry.type === "4";
  writeNumber(header, BigInt(isDevice ? (entry.rdev >>> 8) & 0xfff : 0), 329, 8);
  writeNumber(header, BigInt(isDevice ? (entry.rdev & 0xff) | ((entry.rdev >>> 12) & 0xfff00) : 0), 337, 8);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

/** Octal text, or base-256 for what is negative or too large for it. */
function writeNumber(header: Buffer, value: bigint, offset: number, length: number): void {
  const digits = value < 0n ? "" : value.toString(8);
  if (value >= 0n && digits.length < length) {
    header.write(`${digits.padStart(length - 1, "0")}\0`, offset, "latin1");
    return;
  }
  let rest = BigInt.asUintN(8 * length - 1, value);
  for (let i = length - 1; i >= 0; i--) {
    header[offset + i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  header[offset] |= 0x80;
}

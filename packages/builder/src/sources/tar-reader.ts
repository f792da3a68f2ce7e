/** Members of a tar stream, with GNU and pax extensions applied. Source: spec/nydus-image.md, section 6.3 */
import { BuilderError } from "../errors.ts";
import { tarExtensionBytesMax } from "../limits.ts";
import type { TarInput } from "./byte-stream.ts";
import { parsePaxRecords, parseTarHeader, type TarHeader, tarBlockBytes } from "./tar-header.ts";

export type TarKind = "file" | "hardlink" | "symlink" | "char" | "block" | "directory" | "fifo";

export interface TarMember extends TarHeader {
  kind: TarKind;
  mtimeNsec: number;
  xattrs: Map<string, Uint8Array> | undefined;
  /** Fills `target` with the next bytes of the member's data. @throws BuilderError BUILD_TAR at a premature end */
  read(target: Uint8Array): Promise<void>;
}

const kinds: Readonly<Record<string, TarKind>> = {
  "0": "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
  "7": "file",
};
const xattrKey = "SCHILY.xattr.";

/** Extensions gathered for the next member. */
interface Extensions {
  longName?: Buffer;
  longLink?: Buffer;
  pax?: Map<string, Buffer>;
}

/**
 * Yields members in order. Data that was not read is skipped when the next one is asked for. Blocks of zeros are skipped anywhere, so
 * concatenated archives work; the stream ends at its end.
 */
export async function* readTar(stream: TarInput): AsyncGenerator<TarMember, void, undefined> {
  const block = Buffer.alloc(tarBlockBytes);
  let extensions: Extensions = {};
  for (;;) {
    const position = stream.position;
    const bytes = await stream.readInto(block);
    if (bytes === 0) break;
    if (bytes < tarBlockBytes) throw truncated(position);
    const header = parseTarHeader(block, position);
    if (!header) continue;
    if (header.type === "L" || header.type === "K" || header.type === "x" || header.type === "g") {
      const data = await readExtension(stream, header);
      if (header.type === "L") extensions.longName = once(extensions.longName, data, header.type);
      else if (header.type === "K") extensions.longLink = once(extensions.longLink, data, header.type);
      else if (header.type === "x") extensions.pax = once(extensions.pax, parsePaxRecords(data), header.type);
      // Global pax headers hold a comment of the tool that made the archive; container runtimes ignore them too.
      continue;
    }
    const member = applyExtensions(header, extensions);
    extensions = {};
    let left = member.kind === "file" ? member.size : 0;
    const padding = member.kind === "file" ? (tarBlockBytes - (member.size % tarBlockBytes)) % tarBlockBytes : 0;
    yield {
      ...member,
      async read(target) {
        if (target.length > left) throw new RangeError(`${target.length} bytes asked of a member that has ${left} left`);
        left -= target.length;
        if ((await stream.readInto(target)) < target.length) throw truncated(stream.position);
      },
    };
    const rest = left + padding;
    if ((await stream.skip(rest)) < rest) throw truncated(stream.position);
  }
  if (extensions.longName || extensions.longLink || extensions.pax) {
    throw new BuilderError("BUILD_TAR", "the tar ends after an extended header, without the member it belongs to");
  }
}

function once<T>(present: T | undefined, value: T, type: string): T {
  if (present !== undefined) throw new BuilderError("BUILD_TAR", `two extended headers of type ${type} for one member of the tar`);
  return value;
}

function truncated(position: number): BuilderError {
  return new BuilderError("BUILD_TAR", `the tar ends in the middle of a member, at byte ${position}: it is truncated`);
}

async function readExtension(stream: TarInput, header: TarHeader): Promise<Buffer> {
  if (header.size > tarExtensionBytesMax)
    throw new BuilderError("BUILD_TAR", `an extended tar header of ${header.size} bytes; at most ${tarExtensionBytesMax} are read`);
  const data = Buffer.alloc(header.size);
  const padding = (tarBlockBytes - (header.size % tarBlockBytes)) % tarBlockBytes;
  if ((await stream.readInto(data)) < data.length || (await stream.skip(padding)) < padding) throw truncated(stream.position);
  return data;
}

function applyExtensions(header: TarHeader, { longName, longLink, pax }: Extensions): Omit<TarMember, "read"> {
  const member = { ...header, mtimeNsec: 0, xattrs: undefined as Map<string, Uint8Array> | undefined };
  const name = longName ? withoutNul(longName) : pax?.get("path")?.toString("latin1");
  const linkName = longLink ? withoutNul(longLink) : pax?.get("linkpath")?.toString("latin1");
  if (name !== undefined) member.name = name;
  if (linkName !== undefined) member.linkName = linkName;
  for (const [key, value] of pax ?? []) {
    const words = value.toString("latin1");
    if (key === "size") member.size = wholeNumber(key, words);
    else if (key === "uid") member.uid = wholeNumber(key, words);
    else if (key === "gid") member.gid = wholeNumber(key, words);
    else if (key === "mtime") Object.assign(member, parsePaxTime(words));
    else if (key.startsWith("GNU.sparse."))
      throw new BuilderError("BUILD_UNSUPPORTED", `${shown(member.name)} is a sparse member (${key}); write the tar without --sparse`);
    else if (key.startsWith(xattrKey)) {
      member.xattrs ??= new Map();
      member.xattrs.set(key.slice(xattrKey.length), Buffer.from(value));
    }
  }
  const kind = kinds[member.type];
  if (!kind)
    throw new BuilderError(
      "BUILD_UNSUPPORTED",
      `${shown(member.name)} has the tar entry type ${JSON.stringify(member.type)}, which can not be stored`,
    );
  // As every reader since V7 tar: a regular member whose name ends in a slash is a directory.
  return { ...member, kind: kind === "file" && member.type !== "7" && member.name.endsWith("/") ? "directory" : kind };
}

function withoutNul(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString("latin1", 0, end < 0 ? data.length : end);
}

function wholeNumber(key: string, words: string): number {
  const value = Number(words);
  if (!/^[0-9]+$/.test(words) || !Number.isSafeInteger(value))
    throw new BuilderError("BUILD_TAR", `the pax record ${key} is ${JSON.stringify(words)}, not a number`);
  return value;
}

/** Seconds with a decimal fraction; the fraction counts up from the second below. */
function parsePaxTime(words: string): { mtime: number; mtimeNsec: number } {
  const match = /^(-?)([0-9]+)(?:\.([0-9]*))?$/.exec(words);
  if (!match || !Number.isSafeInteger(Number(match[2])))
    throw new BuilderError("BUILD_TAR", `the pax record mtime is ${JSON.stringify(words)}, not a time`);
  const seconds = Number(match[2]);
  const nsec = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  if (match[1] === "") return { mtime: seconds, mtimeNsec: nsec };
  return nsec === 0 ? { mtime: -seconds, mtimeNsec: 0 } : { mtime: -seconds - 1, mtimeNsec: 1_000_000_000 - nsec };
}

function shown(name: string): string {
  return JSON.stringify(Buffer.from(name, "latin1").toString());
}

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";
import { readXattrs } from "./xattr.ts";

/** A name of any bytes in JSON: text when it is UTF-8, base64 otherwise. */
export type JsonBytes = string | { readonly b64: string };

export type EntryType = "file" | "dir" | "symlink" | "fifo" | "char" | "block" | "socket";

/** One line of a listing, in the form of golden/README.md (expected.jsonl). */
export interface ListingEntry {
  readonly path: JsonBytes;
  readonly type: EntryType;
  /** Octal text without the type bits: "0755". */
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, signed. */
  readonly mtime: number;
  readonly nsec: number;
  readonly size: number;
  readonly nlink: number;
  /** Device number of devices; 0 for all else. */
  readonly rdev: number;
  readonly target?: JsonBytes;
  /** Name to base64 of the value, names in order. */
  readonly xattrs: Readonly<Record<string, string>>;
  /** Digest of the content of files. */
  readonly sha256?: string;
}

export interface ListOptions {
  /** Read the content of files for `sha256`; default true. */
  readonly content?: boolean;
  /** Files read at the same time; default 4. */
  readonly parallel?: number;
}

export interface CompareOptions {
  /** Keys left out of the comparison, for all paths. */
  readonly ignore?: readonly (keyof ListingEntry)[];
  /** Differences reported at most; the rest is counted. Default 20. */
  readonly differencesMax?: number;
}

/** Parses JSON lines as stored in golden data. */
export function parseListing(jsonLines: string): ListingEntry[] {
  return jsonLines
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as ListingEntry);
}

/**
 * Lists a tree as golden data does: depth first, children by name bytes, the root as "/".
 * Only asynchronous calls, so a file system served by this very process can be listed.
 */
export async function listTree(root: string, options: ListOptions = {}): Promise<ListingEntry[]> {
  const paths: Buffer[] = [];
  const rootBytes = Buffer.from(root);
  await collect(rootBytes, Buffer.from("/"), paths);
  const entries = new Array<ListingEntry>(paths.length);
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let index = next++; index < paths.length; index = next++) {
      const path = paths[index] as Buffer;
      entries[index] = await describeEntry(under(rootBytes, path), path, options.content ?? true);
    }
  };
  await Promise.all(Array.from({ length: options.parallel ?? 4 }, worker));
  return entries;
}

/** What differs between two listings, one line a difference, empty when they are equal. */
export function compareListings(
  actual: readonly ListingEntry[],
  expected: readonly ListingEntry[],
  options: CompareOptions = {},
): string[] {
  const ignore = new Set<string>(options.ignore ?? []);
  const differences: string[] = [];
  const actualByPath = new Map(actual.map((entry) => [JSON.stringify(entry.path), entry]));
  const expectedPaths = new Set(expected.map((entry) => JSON.stringify(entry.path)));
  for (const wanted of expected) {
    const path = JSON.stringify(wanted.path);
    const found = actualByPath.get(path);
    if (found === undefined) differences.push(`${path}: missing`);
    else differences.push(...compareEntry(path, found, wanted, ignore));
  }
  for (const entry of actual) {
    const path = JSON.stringify(entry.path);
    if (!expectedPaths.has(path)) differences.push(`${path}: unexpected ${entry.type}`);
  }
  if (differences.length === 0 && actual.length === expected.length) {
    const at = actual.findIndex((entry, index) => JSON.stringify(entry.path) !== JSON.stringify(expected[index]?.path));
    if (at >= 0) differences.push(`order differs from entry ${at} on: ${JSON.stringify(actual[at]?.path)}`);
  }
  const max = options.differencesMax ?? 20;
  return differences.length > max ? [...differences.slice(0, max), `… and ${differences.length - max} more`] : differences;
}

/** Text when the bytes are UTF-8, base64 otherwise. */
export function jsonBytes(bytes: Uint8Array): JsonBytes {
  const text = Buffer.from(bytes).toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? text : { b64: Buffer.from(bytes).toString("base64") };
}

function compareEntry(path: string, found: ListingEntry, wanted: ListingEntry, ignore: ReadonlySet<string>): string[] {
  const differences: string[] = [];
  for (const key of new Set([...Object.keys(wanted), ...Object.keys(found)])) {
    if (ignore.has(key)) continue;
    const a = canonical((found as unknown as Record<string, unknown>)[key]);
    const b = canonical((wanted as unknown as Record<string, unknown>)[key]);
    if (a !== b) differences.push(`${path}: ${key} is ${a}, expected ${b}`);
  }
  return differences;
}

const canonical = (value: unknown): string =>
  value !== null && typeof value === "object" && !("b64" in value)
    ? JSON.stringify(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : (JSON.stringify(value) ?? "absent");

async function collect(root: Buffer, path: Buffer, into: Buffer[]): Promise<void> {
  into.push(path);
  const at = under(root, path);
  if (!(await lstat(at)).isDirectory()) return;
  const names = await readdir(at, { encoding: "buffer" });
  names.sort(Buffer.compare);
  for (const name of names) await collect(root, Buffer.concat([path, Buffer.from(path.length === 1 ? "" : "/"), name]), into);
}

const under = (root: Buffer, path: Buffer): Buffer => (path.length === 1 ? root : Buffer.concat([root, path]));

async function describeEntry(at: Buffer, path: Buffer, content: boolean): Promise<ListingEntry> {
  const stat = await lstat(at, { bigint: true });
  const type = typeOf(Number(stat.mode));
  const seconds = floorDivide(stat.mtimeNs, 1_000_000_000n);
  const device = type === "char" || type === "block";
  return {
    path: jsonBytes(path),
    type,
    mode: (Number(stat.mode) & 0o7777).toString(8).padStart(4, "0"),
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtime: Number(seconds),
    nsec: Number(stat.mtimeNs - seconds * 1_000_000_000n),
    size: Number(stat.size),
    nlink: Number(stat.nlink),
    rdev: device ? Number(stat.rdev) : 0,
    ...(type === "symlink" ? { target: jsonBytes(await readlink(at, { encoding: "buffer" })) } : {}),
    xattrs: await readXattrs(at),
    ...(type === "file" && content ? { sha256: await digestOf(at) } : {}),
  };
}

const floorDivide = (value: bigint, by: bigint): bigint => {
  const quotient = value / by;
  return value < 0n && quotient * by !== value ? quotient - 1n : quotient;
};

const types: ReadonlyMap<number, EntryType> = new Map<number, EntryType>([
  [0o010000, "fifo"],
  [0o020000, "char"],
  [0o040000, "dir"],
  [0o060000, "block"],
  [0o100000, "file"],
  [0o120000, "symlink"],
  [0o140000, "socket"],
]);

function typeOf(mode: number): EntryType {
  const type = types.get(mode & 0o170000);
  if (type === undefined) throw new TypeError(`unknown file type in mode 0${mode.toString(8)}`);
  return type;
}

async function digestOf(path: Buffer): Promise<string> {
  const hash = createHash("sha256");
  for await (const part of createReadStream(path)) hash.update(part as Uint8Array);
  return hash.digest("hex");
}

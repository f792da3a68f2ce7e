import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { type ListingEntry, parseListing } from "./listing.ts";

const repositoryRoot = join(import.meta.dirname, "../../..");

/** One build by the original `nydus-image`: what it left, and the listing that a mounted image must show. */
export interface GoldenCase {
  readonly name: string;
  /** Absolute folder of the case: cmd.txt, output.json, check.txt … */
  readonly directory: string;
  readonly version: 5 | 6;
  /** File of the bootstrap; undefined for inline cases, where `readBootstrap` takes it out of the blob. */
  readonly bootstrapFile: string | undefined;
  /** Folder of the stored data blobs; undefined when the build left none. */
  readonly blobDirectory: string | undefined;
  /** Files of the build too large to be stored, by name (`blobs/<id>`). */
  readonly omitted: readonly string[];
  /** Whether `readListing` has an answer. */
  readonly hasListing: boolean;
}

/** A damaged image and the verdict of the original (bad/index.tsv). */
export interface DamagedCase {
  readonly name: string;
  readonly directory: string;
  readonly fault: string;
  readonly command: string;
  readonly exitOfOriginal: string;
}

/**
 * The folder of golden data: NYDUS_GOLDEN, or `golden` in a folder `shared` beside the repository.
 * undefined when it is absent: a test then says so (`goldenAbsent`) and skips.
 */
export function goldenDir(): string | undefined {
  const directory = process.env["NYDUS_GOLDEN"] ?? join(repositoryRoot, "../shared/golden");
  return existsSync(join(directory, "cases")) ? directory : undefined;
}

/** The line a test prints when it skips for want of golden data. */
export const goldenAbsent = "skipped: no golden data; set NYDUS_GOLDEN to the folder that holds cases/ and bad/";

/** All golden cases, by name; empty when the data is absent. */
export function goldenCases(): readonly GoldenCase[] {
  const golden = goldenDir();
  if (golden === undefined) return [];
  return readdirSync(join(golden, "cases"))
    .sort()
    .map((name) => readCase(join(golden, "cases", name), name));
}

/** One golden case by name; throws when the data is there and the case is not. */
export function goldenCase(name: string): GoldenCase {
  const found = goldenCases().find((entry) => entry.name === name);
  if (found === undefined) throw new TypeError(`no golden case ${name}`);
  return found;
}

/** All damaged images; empty when the data is absent. */
export function damagedCases(): readonly DamagedCase[] {
  const golden = goldenDir();
  if (golden === undefined) return [];
  const lines = readFileSync(join(golden, "bad/index.tsv"), "utf8").split("\n").slice(1);
  return lines
    .filter((line) => line !== "")
    .map((line) => {
      const [name = "", fault = "", command = "", exitOfOriginal = ""] = line.split("\t");
      return { name, directory: join(golden, "bad", name), fault, command, exitOfOriginal };
    });
}

/** The listing of a case: what a mounted image must show, depth first, children by name bytes. */
export function readListing(entry: GoldenCase): ListingEntry[] {
  return parseListing(readFileSync(join(entry.directory, "expected.jsonl"), "utf8"));
}

/** The bootstrap's bytes; of an inline case, cut out of the one blob by its trailing tar headers (images.md, 2.3). */
export function readBootstrap(entry: GoldenCase): Uint8Array {
  if (entry.bootstrapFile !== undefined) return readFileSync(entry.bootstrapFile);
  const inline = blobsWithBootstrap(entry);
  if (inline === undefined) throw new TypeError(`golden case ${entry.name} holds no bootstrap`);
  return inline;
}

function readCase(directory: string, name: string): GoldenCase {
  const present = (file: string): string | undefined => (existsSync(join(directory, file)) ? join(directory, file) : undefined);
  const omittedFile = present("omitted.txt");
  const omitted = omittedFile === undefined ? [] : readFileSync(omittedFile, "utf8").trim().split("\n");
  return {
    name,
    directory,
    version: name.includes("-v5") ? 5 : 6,
    bootstrapFile: present("bootstrap"),
    blobDirectory: present("blobs"),
    omitted: omitted.map((line) => line.split(" ")[0] as string),
    hasListing: present("expected.jsonl") !== undefined,
  };
}

function blobsWithBootstrap(entry: GoldenCase): Uint8Array | undefined {
  if (entry.blobDirectory === undefined) return undefined;
  for (const name of readdirSync(entry.blobDirectory)) {
    if (!/^[0-9a-f]{64}$/.test(name)) continue;
    const found = memberFromEnd(readFileSync(join(entry.blobDirectory, name)), "image.boot");
    if (found !== undefined) return found.length > 4 && found[0] === 0x28 && found[1] === 0xb5 ? zstdDecompressSync(found) : found;
  }
  return undefined;
}

/** `data | tar header` pairs, read from the end: each header describes the bytes before it. */
function memberFromEnd(blob: Uint8Array, wanted: string): Uint8Array | undefined {
  let end = blob.length;
  while (end >= 512) {
    const header = blob.subarray(end - 512, end);
    const name = text(header.subarray(0, 100));
    const size = Number.parseInt(text(header.subarray(124, 136)), 8);
    if (!Number.isSafeInteger(size) || size > end - 512) return undefined;
    if (name === wanted) return blob.subarray(end - 512 - size, end - 512);
    end -= 512 + size;
  }
  return undefined;
}

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1").replace(/\0.*$/s, "").trim();

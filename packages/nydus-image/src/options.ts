/** Values of options that several verbs share. */
import { stat } from "node:fs/promises";
import type { Destination, PrefetchPolicy } from "@nydus-ts/builder";
import { chunkSizeMax, chunkSizeMin, parsePrefetchPatterns } from "@nydus-ts/builder";
import type { Context } from "./context.ts";
import { NydusImageError } from "./errors.ts";
import { readAllInput } from "./io.ts";

/** Decimal or `0x` hexadecimal. */
export function parseSize(text: string, what: string): number {
  if (!/^(0x[0-9a-fA-F]+|[0-9]+)$/.test(text) || !Number.isSafeInteger(Number(text)))
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid ${what} ${text}`);
  return Number(text);
}

/** A decimal number below `end`. The messages are those of the original's language. */
export function parseInteger(text: string, end: number): number {
  const fault =
    text === ""
      ? "cannot parse integer from empty string"
      : !/^\+?[0-9]+$/.test(text)
        ? "invalid digit found in string"
        : Number(text) >= end
          ? "number too large to fit in target type"
          : undefined;
  if (fault !== undefined) throw new NydusImageError("IMAGE_ARGUMENT", fault);
  return Number(text);
}

/** A power of two from 4 KiB to 16 MiB. */
export function parseChunkSize(text: string): number {
  const size = parseSize(text, "chunk size");
  if (size < chunkSizeMin || size > chunkSizeMax || (size & (size - 1)) !== 0) {
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid chunk size: ${size}; it must be a power of two from 0x1000 to 0x1000000`);
  }
  return size;
}

/** With a policy, the list of paths is read from standard input to its end. Source: spec/nydus-image.md, section 10.1 */
export async function readPrefetchPatterns(context: Context, policy: PrefetchPolicy): Promise<string[]> {
  if (policy === "none") return [];
  const { paths, warnings } = parsePrefetchPatterns(await readAllInput(context.io));
  const log = context.log();
  for (const warning of warnings) log.warn(warning);
  return paths;
}

export async function isDirectory(path: string): Promise<boolean> {
  return await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** Where a bootstrap goes: `--bootstrap`, else a file named by its digest in `--blob-dir`. */
export async function bootstrapDestination(options: { bootstrap?: string; blobDir?: string }): Promise<Destination> {
  if (options.bootstrap !== undefined) return { file: options.bootstrap };
  if (options.blobDir === undefined) {
    throw new NydusImageError(
      "IMAGE_ARGUMENT",
      "both --bootstrap and --blob-dir are missing, please specify one to store the generated metadata blob file",
    );
  }
  if (!(await isDirectory(options.blobDir)))
    throw new NydusImageError("IMAGE_ARGUMENT", `Directory to store blobs does not exist: ${options.blobDir}`);
  return { directory: options.blobDir };
}

/** `4096`, `64MiB`, `1.5MB`; undefined for anything else. */
export function parseHumanSize(text: string): number | undefined {
  const [, digits, unit = "", binary] = /^([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B?$/i.exec(text) ?? [];
  if (digits === undefined) return undefined;
  const value = Math.round(Number(digits) * (binary === "" ? 1000 : 1024) ** ["", "K", "M", "G", "T"].indexOf(unit.toUpperCase()));
  return Number.isSafeInteger(value) ? value : undefined;
}

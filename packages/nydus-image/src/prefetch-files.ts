/** The list of files for `optimize`: `{"version":"v1","files":[{"path":"/a","ranges":[[offset,size]]}]}`. Source: spec/nydus-image.md, section 4.3 */
import { NydusImageError } from "./errors.ts";

export interface PrefetchFile {
  path: string;
  /** offset and size; undefined: the whole file */
  ranges: ReadonlyArray<readonly [number, number]> | undefined;
}

/** @throws NydusImageError IMAGE_ARGUMENT */
export function parsePrefetchFiles(text: string): { files: PrefetchFile[]; warnings: string[] } {
  const files: PrefetchFile[] = [];
  const warnings: string[] = [];
  if (text.trim() === "") return { files, warnings };
  const { version, files: listed } = asRecord(parse(text), "the list");
  if (typeof version !== "string") refuse("`version` is missing");
  if (version !== "v1") throw new NydusImageError("IMAGE_ARGUMENT", `unsupported prefetch file version: ${version}`);
  if (!Array.isArray(listed)) return refuse("`files` is no list");
  for (const [i, entry] of listed.entries()) {
    const { path, ranges } = asRecord(entry, `files[${i}]`);
    if (typeof path !== "string") return refuse(`files[${i}].path is no text`);
    if (path.startsWith("/")) files.push({ path, ranges: ranges === undefined || ranges === null ? undefined : parseRanges(ranges, i) });
    else warnings.push(`prefetch file path is not absolute, skipping: ${path}`);
  }
  return { files, warnings };
}

function parseRanges(ranges: unknown, file: number): Array<[number, number]> {
  if (!Array.isArray(ranges)) return refuse(`files[${file}].ranges is no list`);
  return ranges.map((range, i) => {
    const isPair = Array.isArray(range) && range.length === 2 && range.every((value) => Number.isSafeInteger(value) && value >= 0);
    return isPair ? (range as [number, number]) : refuse(`files[${file}].ranges[${i}] is not [offset, size]`);
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    return refuse((cause as Error).message);
  }
}

function asRecord(value: unknown, what: string): Record<string, unknown> {
  return value !== null && typeof value === "object" && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : refuse(`${what} is no object`);
}

function refuse(fault: string): never {
  throw new NydusImageError("IMAGE_ARGUMENT", `failed to parse prefetch file as JSON: ${fault}`);
}

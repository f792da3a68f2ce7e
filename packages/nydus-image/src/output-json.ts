/** The file of `--output-json`. Source: spec/nydus-image.md, section 4.1 */
import { NydusImageError } from "./errors.ts";
import { builderVersion } from "./version.ts";
import { writeWholeText } from "./whole-file.ts";

export interface OutputJson {
  bootstrap: string;
  blobs: readonly string[];
  externalBootstrap?: string;
  externalBlobs?: readonly string[];
  consumedTime?: Readonly<Record<string, number>>;
  events?: Readonly<Record<string, number | string>>;
  fsVersion: "5" | "6";
  compressor: string;
}

export async function writeOutputJson(path: string | undefined, output: OutputJson, options: { compact: boolean }): Promise<void> {
  if (path === undefined) return;
  const value = {
    version: builderVersion,
    bootstrap: output.bootstrap,
    blobs: output.blobs,
    external_bootstrap: output.externalBootstrap ?? "",
    external_blobs: output.externalBlobs ?? [],
    trace: { consumed_time: sortKeys(output.consumedTime ?? {}), registered_events: sortKeys(output.events ?? {}) },
    fs_version: output.fsVersion,
    compressor: output.compressor,
  };
  try {
    await writeWholeText(path, options.compact ? JSON.stringify(value) : JSON.stringify(value, null, 2));
  } catch (cause) {
    throw new NydusImageError("IMAGE_FILE", `can not open output file ${path}`, { cause });
  }
}

function sortKeys<T>(record: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}

// The ends of blobs: tables of contents, tar headers, digest arrays, and where a bootstrap lies inside.
import { join } from "node:path";
import { existsSync, readFileSync } from "node:fs";
import { findInlinedBootstrap, RafsError, readDigestArray, readKnownToc, readToc, tocTailBytes } from "@nydus-ts/rafs-format";
import { goldenFiles } from "../golden-files.ts";
import { blobsOf } from "../stored-meta.ts";
import type { Seed, Target } from "../target.ts";

export const target: Target = {
  name: "tocs",
  seeds: (golden) => [...tails(golden), ...recorded(golden)],
  accepts: (error) => error instanceof RafsError,
};

function tails(golden: string | undefined): Seed[] {
  return goldenFiles(golden, /^blobs\/[0-9a-f]{64}$/).map(({ name, bytes }) => ({
    name,
    bytes: bytes.subarray(bytes.length - tocTailBytes(bytes.length)),
    read: (tail) => {
      const size = Math.max(bytes.length, tail.length);
      readToc(tail, size);
      const section = findInlinedBootstrap(tail, size);
      if (section !== undefined && section.offset + section.compressedSize > size) throw new Error("section outside of the blob");
    },
  }));
}

/** Tables and digest arrays whose size and digest a bootstrap records. */
function recorded(golden: string | undefined): Seed[] {
  return goldenFiles(golden, /^bootstrap$/).flatMap(({ directory, name }) =>
    blobsOf(directory).flatMap((blob) => {
      const path = join(directory, "blobs", blob.id);
      if (blob.tocSize === 0 || !existsSync(path)) return [];
      const file = readFileSync(path);
      const digests = new Uint8Array(32 * blob.chunkCount);
      return [
        {
          name: `${name}, ToC`,
          bytes: file.subarray(file.length - blob.tocSize),
          read: (bytes: Uint8Array) => void readKnownToc(bytes, file.length, { ...blob, tocDigest: undefined }),
        },
        { name: `${name}, digests`, bytes: digests, read: (bytes: Uint8Array) => void readDigestArray(bytes, blob) },
      ];
    }),
  );
}

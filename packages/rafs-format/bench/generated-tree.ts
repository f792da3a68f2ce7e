import type { BuildEntry, BuildOptions } from "@nydus-ts/rafs-format/writer";

const filesPerDirectory = 1000;
const known = { uid: 1000, gid: 1000, mtime: 1_700_000_000, mtimeNsec: 0 };

/** A root and `count − 1` names below it: directories of up to 1,000 files, every file with one chunk that all of them share. */
export function* generatedTree(count: number): Generator<BuildEntry> {
  const chunks = [sharedChunk];
  yield { ...known, path: "/", mode: 0o040755, size: 0 };
  let directory = "";
  for (let made = 1; made < count; made++) {
    const at = (made - 1) % (filesPerDirectory + 1);
    const name = String(at === 0 ? (made - 1) / (filesPerDirectory + 1) : at - 1).padStart(7, "0");
    if (at === 0) directory = `/d${name}`;
    if (at === 0) yield { ...known, path: directory, mode: 0o040755, size: 0 };
    else yield { ...known, path: `${directory}/f${name}`, mode: 0o100644, size: sharedChunk.uncompressedSize, chunks };
  }
}

const sharedChunk = {
  digest: new Uint8Array(32).fill(7),
  blobIndex: 0,
  chunkIndex: 0,
  flags: 0,
  compressedSize: 100,
  uncompressedSize: 100,
  compressedOffset: 0,
  uncompressedOffset: 0,
  fileOffset: 0,
  crc32c: 0,
};

/** Options for `buildBootstrap`: one blob, raw. */
export const generatedOptions = (version: 5 | 6): BuildOptions => ({
  version,
  chunkSize: 0x100000,
  compressor: "none",
  digester: "sha256",
  blobs: [{ id: "1".repeat(64), chunkCount: 1, compressedSize: 4096, uncompressedSize: 4096 }],
  prefetch: [],
});

import { createHash, randomFillSync } from "node:crypto";
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createImage } from "@nydus-ts/builder";
import { encodeChunkMapHeader, openBlobMeta, openBootstrap } from "@nydus-ts/rafs-format";

/** Sizes of the tree: `full` is the image of spec/engines.md (12 k entries, 300 MB), `small` only shows that the benchmark runs. */
export const scales = {
  full: { folders: 120, filesPerFolder: 90, randomMib: 128, librariesMib: 100 },
  small: { folders: 5, filesPerFolder: 20, randomMib: 4, librariesMib: 4 },
} as const;

export type Scale = (typeof scales)[keyof typeof scales];

export interface BenchImage {
  readonly bootstrap: string;
  readonly blobDirectory: string;
  /** Cache files in the layout of nydusd: finished ones, or only the chunk table where the blob is compressed. */
  readonly cacheDirectory: string;
  readonly dataFile: string;
  readonly blobId: string;
}

/**
 * Makes tree, image and cache below `directory`, or finds them there from an earlier run. `none`: random data, stored as they are, and a
 * finished cache; `zstd`: data of which half remains, and a cache without data.
 */
export async function makeImage(directory: string, scale: Scale, compressor: "none" | "zstd" = "none"): Promise<BenchImage> {
  const tree = join(directory, "tree");
  const blobDirectory = join(directory, "blobs");
  const cacheDirectory = join(directory, "cache");
  const bootstrap = join(directory, "bootstrap");
  if (!existsSync(join(directory, "done"))) {
    makeTree(tree, scale, compressor === "zstd");
    for (const folder of [blobDirectory, cacheDirectory]) mkdirSync(folder, { recursive: true });
    const { metaFile } = await createImage({
      source: { kind: "directory", path: tree, readXattrs: () => new Map(), whiteouts: "oci" },
      blob: { directory: blobDirectory },
      bootstrap: { file: bootstrap },
      blobId: "",
      blobOffset: 0,
      compressor,
      digester: "blake3",
      chunkSize: 1 << 20,
      chunkInfoVersion: 1,
      toc: false,
      explicitUidGid: true,
      prefetch: { policy: "none", patterns: [] },
    });
    if (metaFile === undefined) throw new TypeError("the image has no chunk table");
    if (compressor === "none") fillCache(bootstrap, metaFile, blobDirectory, cacheDirectory);
    else writeFileSync(join(cacheDirectory, `${openBootstrap(readFileSync(bootstrap)).blobs[0]?.id}.blob.meta`), metaFile);
    writeFileSync(join(directory, "done"), "");
  }
  const [blobId = ""] = openBootstrap(readFileSync(bootstrap)).blobs.map(({ id }) => id);
  return { bootstrap, blobDirectory, cacheDirectory, blobId, dataFile: join(cacheDirectory, `${blobId}.blob.data`) };
}

function makeTree(tree: string, scale: Scale, compressible: boolean): void {
  mkdirSync(join(tree, "big"), { recursive: true });
  let seed = 1;
  const random = (): number => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff;
    return seed / 0x7fffffff;
  };
  const writeRandom = (file: string, mib: number): void => {
    const fd = openSync(file, "w");
    const part = Buffer.alloc(1 << 20);
    for (let index = 0; index < mib; index++) {
      randomFillSync(part);
      if (compressible) part.write(part.subarray(0, part.length / 2).toString("hex"), "latin1");
      writeSync(fd, part);
    }
    closeSync(fd);
  };
  writeRandom(join(tree, "big/random"), scale.randomMib);
  writeRandom(join(tree, "big/libraries"), scale.librariesMib);
  for (let folder = 0; folder < scale.folders; folder++) {
    const path = join(tree, "small", `d${folder % 12}`, `e${folder}`);
    mkdirSync(path, { recursive: true });
    for (let file = 0; file < scale.filesPerFolder; file++) {
      const size = Math.floor(200 + 16_000 * random() ** 3);
      writeFileSync(
        join(path, `file-${file}.txt`),
        createHash("sha256")
          .update(`${folder}/${file}`)
          .digest("hex")
          .repeat(Math.ceil(size / 64))
          .slice(0, size),
      );
    }
  }
}

/** Copies the chunks of an uncompressed blob to where the cache has them, with a full chunk map and the meta file. */
function fillCache(bootstrap: string, metaFile: Uint8Array, blobDirectory: string, cacheDirectory: string): void {
  const [blob] = openBootstrap(readFileSync(bootstrap)).blobs;
  if (blob === undefined) throw new TypeError("the image has no blob");
  const meta = openBlobMeta(metaFile.subarray(0, blob.ciUncompressedSize), metaFile.subarray(metaFile.length - 4096), blob);
  const stored = openSync(join(blobDirectory, blob.id), "r");
  const data = openSync(join(cacheDirectory, `${blob.id}.blob.data`), "w");
  for (let index = 0; index < meta.count; index++) {
    const bytes = Buffer.alloc(meta.compressedSize(index));
    readSync(stored, bytes, 0, bytes.length, meta.compressedOffset(index));
    writeSync(data, bytes, 0, bytes.length, meta.uncompressedOffset(index));
  }
  ftruncateSync(data, Math.ceil(blob.uncompressedSize / 4096) * 4096);
  closeSync(data);
  closeSync(stored);
  const bits = Buffer.alloc(Math.ceil(meta.count / 8), 0xff);
  if (meta.count % 8 !== 0) bits[bits.length - 1] = (0xff << (8 - (meta.count % 8))) & 0xff;
  writeFileSync(join(cacheDirectory, `${blob.id}.blob.data.chunk_map`), Buffer.concat([encodeChunkMapHeader({ allReady: true }), bits]));
  writeFileSync(join(cacheDirectory, `${blob.id}.blob.meta`), metaFile);
}

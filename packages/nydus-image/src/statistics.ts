/** Sizes of an image, and what its chunks share with others. Source: spec/nydus-image.md, sections 4.2 and 13.3 */
import type { Bootstrap, Digester } from "@nydus-ts/rafs-format";

const fileSizeBitsMax = 44;
const chunkSizeBitsMin = 12;
const chunkSizeBitsMax = 20;
const blockBytes = 4096;
/** Rows of the deduplication table. */
export const thresholdMax = 20;

/** Keys and their order are those of the JSON output. */
export interface ImageStatistics {
  dirs: number;
  files: number;
  symlinks: number;
  chunks: number;
  file_size: number;
  comp_size: number;
  uncomp_size: number;
  padding_size: number;
  chunk_sizes: number[];
  file_sizes: number[];
  dedup_chunks: number;
  dedup_comp_size: number;
  dedup_uncomp_size: number;
  own_chunks: number;
  own_comp_size: number;
  own_uncomp_size: number;
  ref_chunks: number;
  ref_comp_size: number;
  ref_uncomp_size: number;
}

export interface ThresholdRow {
  threshold: number;
  raw: number;
  dedup: number;
  compContent: number;
  compBase: number;
  compImage: number;
  uncompContent: number;
  uncompBase: number;
  uncompImage: number;
}

interface ChunkSizes {
  compressed: number;
  uncompressed: number;
}

function emptyStatistics(): ImageStatistics {
  return {
    dirs: 0,
    files: 0,
    symlinks: 0,
    chunks: 0,
    file_size: 0,
    comp_size: 0,
    uncomp_size: 0,
    padding_size: 0,
    chunk_sizes: new Array<number>(chunkSizeBitsMax - chunkSizeBitsMin + 1).fill(0),
    file_sizes: new Array<number>(fileSizeBitsMax + 1).fill(0),
    dedup_chunks: 0,
    dedup_comp_size: 0,
    dedup_uncomp_size: 0,
    own_chunks: 0,
    own_comp_size: 0,
    own_uncomp_size: 0,
    ref_chunks: 0,
    ref_comp_size: 0,
    ref_uncomp_size: 0,
  };
}

/** Gathers base images, then compares a target with them. Images of another digester count, but their chunks can not be compared. */
export class StatisticsCollector {
  readonly base = emptyStatistics();
  readonly target = emptyStatistics();
  readonly #digester: Digester;
  /** by digest: sizes, and how many base images have the chunk */
  readonly #known = new Map<string, ChunkSizes & { images: number }>();

  constructor(digester: Digester) {
    this.#digester = digester;
  }

  addBase(bootstrap: Bootstrap): void {
    for (const [digest, sizes] of this.#count(bootstrap, this.base)) {
      this.base.own_chunks++;
      this.base.own_comp_size += sizes.compressed;
      this.base.own_uncomp_size += sizes.uncompressed;
      if (!this.#isComparable(bootstrap)) continue;
      const known = this.#known.get(digest);
      if (known) known.images++;
      else this.#known.set(digest, { ...sizes, images: 1 });
    }
  }

  addTarget(bootstrap: Bootstrap): void {
    for (const [digest, sizes] of this.#count(bootstrap, this.target)) {
      const shared = this.#known.get(digest)?.uncompressed === sizes.uncompressed;
      if (shared) {
        this.target.ref_chunks++;
        this.target.ref_comp_size += sizes.compressed;
        this.target.ref_uncomp_size += sizes.uncompressed;
      } else {
        this.target.own_chunks++;
        this.target.own_comp_size += sizes.compressed;
        this.target.own_uncomp_size += sizes.uncompressed;
      }
    }
  }

  #isComparable(bootstrap: Bootstrap): boolean {
    return bootstrap.blobs[0]?.digester === this.#digester;
  }

  /** Counts names, files and chunks into `into`; returns the distinct chunks of the image. */
  #count(bootstrap: Bootstrap, into: ImageStatistics): Map<string, ChunkSizes> {
    const distinct = new Map<string, ChunkSizes>();
    const seen = new Set<number>();
    for (const { nid, inode } of bootstrap.walk()) {
      if (inode.type === "dir") into.dirs++;
      if (inode.type === "symlink") into.symlinks++;
      if (inode.type !== "file") continue;
      into.files++;
      if (inode.nlink > 1 && seen.has(inode.ino)) continue;
      seen.add(inode.ino);
      const bits = inode.size === 0 ? 0 : Math.floor(Math.log2(inode.size)) + 1;
      into.file_sizes[Math.min(bits, fileSizeBitsMax)]++;
      into.file_size += inode.size;
      const padding = Math.ceil(inode.size / blockBytes) * blockBytes - inode.size;
      into.padding_size += padding;
      into.uncomp_size += padding;
      for (let k = chunkSizeBitsMin; k <= chunkSizeBitsMax; k++) into.chunk_sizes[k - chunkSizeBitsMin] += Math.ceil(inode.size / 2 ** k);
      for (const chunk of bootstrap.chunksOf(nid)) {
        const record = bootstrap.chunkRecord(chunk);
        const sizes = { compressed: record?.compressedSize ?? 0, uncompressed: record?.uncompressedSize ?? chunk.length };
        into.chunks++;
        into.comp_size += sizes.compressed;
        into.uncomp_size += sizes.uncompressed;
        const key = record && Buffer.from(record.digest).toString("latin1");
        if (key !== undefined && !distinct.has(key)) distinct.set(key, sizes);
      }
    }
    return distinct;
  }

  /** What a dictionary of the chunks that are in more than `threshold` base images would save; sets the base's `dedup_*`. */
  thresholds(): ThresholdRow[] {
    const rows = Array.from({ length: thresholdMax }, (_, i): ThresholdRow => {
      return {
        threshold: i + 1,
        raw: 0,
        dedup: 0,
        compContent: 0,
        compBase: 0,
        compImage: 0,
        uncompContent: 0,
        uncompBase: 0,
        uncompImage: 0,
      };
    });
    for (const { images, compressed, uncompressed } of this.#known.values()) {
      this.base.dedup_chunks++;
      this.base.dedup_comp_size += compressed;
      this.base.dedup_uncomp_size += uncompressed;
      for (const row of rows) {
        row.raw += images;
        row.compContent += images * compressed;
        row.uncompContent += images * uncompressed;
        if (row.threshold <= Math.min(images, thresholdMax)) {
          row.dedup++;
          row.compBase += compressed;
          row.uncompBase += uncompressed;
        } else {
          row.dedup += images;
          row.compImage += images * compressed;
          row.uncompImage += images * uncompressed;
        }
      }
    }
    return rows;
  }
}

/** The block of text of one image. */
export function describeStatistics(image: ImageStatistics): string {
  const line = (name: string, value: number) => `${`${name}:`.padEnd(24)}${value}\n`;
  const tail = (name: string, value: number) => `${name}:\t${value}\n`;
  const rows = (values: readonly number[], first: number) => values.map((value, i) => `${first + i}:\t\t\t${value}\n`).join("");
  return `
${line("Directories", image.dirs)}${line("Files", image.files)}${line("Symlinks", image.symlinks)}${line("Chunks", image.chunks)}${line("File Size", image.file_size)}${line("Padding Size", image.padding_size)}${line("Uncompressed Size", image.uncomp_size)}${line("Compressed Size", image.comp_size)}
File Size Bits:\t\tFile Count:
${rows(image.file_sizes, 0)}
Chunk Size Bits:\tChunk Count:
${rows(image.chunk_sizes, chunkSizeBitsMin)}
${tail("Raw Content Size", image.file_size)}${tail("Comp Content Size", image.comp_size)}${tail("Raw Chunk Count", image.chunks)}${tail("Dedup Comp Size", image.dedup_comp_size)}${tail("Dedup Uncomp Size", image.dedup_uncomp_size)}${tail("Dedup Chunk Count", image.dedup_chunks)}${tail("Owned Comp Size", image.own_comp_size)}${tail("Owned Uncomp Size", image.own_uncomp_size)}${tail("Owned Chunk Count", image.own_chunks)}${tail("Referenced Comp Size", image.ref_comp_size)}${tail("Referenced Uncomp Size", image.ref_uncomp_size)}${tail("Referenced Chunk Count", image.ref_chunks)}`;
}

export function describeThresholds(rows: readonly ThresholdRow[]): string {
  let text =
    "Global Dedup Thresh:\tRaw Chunks:\tDedup Chunks:\tComp Content Size:\tComp Base Size:\tComp Image Size:\tUncomp Content Size:\tUncomp Base Size\tUncomp Image Size\n";
  for (const row of rows) {
    if (row.dedup === 0) break;
    const values = [row.raw, row.dedup, row.compContent, row.compBase, row.compImage, row.uncompContent, row.uncompBase, row.uncompImage];
    text += `${String(row.threshold).padEnd(24)}${values.map((value) => `0x${value.toString(16).padEnd(12)}`).join("")}\n`;
  }
  return text;
}

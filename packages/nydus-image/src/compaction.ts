/** Which blobs of an image are kept, dropped, or written anew without what nobody uses, small ones together. Source: spec/nydus-image.md, section 16 */
import type { BlobEntry, StoredChunk } from "@nydus-ts/rafs-format/writer";

export interface CompactionLimits {
  /** percent: blobs of which less is used are written anew */
  minUsedRatio: number;
  /** bytes: smaller blobs are joined */
  compactBlobBytes: number;
  /** bytes of a joined blob */
  maxCompactBytes: number;
}

/** A blob and the chunks of it that are used, each once. */
export interface BlobUse {
  blob: BlobEntry;
  /** stored bytes of all its chunks */
  dataBytes: number;
  chunks: StoredChunk[];
}

/** What becomes of a blob: it stays, goes (its chunks, if it had any, are in another), or is written anew from `chunks`. */
export type Fate = "keep" | "drop" | { readonly chunks: readonly StoredChunk[] };

/** @param log  gets what the original logs about each blob */
export function planCompaction(uses: readonly BlobUse[], limits: CompactionLimits, log: (line: string) => void): Fate[] {
  const plans = uses.map((use) => ({
    use,
    fate: "keep" as "keep" | "drop" | "rebuild",
    chunks: [...use.chunks],
    usedBytes: storedBytes(use.chunks),
  }));
  for (const plan of plans) {
    const { blob, dataBytes } = plan.use;
    if (plan.chunks.length === 0) {
      plan.fate = "drop";
      log(`compactor: delete unused blob ${blob.id}`);
      continue;
    }
    const ratio = dataBytes === 0 ? 100 : Math.floor((100 * plan.usedBytes) / dataBytes);
    log(`compactor: original blob size ${blob.id}, used data ratio ${ratio}%`);
    if (ratio < limits.minUsedRatio) plan.fate = "rebuild";
  }
  const sizeOf = (plan: (typeof plans)[number]) =>
    plan.fate === "keep" && plan.use.blob.compressedSize > 0 ? plan.use.blob.compressedSize : plan.usedBytes;
  const small = plans
    .filter((plan) => plan.fate !== "drop" && sizeOf(plan) < limits.compactBlobBytes)
    .sort((a, b) => sizeOf(a) - sizeOf(b));
  let to = small[0];
  for (const next of small.slice(1)) {
    log(`compactor: try to merge blob ${next.use.blob.id} size ${next.usedBytes}`);
    if (to.usedBytes + next.usedBytes > limits.maxCompactBytes) {
      to = next;
      continue;
    }
    to.fate = "rebuild";
    to.chunks.push(...next.chunks);
    to.usedBytes += next.usedBytes;
    next.fate = "drop";
    log(`compactor: delete compacted blob ${next.use.blob.id}`);
  }
  return plans.map(({ fate, chunks }) => (fate === "rebuild" ? { chunks } : fate));
}

/** Members of batches have no stored size of their own: their data counts instead. */
function storedBytes(chunks: readonly StoredChunk[]): number {
  return chunks.reduce((sum, { compressedSize, uncompressedSize }) => sum + (compressedSize || uncompressedSize), 0);
}

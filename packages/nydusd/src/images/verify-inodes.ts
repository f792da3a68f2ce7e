import type { Bootstrap } from "@nydus-ts/rafs-format";
import { walkSliceMs } from "../limits.ts";

/**
 * Recomputes the digests of all inodes that can be reached, in slices so that readers of other images go on. v6 records none.
 *
 * @throws RafsError RAFS_DIGEST, and what else the walk meets
 * Source: spec/rafs.md 3.8
 */
export async function verifyInodes(bootstrap: Bootstrap): Promise<void> {
  if (bootstrap.verifyDigest === undefined) return;
  const seen = new Set<number>();
  let sliceEnd = performance.now() + walkSliceMs;
  for (const { nid } of bootstrap.walk()) {
    if (seen.has(nid)) continue;
    seen.add(nid);
    bootstrap.verifyDigest(nid);
    if (performance.now() < sliceEnd) continue;
    await new Promise(setImmediate);
    sliceEnd = performance.now() + walkSliceMs;
  }
}

import { SnapshotterError } from "../errors.ts";
import type { Snapshot } from "../store/snapshots.ts";

/** How the content below a snapshot is served. */
export type ServePlan =
  | { readonly mode: "overlay"; readonly lowers: readonly Snapshot[] }
  /** `above`: ordinary layers stacked on the nydus image, the top one first. What lies below the bootstrap is inside the instance. */
  | { readonly mode: "lazy"; readonly bootstrap: Snapshot; readonly above: readonly Snapshot[] };

/**
 * Decides how a chain of parents (the direct parent first) is served.
 * @throws SnapshotterError SNAPSHOT_STATE: a nydus data blob without its bootstrap above has no content to show
 */
export function planServe(parents: readonly Snapshot[]): ServePlan {
  const index = parents.findIndex((parent) => parent.layer !== "ordinary");
  if (index === -1) return { mode: "overlay", lowers: parents };
  const found = parents[index];
  if (found.layer === "nydus-blob")
    throw new SnapshotterError(
      "SNAPSHOT_STATE",
      `snapshot ${found.key} is a nydus data blob without its bootstrap layer: only the topmost layer of a nydus image can be used; pull the image again`,
    );
  return { mode: "lazy", bootstrap: found, above: parents.slice(0, index) };
}

import { LABELS, type Labels } from "./labels.ts";

/**
 * What a layer is. Everything else in this program follows from this value.
 * - `nydus-blob`: data of a RAFS image; never unpacked, chunks are fetched when read
 * - `nydus-bootstrap`: the metadata layer on top; containerd unpacks it, the instance is mounted from it
 * - `ordinary`: a tar that containerd unpacks, exactly as with the overlayfs snapshotter; also a container's own snapshot
 */
export type LayerKind = "ordinary" | "nydus-blob" | "nydus-bootstrap";

/** The presence of a key counts, its value does not (spec/snapshotter.md 6.1). */
export function layerKindOf(labels: Labels): LayerKind {
  if (LABELS.nydusBootstrap in labels) return "nydus-bootstrap";
  if (LABELS.nydusBlob in labels) return "nydus-blob";
  return "ordinary";
}

/** Why a layer is served the way it is, for the log and for `nydusctl explain`: the answer to "is my image lazy at all?". */
export function reasonOf(kind: LayerKind, labels: Labels): string {
  if (kind === "nydus-blob") return "nydus data blob: chunks are fetched when they are read";
  if (kind === "nydus-bootstrap") return "nydus metadata layer: unpacked, the image is mounted from it";
  if (LABELS.stargzToc in labels) return "eStargz layer: this version unpacks it like any other tar";
  if (LABELS.overlaybd in labels) return "overlaybd layer: this version unpacks it like any other tar";
  return "the layer carries no nydus annotation: unpacked";
}

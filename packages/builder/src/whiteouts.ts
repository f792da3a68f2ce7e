/** How layers say that a name of a lower layer is gone. Source: spec/nydus-image.md, section 11.1 */
import type { TreeNode } from "@nydus-ts/rafs-format/writer";

export type WhiteoutSpec = "oci" | "overlayfs" | "none";

export type Whiteout =
  | { kind: "remove"; name: string }
  /** nothing of the directory that holds it is taken from lower layers */
  | { kind: "opaque-parent" }
  /** nothing of this very directory is taken from lower layers */
  | { kind: "opaque" };

const ociPrefix = ".wh.";
const ociOpaque = ".wh..wh..opq";
export const overlayOpaqueXattr = "trusted.overlay.opaque";

/** What `node` takes away, or undefined if it is an ordinary file. */
export function whiteoutOf(node: TreeNode, spec: WhiteoutSpec): Whiteout | undefined {
  if (spec === "oci") {
    if (node.name === ociOpaque) return { kind: "opaque-parent" };
    if (node.name.startsWith(ociPrefix) && node.name.length > ociPrefix.length) {
      return { kind: "remove", name: node.name.slice(ociPrefix.length) };
    }
  }
  if (spec === "overlayfs") {
    if (node.isDevice && node.rdev === 0) return { kind: "remove", name: node.name };
    if (node.isDirectory && node.xattrs?.get(overlayOpaqueXattr)?.toString() === "y") return { kind: "opaque" };
  }
  return undefined;
}

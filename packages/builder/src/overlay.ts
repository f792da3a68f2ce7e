/** Putting one layer's tree on another's. Source: spec/nydus-image.md, section 11.2 */
import { TreeNode } from "@nydus-ts/rafs-format/writer";
import { overlayOpaqueXattr, type WhiteoutSpec, whiteoutOf } from "./whiteouts.ts";

/**
 * The union of `lower` and `upper`, which are both used up. Whiteouts act on `lower` and vanish, also where there is nothing to take away.
 * A directory that the upper layer only implies keeps what the lower layer says about it, as it does in a container's overlay mount.
 */
export function overlay(lower: TreeNode | undefined, upper: TreeNode, spec: WhiteoutSpec): TreeNode {
  const result = lower?.isDirectory && upper.implicit ? lower : upper;
  const below = lower?.children ?? new Map<string, TreeNode>();
  const above = [...upper.children!.values()];
  const kept: TreeNode[] = [];
  for (const node of above) {
    const whiteout = whiteoutOf(node, spec);
    if (whiteout?.kind === "remove") below.delete(whiteout.name);
    else if (whiteout?.kind === "opaque-parent") below.clear();
    else kept.push(node);
    if (whiteout?.kind === "opaque") {
      below.get(node.name)?.children?.clear();
      node.xattrs!.delete(overlayOpaqueXattr);
      if (node.xattrs!.size === 0) node.xattrs = undefined;
    }
  }
  const union = new Map(below);
  for (const node of kept) union.set(node.name, node.isDirectory ? overlay(below.get(node.name), node, spec) : node);
  result.children!.clear();
  for (const [name, node] of union) result.children!.set(name, node);
  return result;
}

/** A copy of a tree that can be used up while the first stays. Chunks and hardlink identities are shared. */
export function cloneTree(node: TreeNode): TreeNode {
  const copy = new TreeNode(node.name, node);
  copy.target = node.target;
  copy.xattrs = node.xattrs && new Map(node.xattrs);
  copy.chunks = node.chunks;
  copy.link = node.link;
  copy.isNamedHardlink = node.isNamedHardlink;
  copy.implicit = node.implicit;
  for (const child of node.children?.values() ?? []) copy.children!.set(child.name, cloneTree(child));
  return copy;
}

/** Which files come first in the blob, and which nodes the prefetch table names. Source: spec/nydus-image.md, section 10 */
import type { TreeNode } from "@nydus-ts/rafs-format/writer";

export type PrefetchPolicy = "fs" | "blob" | "none";

export interface PrefetchPatterns {
  /** absolute paths, one byte per code unit, in the order they were given */
  paths: string[];
  warnings: string[];
}

/** Reads a list of paths, one a line. What can not be used is left out and told in `warnings`. */
export function parsePrefetchPatterns(text: string): PrefetchPatterns {
  const paths: string[] = [];
  const warnings: string[] = [];
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  for (const raw of lines) {
    const line = raw.trim();
    const path = line === "/" ? "/" : line.replace(/\/+$/, "");
    if (!line.startsWith("/")) {
      warnings.push(`Illegal file path ${JSON.stringify(line)} specified, should be absolute path`);
    } else if (paths.some((known) => path === known || known === "/" || path.startsWith(`${known}/`))) {
      warnings.push(`prefetch pattern ${JSON.stringify(line)} is covered by previous pattern and thus omitted`);
    } else {
      paths.push(path);
    }
  }
  return { paths: paths.map((path) => Buffer.from(path).toString("latin1")), warnings };
}

export interface PrefetchMatch {
  /** files under a pattern, ordered by pattern, then by number */
  files: Set<TreeNode>;
  /** the nodes that the patterns name exactly, in order of the patterns */
  exact: TreeNode[];
}

/** Matches every node of the tree, which must be numbered. */
export function matchPrefetch(root: TreeNode, order: readonly TreeNode[], patterns: readonly string[]): PrefetchMatch {
  if (patterns.length === 0) return { files: new Set(), exact: [] };
  const index = new Map(patterns.map((path, i) => [path, i]));
  const exact = new Map<number, TreeNode>();
  const pattern = new Map<TreeNode, number>();
  const pending: Array<{ node: TreeNode; path: string; inherited: number | undefined }> = [{ node: root, path: "/", inherited: undefined }];
  for (let next = pending.pop(); next; next = pending.pop()) {
    const own = index.get(next.path);
    const matched = own ?? next.inherited;
    const isEmptyFile = next.node.isRegular && next.node.size === 0;
    if (own !== undefined && !isEmptyFile) exact.set(own, next.node);
    if (matched !== undefined && next.node.isRegular && !isEmptyFile) pattern.set(next.node, matched);
    for (const child of next.node.children?.values() ?? []) {
      pending.push({ node: child, path: next.path === "/" ? `/${child.name}` : `${next.path}/${child.name}`, inherited: matched });
    }
  }
  const files = order.filter((node) => pattern.has(node)).sort((a, b) => pattern.get(a)! - pattern.get(b)!);
  return { files: new Set(files), exact: [...exact.keys()].sort((a, b) => a - b).map((i) => exact.get(i)!) };
}

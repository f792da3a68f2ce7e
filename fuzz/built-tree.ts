import { checkBootstrap, openBootstrap } from "@nydus-ts/rafs-format";
import { type BlobEntry, numberTree, type TreeNode, writeBootstrap, writeBootstrapV5 } from "@nydus-ts/rafs-format/writer";

/** What the builder made of hostile input, our reader accepts, as version 5 and as version 6 (tarfs: as that), and no name leads out of the tree. */
export function checkBuilt(root: TreeNode, blobs: readonly BlobEntry[], chunkSize: number, isTarfs = false): void {
  checkNames(root);
  const nodeCount = numberTree(root).length;
  const options = {
    root,
    nodeCount,
    blobs,
    chunkSize,
    compressor: 0,
    digester: 1,
    cipher: 0,
    explicitUidGid: true,
    hasXattr: true,
    prefetch: [],
  };
  const written = isTarfs ? [writeBootstrap({ ...options, isTarfs })] : [writeBootstrap(options), writeBootstrapV5(options)];
  for (const bytes of written) {
    try {
      checkBootstrap(openBootstrap(bytes));
    } catch (cause) {
      // Not the error of a package: the input should have been refused, or written otherwise.
      throw new Error("the bootstrap of an accepted input is refused", { cause });
    }
  }
}

function checkNames(node: TreeNode): void {
  for (const [name, child] of node.children ?? []) {
    if (name === "" || name === "." || name === ".." || name.includes("/") || name.includes("\0"))
      throw new Error(`name ${JSON.stringify(name)}`);
    if (child.children !== undefined) checkNames(child);
  }
}

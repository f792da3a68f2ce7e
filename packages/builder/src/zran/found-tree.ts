import type { TreeNode } from "@nydus-ts/rafs-format/writer";
import { roomForChunks } from "../sources/chunk-sink.ts";
import { TarTreeBuilder, type TarTree } from "../sources/tar.ts";
import type { FoundMember } from "./index-messages.ts";
import type { IndexThreads } from "./index-threads.ts";
import type { RefBlobWriter } from "./ref-writer.ts";

/** As `readTarTree` with the layer's own reader, which is in a thread here. @throws what `IndexThreads.read` and the tree throw */
export async function readLayerInThread(
  threads: IndexThreads,
  layer: AsyncIterable<Uint8Array>,
  writer: RefBlobWriter,
  options: { explicitUidGid: boolean; chunkSize: number },
): Promise<TarTree> {
  const tree = new TarTreeBuilder(options);
  let node: TreeNode | undefined;
  let chunkCount = 0;
  const take = ({ member, chunks }: FoundMember): void => {
    if (member) {
      node = tree.add(member);
      chunkCount = 0;
      if (node && member.kind === "file") roomForChunks(node, options.chunkSize);
    }
    for (const chunk of chunks) if (node) node.chunks[chunkCount++] = writer.addFound(chunk);
  };
  const found = await threads.read(layer, options.chunkSize, {
    members: (members) => members.forEach(take),
    dictionary: (dictionary) => writer.addDictionary(dictionary),
  });
  writer.endFound(found);
  return { root: tree.root, entryCount: tree.entryCount };
}

/** Layers and archives read without building an image of them. */
import type { TreeNode } from "@nydus-ts/rafs-format/writer";
import { chunkSizeDefault } from "./limits.ts";
import { overlay } from "./overlay.ts";
import { ByteStream } from "./sources/byte-stream.ts";
import type { ChunkSink } from "./sources/chunk-sink.ts";
import { decompressLayer } from "./sources/decompress.ts";
import { readTarTree } from "./sources/tar.ts";
import { readTar, type TarMember } from "./sources/tar-reader.ts";

/** Members of a tar (plain, gzip, zstd), in order. Data that is not read is skipped. @throws BuilderError BUILD_TAR */
export function readArchive(stream: AsyncIterable<Uint8Array>): AsyncGenerator<TarMember, void, undefined> {
  return readTar(new ByteStream(decompressLayer(stream)));
}

/** The tree of one layer, whiteouts as they stand; file data go to `sink` in pieces of 1 MiB. @throws BuilderError */
export async function readLayerTree(stream: AsyncIterable<Uint8Array>, sink: ChunkSink): Promise<TreeNode> {
  const input = new ByteStream(decompressLayer(stream));
  return (await readTarTree({ input, explicitUidGid: true, chunkSize: chunkSizeDefault }, sink)).root;
}

/** What a container sees of these layers, lowest first; they are used up. */
export function applyLayers(layers: readonly TreeNode[]): TreeNode | undefined {
  return layers.reduce<TreeNode | undefined>((lower, upper) => overlay(lower, upper, "oci"), undefined);
}

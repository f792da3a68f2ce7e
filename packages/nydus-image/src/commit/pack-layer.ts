/** A tar of what a container wrote becomes a blob that fits to the image it was started from. */
import { type CompressPool, createImage, loadChunks, newBlobKey, type TreeNode, withoutInlinedBootstrap } from "@nydus-ts/builder";
import { digesters, hasFeature, superFlags } from "@nydus-ts/rafs-format";
import type { LayerFile } from "../layer-file.ts";
import { blobCompressorOf } from "../rewrite-image.ts";

export interface PackedLayer {
  id: string;
  path: string;
  size: number;
  root: TreeNode;
  /** what its cache file `<id>.blob.meta` holds */
  metaFile: Buffer | undefined;
}

/** Version, chunk size, digester, compressor and encryption are those of the image; chunks that it has are not stored again. */
export async function packLayer(
  stream: AsyncIterable<Uint8Array>,
  base: LayerFile,
  { directory, pool }: { directory: string; pool: CompressPool },
): Promise<PackedLayer> {
  const { bootstrap, image, traits } = base;
  const isEncrypted = (bootstrap.flags & superFlags.encryptionAes128Xts) !== 0n;
  // Chunks of layers that stay as they are can not be named from within another blob.
  const sharesChunks = !bootstrap.blobs.some((blob) => hasFeature(blob, "separate"));
  const built = await createImage({
    source: { kind: "tar", stream },
    blob: { directory },
    bootstrap: undefined,
    blobId: "",
    blobOffset: 0,
    compressor: blobCompressorOf(bootstrap),
    digester: traits.digester,
    chunkSize: traits.chunkSize,
    chunkInfoVersion: 1,
    toc: traits.version === 6,
    explicitUidGid: traits.explicitUidGid,
    ...(traits.version === 5 ? { version5: { alignedChunks: false } } : {}),
    ...(isEncrypted ? { key: newBlobKey() } : {}),
    prefetch: { policy: "none", patterns: [] },
    ...(sharesChunks ? { dictionary: { chunks: loadChunks(bootstrap, image.blobs, digesters.indexOf(traits.digester)) } } : {}),
    pool,
  });
  const { id, path, size } = built.blob!;
  const own = built.blobs.find((each) => !image.blobs.includes(each));
  if (own) Object.assign(own, withoutInlinedBootstrap(own));
  return { id, path, size, root: built.root, metaFile: built.metaFile };
}

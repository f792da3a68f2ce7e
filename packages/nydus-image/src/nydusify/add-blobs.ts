/** An image that keeps its data in a folder or a bucket becomes one that has them in its repository. Source: spec/nydusify.md, section 8 */
import { metaBlobId } from "@nydus-ts/rafs-format";
import type { Descriptor, ImageSource, ImageTarget } from "@nydus-ts/registry-client";
import { storedBlobId } from "../bootstrap-file.ts";
import { annotations, diffIdsOf, rewriteConfig } from "../convert/manifest.ts";
import type { SelectedImage } from "../convert/select.ts";
import { readBootstrapLayer, readConfig } from "./image.ts";
import { type StoredBlobs, storedBlob } from "../stored-blobs.ts";
import { writeBlobFile, writeBytes } from "./new-image.ts";

/** Annotation of old tools, which named the blobs that a layer stood for. */
const blobIdsAnnotation = "containerd.io/snapshot/nydus-blob-ids";

/**
 * Sends the blobs that the image's bootstrap names and its manifest does not, and writes the manifest that lists them.
 * @returns undefined if the manifest lists all of them: the image is to be copied as it is
 * @throws NydusImageError IMAGE_SOURCE: a blob is not there
 */
export async function addStoredBlobs(
  image: SelectedImage,
  place: { stored: StoredBlobs; source: ImageSource; target: ImageTarget },
  options: { signal: AbortSignal; pieceBytes?: number; tagged: boolean },
): Promise<Descriptor | undefined> {
  const { source, target, stored } = place;
  const { signal, tagged } = options;
  const { bootstrap } = await readBootstrapLayer(source, image, signal);
  const { manifest } = image;
  const listed = new Set(manifest.layers.flatMap(({ digest, annotations: notes }) => [digest, notes?.[annotations.reference] ?? digest]));
  const ids = bootstrap.bootstrap.blobs.flatMap((blob) => [storedBlobId(bootstrap, blob), metaBlobId(blob, bootstrap.path)]);
  const missing = [...new Set(ids)].filter((id) => !listed.has(`sha256:${id}`));
  if (missing.length === 0) return undefined;
  const added: Descriptor[] = [];
  for (const id of missing) added.push(await writeBlobFile(target, await storedBlob(id, stored, source.name, signal), options));
  const config = await readConfig(source, image, signal);
  const diffIds = [...added.map(({ digest }) => digest), ...diffIdsOf(config)];
  const layers = [...added, ...manifest.layers].map((layer) => {
    const { [blobIdsAnnotation]: _, ...kept } = layer.annotations ?? {};
    return { ...layer, annotations: kept };
  });
  // An equal conversion must not take this image for its own result.
  const { [annotations.options]: _, ...kept } = manifest.annotations ?? {};
  const value = {
    ...manifest,
    config: await writeBytes(
      target,
      manifest.config.mediaType,
      rewriteConfig(config, diffIds, (lines) => lines),
      signal,
    ),
    layers,
    annotations: kept,
  };
  const written = await target.writeManifest(Buffer.from(JSON.stringify(value)), image.descriptor.mediaType, tagged);
  return { ...image.descriptor, ...written };
}

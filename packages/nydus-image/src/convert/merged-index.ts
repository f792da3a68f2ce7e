/** The OCI half of a merged index: the source's manifest with an empty layer in front. Source: spec/images.md, section 4.1 */
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { type Descriptor, MEDIA_TYPES } from "@nydus-ts/registry-client";
import { annotations, diffIdsOf, emptyLayerHistory, nydusMediaTypes, rewriteConfig } from "./manifest.ts";

const emptyTar = Buffer.alloc(1024);
const sha256 = (bytes: Uint8Array): string => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

export interface OciHalf {
  /** content that must be written first */
  config: { descriptor: Descriptor; bytes: Buffer };
  emptyLayer: { descriptor: Descriptor; bytes: Buffer };
  manifest: { mediaType: string; bytes: Buffer };
}

/**
 * A node that has unpacked the plain image would take its layers for those of the nydus image if the chain IDs were equal; the empty layer
 * makes them differ.
 *
 * @param manifest  the source's bytes: members that this program does not know are kept
 */
export function makeOciHalf(source: Descriptor, manifest: Uint8Array, config: Uint8Array): OciHalf {
  const value = JSON.parse(Buffer.from(manifest).toString()) as {
    mediaType?: string;
    config: Descriptor;
    layers: Descriptor[];
    annotations?: Record<string, string>;
  };
  const isDocker = (value.mediaType ?? source.mediaType) === MEDIA_TYPES.dockerManifest;
  const layer = gzipSync(emptyTar);
  const emptyLayer: Descriptor = {
    mediaType: isDocker ? "application/vnd.docker.image.rootfs.diff.tar.gzip" : nydusMediaTypes.bootstrap,
    digest: sha256(layer),
    size: layer.length,
    annotations: { [annotations.emptyLayer]: "true" },
  };
  const newConfig = rewriteConfig(config, [sha256(emptyTar), ...diffIdsOf(config)], emptyLayerHistory);
  const configDescriptor = { ...value.config, digest: sha256(newConfig), size: newConfig.length };
  const bytes = Buffer.from(
    JSON.stringify({
      ...value,
      config: configDescriptor,
      layers: [emptyLayer, ...value.layers],
      annotations: { ...value.annotations, [annotations.sourceDigest]: source.digest },
    }),
  );
  return {
    config: { descriptor: configDescriptor, bytes: newConfig },
    emptyLayer: { descriptor: emptyLayer, bytes: layer },
    manifest: { mediaType: isDocker ? MEDIA_TYPES.dockerManifest : MEDIA_TYPES.ociManifest, bytes },
  };
}

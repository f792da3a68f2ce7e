/** Config and manifest of a nydus image, made from those of its source. Source: spec/images.md, sections 1 and 2 */
import type { Descriptor, ImageManifest } from "@nydus-ts/registry-client";
import { MEDIA_TYPES } from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";

export const nydusMediaTypes = {
  blob: "application/vnd.oci.image.layer.nydus.blob.v1",
  bootstrap: "application/vnd.oci.image.layer.v1.tar+gzip",
} as const;

const prefix = "containerd.io/snapshot/";
export const annotations = {
  blob: `${prefix}nydus-blob`,
  bootstrap: `${prefix}nydus-bootstrap`,
  fsVersion: `${prefix}nydus-fs-version`,
  sourceDigest: `${prefix}nydus-source-digest`,
  sourceReference: `${prefix}nydus-source-reference`,
  builderVersion: `${prefix}nydus-builder-version`,
} as const;

/** Whether the image is a nydus image already: only the last layer says so. */
export function isNydusManifest(manifest: ImageManifest): boolean {
  return manifest.layers.at(-1)?.annotations?.[annotations.bootstrap] !== undefined;
}

export function blobLayer(blob: { id: string; size: number }): Descriptor {
  return { mediaType: nydusMediaTypes.blob, digest: `sha256:${blob.id}`, size: blob.size, annotations: { [annotations.blob]: "true" } };
}

export function bootstrapLayer(digest: string, size: number): Descriptor {
  return {
    mediaType: nydusMediaTypes.bootstrap,
    digest,
    size,
    annotations: { [annotations.bootstrap]: "true", [annotations.fsVersion]: "6" },
  };
}

/**
 * The source's config with the diff IDs of the new layers. What it does not know stays as it was.
 * @throws NydusImageError IMAGE_SOURCE
 */
export function rewriteConfig(source: Uint8Array, diffIds: readonly string[]): Buffer {
  const config = parseObject(source);
  config["rootfs"] = { ...asObject(config["rootfs"]), type: "layers", diff_ids: diffIds };
  const history = Array.isArray(config["history"]) ? config["history"] : [];
  config["history"] = [...history, { created_by: "Nydus Converter", comment: "Nydus Bootstrap Layer" }];
  // Docker's dummy members name images that no longer are; they go with the old layers.
  const inner = asObject(config["config"]);
  if ("Image" in inner) {
    const { Image: _, ...rest } = inner;
    config["config"] = rest;
  }
  const container = asObject(config["container_config"]);
  if ("Image" in container) {
    const { Image: _, ...rest } = container;
    config["container_config"] = rest;
  }
  return Buffer.from(JSON.stringify(config));
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString());
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw new NydusImageError("IMAGE_SOURCE", "the image's config is not JSON", { cause });
  }
  throw new NydusImageError("IMAGE_SOURCE", "the image's config is not a JSON object");
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

export interface ManifestParts {
  config: { digest: string; size: number };
  layers: readonly Descriptor[];
  /** `reference`: of a registry; the path of a folder says nothing to others */
  source: { manifest: ImageManifest; digest: string; reference: string | undefined };
  builderVersion: string;
}

/** Always an OCI manifest: Docker's has no annotations by its own rules, and the run time needs them. */
export function writeManifest(parts: ManifestParts): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      config: { mediaType: MEDIA_TYPES.ociConfig, digest: parts.config.digest, size: parts.config.size },
      layers: parts.layers,
      annotations: {
        ...parts.source.manifest.annotations,
        [annotations.sourceDigest]: parts.source.digest,
        ...(parts.source.reference === undefined ? {} : { [annotations.sourceReference]: parts.source.reference }),
        [annotations.fsVersion]: "6",
        [annotations.builderVersion]: parts.builderVersion,
      },
    }),
  );
}

export function writeIndex(manifests: readonly Descriptor[], sourceAnnotations: Readonly<Record<string, string>> | undefined): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests,
      ...(sourceAnnotations ? { annotations: sourceAnnotations } : {}),
    }),
  );
}

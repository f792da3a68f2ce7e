/** Config and manifest of a nydus image, made from those of its source. Source: spec/images.md, sections 1 and 2 */
import type { Descriptor, ImageManifest, Platform } from "@nydus-ts/registry-client";
import { MEDIA_TYPES } from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";

export const nydusMediaTypes = {
  blob: "application/vnd.oci.image.layer.nydus.blob.v1",
  bootstrap: "application/vnd.oci.image.layer.v1.tar+gzip",
  /** artifact type of a nydus manifest beside others: in an index, and among the referrers of its source */
  manifest: "application/vnd.nydus.image.manifest.v1+json",
  /** config type of a nydus manifest in a merged index, one that clients without nydus do not take for a runnable image */
  config: "application/vnd.nydus.image.config.v1+json",
} as const;

const prefix = "containerd.io/snapshot/";
export const annotations = {
  blob: `${prefix}nydus-blob`,
  bootstrap: `${prefix}nydus-bootstrap`,
  fsVersion: `${prefix}nydus-fs-version`,
  /** on a blob layer without data: the layer of the source that holds them */
  reference: `${prefix}nydus-ref`,
  emptyLayer: `${prefix}nydus-empty-layer`,
  sourceDigest: `${prefix}nydus-source-digest`,
  sourceReference: `${prefix}nydus-source-reference`,
  builderVersion: `${prefix}nydus-builder-version`,
  cacheVersion: `${prefix}nydus-cache-version`,
  uncompressed: "containerd.io/uncompressed",
  /** on the bootstrap layer of a committed image: digests of the blobs that commits added */
  commitBlobs: `${prefix}nydus-commit-blobs`,
  /** on the bootstrap layer of an optimised image: id of the blob with the data of the listed files */
  prefetchBlob: `${prefix}nydus-separated-blob-with-prefetch-files`,
  /** our own, on a blob layer that is no layer of the image: "dictionary" or "prefetch" */
  role: "nydus-ts.role",
  /** our own: digest of the conversion's options, by which an equal conversion knows its result again */
  options: "nydus-ts.convert-options",
} as const;

/** Whether the image is a nydus image already: only the last layer says so. */
export function isNydusManifest(manifest: ImageManifest): boolean {
  return manifest.layers.at(-1)?.annotations?.[annotations.bootstrap] !== undefined;
}

/** Whether an entry of an index is the nydus half of a merged one, in the present form or the old. Source: spec/images.md, section 4 */
export function isNydusEntry(entry: Descriptor): boolean {
  return entry.artifactType === nydusMediaTypes.manifest || (entry.platform?.["os.features"]?.includes("nydus.remoteimage.v1") ?? false);
}

/** Annotations of a nydus manifest that its OCI image keeps. */
export function ociAnnotations(manifest: ImageManifest): Record<string, string> {
  const ours: ReadonlySet<string> = new Set(Object.values(annotations));
  return Object.fromEntries(Object.entries(manifest.annotations ?? {}).filter(([key]) => !ours.has(key)));
}

export function blobLayer(blob: { id: string; size: number; reference: string | undefined }): Descriptor {
  const { id, size, reference } = blob;
  return {
    mediaType: nydusMediaTypes.blob,
    digest: `sha256:${id}`,
    size,
    annotations: { [annotations.blob]: "true", ...(reference === undefined ? {} : { [annotations.reference]: reference }) },
  };
}

export function bootstrapLayer(digest: string, size: number, fsVersion: 5 | 6): Descriptor {
  return {
    mediaType: nydusMediaTypes.bootstrap,
    digest,
    size,
    annotations: { [annotations.bootstrap]: "true", [annotations.fsVersion]: String(fsVersion) },
  };
}

const converterName = "Nydus Converter";
const bootstrapEntry = { created_by: converterName, comment: "Nydus Bootstrap Layer" } as const;
const emptyEntry = { created_by: converterName, comment: "Nydus Empty Layer" } as const;

/** Whether a line of an image's history was added by a conversion. */
export function isConverterHistory(entry: unknown): boolean {
  const { created_by, comment } = asObject(entry);
  return created_by === converterName && (comment === bootstrapEntry.comment || comment === emptyEntry.comment);
}

/**
 * The source's config with the diff IDs of the new layers. `history`: what becomes of the source's lines.
 * @throws NydusImageError IMAGE_SOURCE
 */
export function rewriteConfig(
  source: Uint8Array,
  diffIds: readonly string[],
  history: (lines: readonly unknown[]) => readonly unknown[],
): Buffer {
  const config = parseObject(source);
  config["rootfs"] = { ...asObject(config["rootfs"]), type: "layers", diff_ids: diffIds };
  config["history"] = history(Array.isArray(config["history"]) ? config["history"] : []);
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

/** The history of a nydus image: a blob a layer, then the bootstrap; the bootstrap alone if the blobs are kept elsewhere. */
export const nydusHistory = (blobsElsewhere: boolean) => (lines: readonly unknown[]) =>
  blobsElsewhere ? [bootstrapEntry] : [...lines, bootstrapEntry];
/** The history of an image with an empty layer in front. */
export const emptyLayerHistory = (lines: readonly unknown[]) => [emptyEntry, ...lines];

/** Diff IDs of a config. @throws NydusImageError IMAGE_SOURCE */
export function diffIdsOf(config: Uint8Array): string[] {
  const ids = asObject(parseObject(config)["rootfs"])["diff_ids"];
  if (!Array.isArray(ids)) return [];
  if (!ids.every((id) => typeof id === "string"))
    throw new NydusImageError("IMAGE_SOURCE", "the image's config has a diff ID that is no text");
  return ids;
}

/** Platform of the image as its config names it. @throws NydusImageError IMAGE_SOURCE */
export function platformOf(config: Uint8Array): Platform {
  const { os, architecture, variant } = parseObject(config);
  if (typeof os !== "string" || typeof architecture !== "string")
    throw new NydusImageError("IMAGE_SOURCE", "the image's config names no os and architecture");
  return { os, architecture, ...(typeof variant === "string" && variant !== "" ? { variant } : {}) };
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
  config: Descriptor;
  layers: readonly Descriptor[];
  /** `reference`: of a registry; the path of a folder says nothing to others */
  source: { manifest: ImageManifest; digest: string; reference: string | undefined };
  /** the manifest that this one stands beside, for registries that list referrers */
  subject: Descriptor | undefined;
  fsVersion: 5 | 6;
  builderVersion: string;
  /** stands for all options that the result depends on */
  options: string;
}

/** Always an OCI manifest: Docker's has no annotations by its own rules, and the run time needs them. */
export function writeManifest(parts: ManifestParts): Buffer {
  const { config, subject, source } = parts;
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      ...(subject ? { artifactType: nydusMediaTypes.manifest } : {}),
      config: { mediaType: config.mediaType, digest: config.digest, size: config.size },
      layers: parts.layers,
      // Some registries refuse a subject with a platform.
      ...(subject ? { subject: { mediaType: subject.mediaType, digest: subject.digest, size: subject.size } } : {}),
      annotations: {
        ...source.manifest.annotations,
        [annotations.sourceDigest]: source.digest,
        ...(source.reference === undefined ? {} : { [annotations.sourceReference]: source.reference }),
        [annotations.fsVersion]: String(parts.fsVersion),
        [annotations.builderVersion]: parts.builderVersion,
        [annotations.options]: parts.options,
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

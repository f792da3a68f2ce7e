import { z } from "zod";
import { RegistryError } from "./errors.ts";

export const MEDIA_TYPES = {
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  dockerIndex: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
} as const;

export const MANIFEST_ACCEPT = [
  MEDIA_TYPES.ociIndex,
  MEDIA_TYPES.ociManifest,
  MEDIA_TYPES.dockerIndex,
  MEDIA_TYPES.dockerManifest,
  "*/*;q=0.1",
];

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string | undefined;
  readonly "os.version"?: string | undefined;
  readonly "os.features"?: readonly string[] | undefined;
}

/** OCI descriptor: what a piece of content is, its digest, its size in bytes. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly platform?: Platform | undefined;
  readonly artifactType?: string | undefined;
  readonly urls?: readonly string[] | undefined;
}

const platform = z.looseObject({
  os: z.string().default(""),
  architecture: z.string().default(""),
  variant: z.string().optional(),
  "os.version": z.string().optional(),
  "os.features": z.array(z.string()).optional(),
});
const descriptor = z.looseObject({
  mediaType: z.string().default(""),
  digest: z.string().regex(/^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/),
  size: z.number().int().nonnegative(),
  annotations: z
    .record(z.string(), z.string())
    .nullish()
    .transform((value) => value ?? undefined),
  platform: platform.nullish().transform((value) => value ?? undefined),
  artifactType: z.string().optional(),
  urls: z
    .array(z.string())
    .nullish()
    .transform((value) => value ?? undefined),
});
const index = z.looseObject({ mediaType: z.string().optional(), manifests: z.array(descriptor) });
const manifest = z.looseObject({
  mediaType: z.string().optional(),
  config: descriptor,
  layers: z.array(descriptor),
  annotations: z
    .record(z.string(), z.string())
    .nullish()
    .transform((value) => value ?? undefined),
  subject: descriptor.nullish().transform((value) => value ?? undefined),
});

export interface ImageIndex {
  readonly mediaType?: string | undefined;
  readonly manifests: readonly Descriptor[];
}
export interface ImageManifest {
  readonly mediaType?: string | undefined;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly subject?: Descriptor | undefined;
}

/**
 * Reads an image manifest or an index. Members this package does not know stay in the returned objects.
 *
 * @throws RegistryError REGISTRY_PROTOCOL
 */
export function parseManifest(bytes: Uint8Array): { kind: "index"; value: ImageIndex } | { kind: "manifest"; value: ImageManifest } {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new RegistryError("REGISTRY_PROTOCOL", "a manifest is not JSON", { cause });
  }
  const asIndex = index.safeParse(json);
  if (asIndex.success) return { kind: "index", value: asIndex.data as ImageIndex };
  const asManifest = manifest.safeParse(json);
  if (asManifest.success) return { kind: "manifest", value: asManifest.data as ImageManifest };
  const shape = json as { manifests?: unknown; schemaVersion?: unknown };
  if (shape?.schemaVersion === 1) {
    throw new RegistryError("REGISTRY_PROTOCOL", "the image has a schema 1 manifest", { hint: "push it again with a current tool" });
  }
  const issue = (shape?.manifests === undefined ? asManifest.error : asIndex.error).issues[0];
  throw new RegistryError("REGISTRY_PROTOCOL", `a manifest is malformed at ${issue?.path.join(".") || "its top level"}: ${issue?.message}`);
}

export function isIndexType(mediaType: string): boolean {
  return mediaType === MEDIA_TYPES.ociIndex || mediaType === MEDIA_TYPES.dockerIndex;
}

/** `linux/arm64/v8` of this machine, in OCI's words. */
export function currentPlatform(): Platform {
  const architectures: Record<string, string> = {
    x64: "amd64",
    ia32: "386",
    arm64: "arm64",
    arm: "arm",
    riscv64: "riscv64",
    s390x: "s390x",
    ppc64: "ppc64le",
  };
  const architecture = architectures[process.arch] ?? process.arch;
  return { os: "linux", architecture, ...(architecture === "arm" ? { variant: "v7" } : {}) };
}

/** `os/architecture[/variant]` or `os` alone is not enough; @throws RegistryError REGISTRY_REFERENCE */
export function parsePlatform(text: string): Platform {
  const [os, architecture, variant, more] = text.split("/");
  if (!os || !architecture || more !== undefined) {
    throw new RegistryError("REGISTRY_REFERENCE", `${JSON.stringify(text)} is not a platform`, {
      hint: "expected OS/ARCHITECTURE[/VARIANT], such as linux/amd64",
    });
  }
  const names: Record<string, string> = { x86_64: "amd64", aarch64: "arm64" };
  return { os, architecture: names[architecture] ?? architecture, ...(variant ? { variant } : {}) };
}

/** Whether an index entry serves the wanted platform; a variant counts only if both name one (arm64's v8 is implied). */
export function platformMatches(entry: Platform | undefined, wanted: Platform): boolean {
  if (entry === undefined || entry.os !== wanted.os || entry.architecture !== wanted.architecture) return false;
  const variant = (platform: Platform): string | undefined => platform.variant ?? (platform.architecture === "arm64" ? "v8" : undefined);
  const [have, want] = [variant(entry), variant(wanted)];
  return have === undefined || want === undefined || have === want;
}

/**
 * The first entry of an index for a platform. Attestations (`unknown/unknown`) never match.
 *
 * @throws RegistryError REGISTRY_NOT_FOUND with the platforms there are
 */
export function selectPlatform(entries: readonly Descriptor[], wanted: Platform): Descriptor {
  const found = entries.find((entry) => platformMatches(entry.platform, wanted));
  if (found !== undefined) return found;
  const there = entries.map((entry) => (entry.platform === undefined ? "?" : formatPlatform(entry.platform)));
  throw new RegistryError("REGISTRY_NOT_FOUND", `the image has no manifest for ${formatPlatform(wanted)}`, {
    hint: `it has ${[...new Set(there)].slice(0, 20).join(", ") || "none at all"}`,
  });
}

export function formatPlatform(platform: Platform): string {
  return [platform.os, platform.architecture, ...(platform.variant === undefined ? [] : [platform.variant])].join("/");
}

/** The images behind a name: one manifest, or those of an index that are asked for. Source: spec/nydusify.md, section 2.4; spec/images.md, sections 3 and 4 */
import {
  type Descriptor,
  formatPlatform,
  type ImageIndex,
  type ImageManifest,
  type ImageSource,
  isIndexType,
  type Platform,
  parseManifest,
  platformMatches,
} from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import { manifestsMax } from "../limits.ts";
import { isNydusEntry } from "./manifest.ts";

export interface SelectedImage {
  descriptor: Descriptor;
  bytes: Uint8Array;
  manifest: ImageManifest;
  /** as the index says */
  platform: Platform | undefined;
}

export interface Selection {
  images: SelectedImage[];
  /** undefined: the name stands for a manifest */
  index: (ImageIndex & { annotations?: Readonly<Record<string, string>> }) | undefined;
  top: Descriptor;
  topBytes: Uint8Array;
}

export interface SelectOptions {
  /** undefined: all of them */
  platforms: readonly Platform[] | undefined;
  /** which half of a merged index; an index without the half that is asked for gives the other. `all`: both, with attestations if all platforms are asked for */
  kind: "oci" | "nydus" | "all";
}

/** @throws NydusImageError IMAGE_SOURCE: nothing fits */
export async function selectImages(source: ImageSource, options: SelectOptions): Promise<Selection> {
  const top = await source.resolve();
  const topBytes = await source.readManifest(top);
  const parsed = parseManifest(topBytes);
  if (parsed.kind === "manifest") {
    const image = { descriptor: top, bytes: topBytes, manifest: parsed.value, platform: undefined };
    return { images: [image], index: undefined, top, topBytes };
  }
  const images: SelectedImage[] = [];
  for (const entry of selectEntries(source.name, parsed.value.manifests, options)) images.push(await readImage(source, entry));
  return { images, index: parsed.value, top, topBytes };
}

/** Attestations describe images by digests that are not there any more after a conversion: they are dropped. */
function selectEntries(name: string, entries: readonly Descriptor[], { platforms, kind }: SelectOptions): readonly Descriptor[] {
  const isAttestation = (entry: Descriptor) => entry.annotations?.["vnd.docker.reference.type"] !== undefined;
  const images = kind === "all" && platforms === undefined ? entries : entries.filter((entry) => !isAttestation(entry));
  const half = kind === "all" ? images : images.filter((entry) => isNydusEntry(entry) === (kind === "nydus"));
  const candidates = half.length > 0 ? half : images;
  const selected = platforms
    ? candidates.filter((entry) => entry.platform === undefined || platforms.some((wanted) => platformMatches(entry.platform, wanted)))
    : candidates;
  if (selected.length === 0) {
    const there = candidates.map((entry) => (entry.platform ? formatPlatform(entry.platform) : "?")).join(", ");
    const wanted = platforms?.map(formatPlatform).join(", ") ?? "any platform";
    throw new NydusImageError("IMAGE_SOURCE", `${name} has no image for ${wanted}: it has ${there || "none"}; choose with --platform`);
  }
  if (selected.length > manifestsMax)
    throw new NydusImageError("IMAGE_SOURCE", `${name} has ${selected.length} images; at most ${manifestsMax} are taken`);
  return selected;
}

export async function readImage(source: ImageSource, entry: Descriptor): Promise<SelectedImage> {
  if (isIndexType(entry.mediaType))
    throw new NydusImageError("IMAGE_SOURCE", `${source.name} is an index of indexes, which no client runs: name one image by digest`);
  const bytes = await source.readManifest(entry);
  const parsed = parseManifest(bytes);
  if (parsed.kind !== "manifest") throw new NydusImageError("IMAGE_SOURCE", `${entry.digest} is not an image manifest`);
  return { descriptor: entry, bytes, manifest: parsed.value, platform: entry.platform };
}

/** What an equal conversion left in the target: found by the source's digest and the options, both kept in the manifest. */
import { createHash } from "node:crypto";
import { type ImageManifest, LayoutImage, parseManifest, RegistryError, RegistryImage } from "@nydus-ts/registry-client";
import { annotations } from "./manifest.ts";
import type { ConvertOptions } from "./options.ts";

export interface EarlierImage {
  bytes: Uint8Array;
  manifest: ImageManifest;
}

export class EarlierResult {
  /** digest of all options that decide what the result is */
  readonly fingerprint: string;
  readonly #options: ConvertOptions;
  #images: Promise<EarlierImage[]> | undefined;

  constructor(options: ConvertOptions) {
    const { builderVersion, dictionary, format, mergePlatform, prefetch, source, withReferrer, blobs } = options;
    const reference = source instanceof RegistryImage ? source.name : "";
    const decisive = [builderVersion, reference, Object.entries(format).sort(), mergePlatform, prefetch, withReferrer, blobs.inTarget];
    if (dictionary) decisive.push(dictionary.digest);
    this.fingerprint = `sha256:${createHash("sha256").update(JSON.stringify(decisive)).digest("hex")}`;
    this.#options = options;
  }

  /** A nydus image that was made of this manifest in the same way, if everything it needs is there. */
  async find(sourceDigest: string): Promise<EarlierImage | undefined> {
    // Only the target can be asked what it has.
    if (!this.#options.blobs.inTarget) return undefined;
    this.#images ??= this.#read();
    const found = (await this.#images).find(
      ({ manifest }) =>
        manifest.annotations?.[annotations.sourceDigest] === sourceDigest && manifest.annotations[annotations.options] === this.fingerprint,
    );
    if (!found) return undefined;
    const { config, layers } = found.manifest;
    const needed = [config, ...layers].flatMap((part) => [part.digest, part.annotations?.[annotations.reference] ?? part.digest]);
    for (const digest of new Set(needed)) if (!(await this.#options.target.hasBlob(digest))) return undefined;
    return found;
  }

  /** Images behind the target's name now. A name that stands for nothing yet, or can not be read, has none. */
  async #read(): Promise<EarlierImage[]> {
    const { target } = this.#options;
    if (!(target instanceof RegistryImage || target instanceof LayoutImage)) return [];
    try {
      const bytes = await target.readManifest(await target.resolve());
      const top = parseManifest(bytes);
      if (top.kind === "manifest") return [{ bytes, manifest: top.value }];
      const images: EarlierImage[] = [];
      for (const entry of top.value.manifests) {
        const entryBytes = await target.readManifest(entry);
        const parsed = parseManifest(entryBytes);
        if (parsed.kind === "manifest") images.push({ bytes: entryBytes, manifest: parsed.value });
      }
      return images;
    } catch (error) {
      if (error instanceof RegistryError) return [];
      throw error;
    }
  }
}

import { RegistryError } from "../errors.ts";
import { parseReference } from "../reference.ts";
import { hostsOf, registryEnvironment } from "./environment.ts";
import type { ImageSource, ImageTarget } from "./image.ts";
import { isLayout, LayoutImage } from "./layout-image.ts";
import { RegistryImage, type RegistryImageOptions } from "./registry-image.ts";

export interface OpenImageOptions extends RegistryImageOptions {
  /** `process.env` by default. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

/**
 * Opens an image to read: `oci:DIR[:TAG][@DIGEST]` or the path of a folder with an `oci-layout` file is an OCI layout, everything else a
 * reference in a registry.
 *
 * @throws RegistryError REGISTRY_REFERENCE, REGISTRY_LAYOUT
 */
export async function openImageSource(text: string, options: OpenImageOptions = {}): Promise<ImageSource> {
  const layout = await layoutOf(text);
  if (layout === undefined) return registryImage(text, options);
  if (!(await isLayout(layout.directory))) {
    throw new RegistryError("REGISTRY_LAYOUT", `${layout.directory} is not an OCI layout folder`, {
      hint: "it needs a file oci-layout, an index.json and blobs/",
    });
  }
  return new LayoutImage(layout.directory, layout);
}

/** Opens an image to write; a layout folder named with `oci:` is made when it is not there. @see openImageSource */
export async function openImageTarget(text: string, options: OpenImageOptions = {}): Promise<ImageTarget> {
  const layout = await layoutOf(text);
  if (layout === undefined) return registryImage(text, options);
  if (layout.digest !== undefined) throw new RegistryError("REGISTRY_REFERENCE", `${text} names a digest; a target has a tag or none`);
  return new LayoutImage(layout.directory, layout);
}

/** Hosts directories and proxies come from the environment, for every command alike, unless the caller gives them. */
async function registryImage(text: string, options: OpenImageOptions): Promise<RegistryImage> {
  const { environment = process.env, ...rest } = options;
  const reference = parseReference(text);
  const { hostsDirs, proxy } = registryEnvironment(reference.host, rest.scheme, environment);
  const hosts = rest.hosts ?? (await hostsOf(reference.host, hostsDirs, rest));
  return new RegistryImage(reference, {
    ...(proxy === undefined ? {} : { proxy }),
    ...rest,
    ...(hosts === undefined ? {} : { hosts }),
  });
}

async function layoutOf(text: string): Promise<{ directory: string; tag?: string; digest?: string } | undefined> {
  if (!text.startsWith("oci:")) {
    const pathLike = text.startsWith("/") || text.startsWith("./") || text.startsWith("../") || (await isLayout(text));
    return pathLike ? split(text) : undefined;
  }
  return split(text.slice("oci:".length));
}

/** A tag is what follows the last colon, if it has no slash in it. */
function split(text: string): { directory: string; tag?: string; digest?: string } {
  const named = /^(.*?)(?::([A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?$/s.exec(text);
  const [directory, tag, digest] = [named?.[1] ?? "", named?.[2], named?.[3]];
  if (directory === "")
    throw new RegistryError("REGISTRY_REFERENCE", `${JSON.stringify(text)} names no folder`, { hint: "expected oci:DIR[:TAG]" });
  return { directory, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

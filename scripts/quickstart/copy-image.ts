import {
  currentPlatform,
  type ImageManifest,
  openImageSource,
  openImageTarget,
  parseManifest,
  selectPlatform,
} from "@nydus-ts/registry-client";

/**
 * Copies the image for this machine from a registry or an OCI layout folder to a registry.
 *
 * @returns its manifest
 */
export async function copyImage(from: string, to: string, note: (text: string) => void): Promise<ImageManifest> {
  await using source = await openImageSource(from);
  await using target = await openImageTarget(to);
  let descriptor = await source.resolve();
  let parsed = parseManifest(await source.readManifest(descriptor));
  if (parsed.kind === "index") {
    const chosen = selectPlatform(parsed.value.manifests, currentPlatform());
    if (chosen === undefined) throw new Error(`${from} has no image for this machine`);
    descriptor = chosen;
    parsed = parseManifest(await source.readManifest(descriptor));
  }
  if (parsed.kind === "index") throw new Error(`${from} is an index of indexes`);
  const manifest = parsed.value;
  const total = manifest.layers.reduce((sum, layer) => sum + layer.size, manifest.config.size);
  let before = 0;
  for (const part of [...manifest.layers, manifest.config]) {
    const onProgress = (bytes: number): void => note(`${megabytes(before + bytes)} of ${megabytes(total)} MiB`);
    await target.writeBlob(part, () => source.openBlob(part), { onProgress });
    before += part.size;
  }
  await target.writeManifest(await source.readManifest(descriptor), descriptor.mediaType, true);
  note(`${megabytes(total)} MiB in ${manifest.layers.length} layer${manifest.layers.length === 1 ? "" : "s"}`);
  return manifest;
}

export const megabytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1);

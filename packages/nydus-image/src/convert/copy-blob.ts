import type { Descriptor, ImageSource, ImageTarget } from "@nydus-ts/registry-client";

/** Puts a blob of the source into the target: taken over within a registry, streamed otherwise. False: it was there. */
export async function copyBlob(
  descriptor: Descriptor,
  from: ImageSource,
  to: ImageTarget,
  options: { signal: AbortSignal; onProgress?: (bytes: number) => void },
): Promise<boolean> {
  if (await to.mountBlob(descriptor, from)) return false;
  return await to.writeBlob(descriptor, () => from.openBlob(descriptor, { signal: options.signal }), options);
}

export async function readBlob(
  descriptor: Descriptor,
  from: ImageSource,
  options: { bytesMax: number; signal: AbortSignal },
): Promise<Buffer> {
  if (descriptor.size > options.bytesMax)
    throw new RangeError(`${descriptor.digest} has ${descriptor.size} bytes; at most ${options.bytesMax} are read`);
  const parts: Uint8Array[] = [];
  for await (const part of from.openBlob(descriptor, { signal: options.signal })) parts.push(part);
  return Buffer.concat(parts);
}

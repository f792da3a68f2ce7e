import { stat } from "node:fs/promises";
import { join } from "node:path";
import {
  type Descriptor,
  type ImageSource,
  type ImageTarget,
  LayoutImage,
  RegistryImage,
  type WriteOptions,
} from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";

/** Puts a blob of the source into the target: taken over within a registry, streamed otherwise. False: it was there. */
export async function copyBlob(
  descriptor: Descriptor,
  from: ImageSource,
  to: ImageTarget,
  options: WriteOptions & { signal: AbortSignal },
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

/** Of a blob that is known by its digest alone. @throws NydusImageError IMAGE_SOURCE: it is not there */
export async function blobSize(source: ImageSource | ImageTarget, digest: string, signal: AbortSignal): Promise<number> {
  let size: number | undefined;
  if (source instanceof RegistryImage)
    size = await source.client.blobSize(source.reference.repository, digest, { deadlineMs: 60_000, signal });
  else if (source instanceof LayoutImage)
    size = await stat(join(source.directory, "blobs", digest.replace(":", "/"))).then(
      (found) => found.size,
      () => undefined,
    );
  if (size === undefined) throw new NydusImageError("IMAGE_SOURCE", `${source.name} refers to layer ${digest}, which is not there`);
  return size;
}

/** A layer that was converted before, described by the end of its blob: the data stay where they are. Source: spec/rafs.md, section 6 */
import { open, rm } from "node:fs/promises";
import { join } from "node:path";
import { decompress } from "@nydus-ts/chunk-store";
import { checkSection, findInlinedBootstrap, readToc, sectionNames, type Toc, tocEntry, tocTailBytes } from "@nydus-ts/rafs-format";
import type { Descriptor, ImageSource } from "@nydus-ts/registry-client";
import { readBootstrapFile } from "../bootstrap-file.ts";
import { NydusImageError } from "../errors.ts";
import { loadLayer } from "../layer-file.ts";
import { bootstrapLayerBytesMax } from "../limits.ts";
import type { ConvertedLayer } from "./layer.ts";

const metaAlignment = 4096;

/**
 * @param reference  digest of the source's layer, if the blob only says where in it things are
 * @throws NydusImageError IMAGE_SOURCE: it is no such blob; RafsError, RegistryError
 */
export async function readCachedLayer(
  blob: Descriptor,
  from: ImageSource,
  { workDirectory, reference, signal }: { workDirectory: string; reference: string | undefined; signal: AbortSignal },
): Promise<Omit<ConvertedLayer, "uploaded">> {
  const { digest, size } = blob;
  const id = digest.slice("sha256:".length);
  const tail = await readEnd(from, blob, tocTailBytes(size), signal);
  const toc = readToc(tail, size);
  const start = toc ? startOfSections(toc) : findInlinedBootstrap(tail, size)?.offset;
  if (start === undefined) throw new NydusImageError("IMAGE_SOURCE", `blob ${digest} holds no bootstrap`);
  const end = size - start <= tail.length ? tail.subarray(tail.length - (size - start)) : await readEnd(from, blob, size - start, signal);
  // A file with a hole where the data are: what reads blobs of this machine reads it.
  const path = join(workDirectory, id);
  try {
    {
      await using file = await open(path, "wx");
      await file.truncate(size);
      await file.write(end, 0, end.length, start);
    }
    const { image } = loadLayer(await readBootstrapFile(path));
    const metaFile = toc && readMetaFile(toc, (offset, length) => end.subarray(offset - start, offset - start + length));
    const own = reference === undefined ? id : reference.slice("sha256:".length);
    return { id, size, root: image.root, blob: image.blobs.find((each) => each.id === own), metaFile, reference };
  } finally {
    await rm(path, { force: true });
  }
}

/** All sections but the data lie together at the end. */
function startOfSections({ entries }: Toc): number | undefined {
  const offsets = entries.filter(({ name }) => name !== sectionNames.data).map(({ offset }) => offset);
  return offsets.length === 0 ? undefined : Math.min(...offsets);
}

async function readEnd(from: ImageSource, blob: Descriptor, length: number, signal: AbortSignal): Promise<Buffer> {
  if (length > bootstrapLayerBytesMax)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `blob ${blob.digest} has ${length} bytes of metadata; at most ${bootstrapLayerBytesMax} are read`,
    );
  const parts: Uint8Array[] = [];
  for await (const part of from.openBlob(blob, { offset: blob.size - length, signal })) parts.push(Buffer.from(part));
  const bytes = Buffer.concat(parts);
  if (bytes.length !== length)
    throw new NydusImageError("IMAGE_SOURCE", `blob ${blob.digest} ends ${length - bytes.length} bytes too early`);
  return bytes;
}

/** What the cache file `<id>.blob.meta` holds; undefined for a layer without data. */
function readMetaFile(toc: Toc, read: (offset: number, length: number) => Buffer): Buffer | undefined {
  const [info, header] = [tocEntry(toc, sectionNames.meta), tocEntry(toc, sectionNames.metaHeader)];
  if (!info || !header) return undefined;
  if (info.uncompressedSize > bootstrapLayerBytesMax)
    throw new NydusImageError("IMAGE_SOURCE", `chunk info of ${info.uncompressedSize} bytes; at most ${bootstrapLayerBytesMax} are read`);
  const plain = decompress(info.compressor, read(info.offset, info.compressedSize), new Uint8Array(info.uncompressedSize));
  const headerBytes = read(header.offset, header.compressedSize);
  checkSection(info, plain);
  checkSection(header, headerBytes);
  return Buffer.concat([plain, Buffer.alloc((metaAlignment - (plain.length % metaAlignment)) % metaAlignment), headerBytes]);
}

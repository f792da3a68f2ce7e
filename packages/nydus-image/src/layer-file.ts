/** Images that another is built on or compared with: read from a file, their blobs described as they are seen from outside. */
import { adoptImage, type LoadedImage, loadImage, withoutInlinedBootstrap } from "@nydus-ts/builder";
import { blobFeatures, digesters, superFlags } from "@nydus-ts/rafs-format";
import { type BootstrapFile, namePrefix, readBootstrapFile, storedBlobId } from "./bootstrap-file.ts";
import { InconsistentError, NydusImageError } from "./errors.ts";
import type { Log } from "./log.ts";
import { featuresLine } from "./text.ts";

/** What images must have in common to share a bootstrap. */
export interface Traits {
  /** what the message calls it */
  name: string;
  version: 5 | 6;
  chunkSize: number;
  explicitUidGid: boolean;
  digester: (typeof digesters)[number];
  isTarfs: boolean;
}

export interface LayerFile extends BootstrapFile {
  traits: Traits;
  image: LoadedImage;
}

/** @throws NydusImageError IMAGE_FILE, saying that it was `what` that could not be loaded */
export async function loadLayerFile(path: string, what: string, log: Log): Promise<LayerFile> {
  try {
    const file = await readBootstrapFile(path);
    log.info(featuresLine(file.bootstrap));
    return loadLayer(file);
  } catch (cause) {
    throw new NydusImageError("IMAGE_FILE", `load ${what} ${JSON.stringify(path)}`, { cause });
  }
}

/** @throws RafsError, BuilderError for a damaged bootstrap */
export function loadLayer(file: BootstrapFile): LayerFile {
  const { bootstrap, path } = file;
  const image = loadImage(file.bytes);
  for (const [i, blob] of image.blobs.entries()) importBlob(file, bootstrap.blobs[i], blob);
  const traits: Traits = {
    name: path,
    version: bootstrap.version,
    chunkSize: bootstrap.chunkSize,
    explicitUidGid: (bootstrap.flags & superFlags.explicitUidGid) !== 0n,
    digester: (bootstrap.flags & superFlags.hashSha256) !== 0n ? "sha256" : "blake3",
    isTarfs: (bootstrap.flags & superFlags.tarfsMode) !== 0n,
  };
  return { ...file, image, traits };
}

/** A blob that had its bootstrap inside is whole in a bootstrap outside, and named as its file is. Source: spec/nydus-image.md, section 11.3 */
function importBlob(file: BootstrapFile, record: BootstrapFile["bootstrap"]["blobs"][number], blob: LoadedImage["blobs"][number]): void {
  blob.id = storedBlobId(file, record);
  const isInlined = (blob.features & blobFeatures.inlinedFsMeta) !== 0;
  Object.assign(blob, withoutInlinedBootstrap(blob));
  if (!isInlined) return;
  const isSeparate = (blob.features & blobFeatures.separate) !== 0;
  const prefix = namePrefix(file.path);
  if (isSeparate && /^[0-9a-f]{64}$/.test(prefix)) blob.metaDigest = Buffer.from(prefix, "hex");
  if (!file.blob) return;
  if (isSeparate) blob.metaSize = file.blob.size;
  else blob.compressedSize = file.blob.size;
  if (!file.blob.toc || (blob.features & blobFeatures.hasToc) === 0) return;
  blob.tocSize = file.blob.toc.size;
  blob.tocDigest = file.blob.toc.digest;
}

/** @throws InconsistentError. Source: spec/nydus-image.md, section 12.7 */
export function requireConsistent(first: Traits, next: Traits): void {
  const refuse = (what: string) => {
    throw new InconsistentError(`Inconsistent RAFS Filesystem: ${what} (${first.name}, ${next.name})`);
  };
  if (first.chunkSize !== next.chunkSize) refuse(`Inconsistent configuration of chunk_size: ${first.chunkSize} vs ${next.chunkSize}`);
  if (first.explicitUidGid !== next.explicitUidGid)
    refuse(`Using inconsistent explicit_uidgid setting ${next.explicitUidGid}, target explicit_uidgid setting ${first.explicitUidGid}`);
  if (first.version !== next.version) refuse(`Using inconsistent RAFS version V${next.version}, target RAFS version V${first.version}`);
  if (first.version === 5 && first.digester !== next.digester)
    refuse(`RAFS v5 can not support different digest algorithm due to inode digest, ${next.digester} vs ${first.digester}`);
  if (first.isTarfs !== next.isTarfs) refuse("Using inconsistent RAFS TARFS mode");
}

/**
 * Makes an image the layers below one of `target`, also where that is of the other version.
 * @throws InconsistentError; BuilderError BUILD_UNSUPPORTED, BUILD_INCONSISTENT: the target's version can not describe its blobs
 */
export function adoptLayer({ image, traits }: LayerFile, target: Traits): LoadedImage {
  requireConsistent(target, { ...traits, version: target.version });
  if (traits.version !== target.version) adoptImage(image, target.version, digesters.indexOf(target.digester));
  return image;
}

/** `[type=]path` of `--chunk-dict`. Source: spec/nydus-image.md, section 2.6 */
export function parseChunkDict(argument: string): string {
  const equals = argument.indexOf("=");
  if (equals < 0) return argument;
  const type = argument.slice(0, equals);
  if (type !== "bootstrap") throw new NydusImageError("IMAGE_ARGUMENT", `invalid chunk dict type ${type}; only bootstrap=PATH is known`);
  return argument.slice(equals + 1);
}

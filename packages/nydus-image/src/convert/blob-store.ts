/** Where the data blobs of converted images go: the target itself, or storage beside it (`--backend-type`). Source: spec/nydusify.md, sections 1.3 and 2.5 */
import { randomBytes } from "node:crypto";
import { constants, createReadStream, createWriteStream } from "node:fs";
import { copyFile, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { countDropped } from "@nydus-ts/builder";
import {
  type Descriptor,
  type ImageSource,
  type ImageTarget,
  LayoutImage,
  RegistryImage,
  type WriteOptions,
} from "@nydus-ts/registry-client";
import { NydusImageError } from "../errors.ts";
import { copyBlob } from "./copy-blob.ts";

/** Bytes of a file that are read at a time. */
const filePieceBytes = 256 * 1024;

export interface BlobStore {
  /** Stores a blob from a file. False: it was there. */
  write(descriptor: Descriptor, path: string, options: WriteOptions): Promise<boolean>;
  /** Stores a blob that another image has. False: it was there. */
  take(descriptor: Descriptor, from: ImageSource, options: { signal: AbortSignal }): Promise<boolean>;
  /** Puts a blob that was stored here into another image. */
  give(descriptor: Descriptor, to: ImageTarget, options: { signal: AbortSignal }): Promise<void>;
  /** the manifest lists the blobs as layers */
  readonly inTarget: boolean;
}

export function targetStore(target: ImageTarget): BlobStore {
  return {
    inTarget: true,
    write: (descriptor, path, options) => target.writeBlob(descriptor, () => readBlob(path), options),
    take: (descriptor, from, options) => copyBlob(descriptor, from, target, options),
    give: async (descriptor, to, options) => {
      if (!(target instanceof RegistryImage || target instanceof LayoutImage)) throw new TypeError("a target of another kind");
      await copyBlob(descriptor, target, to, options);
    },
  };
}

async function* readBlob(path: string): AsyncGenerator<Uint8Array> {
  for await (const piece of createReadStream(path, { highWaterMark: filePieceBytes })) {
    countDropped((piece as Uint8Array).length);
    yield piece as Uint8Array;
  }
}

/** A folder with one file a blob, named by its digest. A name stands for a whole file. */
export function localStore(directory: string, forcePush: boolean): BlobStore {
  const pathOf = ({ digest }: Descriptor) => join(directory, digest.slice("sha256:".length));
  const place = async (descriptor: Descriptor, fill: (temporary: string) => Promise<void>): Promise<boolean> => {
    const final = pathOf(descriptor);
    const there = await stat(final).catch(() => undefined);
    if (!forcePush && there?.isFile() && there.size === descriptor.size) return false;
    const temporary = `${final}.${randomBytes(6).toString("hex")}.tmp`;
    try {
      await mkdir(directory, { recursive: true });
      await fill(temporary);
      {
        await using file = await open(temporary, "r+");
        await file.sync();
      }
      await rename(temporary, final);
    } catch (cause) {
      await rm(temporary, { force: true });
      throw new NydusImageError("IMAGE_FILE", `the blob can not be stored as ${final}`, { cause });
    }
    return true;
  };
  return {
    inTarget: false,
    write: (descriptor, path, { signal }) =>
      place(descriptor, async (temporary) => {
        signal?.throwIfAborted();
        await copyFile(path, temporary, constants.COPYFILE_EXCL);
      }),
    take: (descriptor, from, { signal }) =>
      place(descriptor, (temporary) => pipeline(from.openBlob(descriptor, { signal }), createWriteStream(temporary, { flags: "wx" }))),
    give: async (descriptor, to, options) => void (await to.writeBlob(descriptor, () => readBlob(pathOf(descriptor)), options)),
  };
}

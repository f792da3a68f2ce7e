/** Where the data blobs of converted images go: the target itself, or storage beside it (`--backend-type`). Source: spec/nydusify.md, sections 1.3 and 2.5 */
import { randomBytes } from "node:crypto";
import { constants, createReadStream, createWriteStream } from "node:fs";
import { copyFile, mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
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
import { NydusImageError, unsupported } from "../errors.ts";
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

export interface BackendFlags {
  type: string | undefined;
  /** JSON */
  config: string | undefined;
  forcePush: boolean;
}

/** @throws NydusImageError IMAGE_ARGUMENT; IMAGE_UNSUPPORTED for object storage */
export function openBackend(flags: BackendFlags): BlobStore {
  return localStore(localDirectory(flags, ""), flags.forcePush);
}

/**
 * The folder that flags name, whose configuration may lie in a file; undefined if they name no backend.
 * @param prefix  of the options, such as `source-`
 * @throws NydusImageError as `localDirectory`
 */
export async function givenDirectory(
  { type, config, configFile }: Pick<BackendFlags, "type" | "config"> & { configFile: string | undefined },
  prefix: string,
): Promise<string | undefined> {
  if (type === undefined || type === "") return undefined;
  return localDirectory({ type, config: configFile === undefined ? config : await readFile(configFile, "utf8") }, prefix);
}

/**
 * The folder of a backend of type localfs.
 * @param prefix  of the options, such as `source-`
 */
export function localDirectory(flags: Pick<BackendFlags, "type" | "config">, prefix: string): string {
  const option = (name: string) => `--${prefix}backend-${name}`;
  if (flags.type === "oss" || flags.type === "s3")
    throw unsupported(`${option("type")} ${flags.type}`, "let the blobs go to the target's registry, or use localfs");
  if (flags.type !== "localfs") {
    const found = JSON.stringify(flags.type ?? "");
    throw new NydusImageError("IMAGE_ARGUMENT", `${option("type")} ${found} is not known: it is one of oss, s3, localfs`);
  }
  if ((flags.config ?? "").trim() === "") {
    throw new NydusImageError(
      "IMAGE_ARGUMENT",
      `${option("type")} localfs needs a configuration: give ${option("config")} '{"dir": "DIRECTORY"}'`,
    );
  }
  let dir: unknown;
  try {
    dir = (JSON.parse(flags.config!) as { dir?: unknown } | null)?.dir;
  } catch (cause) {
    throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration is not JSON`, { cause });
  }
  if (typeof dir !== "string" || dir === "")
    throw new NydusImageError("IMAGE_ARGUMENT", `the backend configuration of localfs names no "dir"`);
  return dir;
}

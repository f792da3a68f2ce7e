/** `nydus-image unpack`: an image becomes one tar. Source: spec/nydus-image.md, section 14 */

import type { FileHandle } from "node:fs/promises";
import { open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { BlobFileReader } from "@nydus-ts/builder";
import type { Bootstrap, FileType, Inode } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import { type BootstrapFile, readBootstrapFile, storedBlobId } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { encodeTarEntry, type TarEntry, tarEnd, tarPadding } from "../tar-writer.ts";
import { chooseBootstrap } from "./check.ts";

interface UnpackFlags {
  bootstrap?: string;
  output: string;
  blob?: string;
  blobDir?: string;
  backendType?: string;
}

const typeOf: Readonly<Record<Exclude<FileType, "socket">, TarEntry["type"]>> = {
  file: "0",
  symlink: "2",
  char: "3",
  block: "4",
  dir: "5",
  fifo: "6",
};

export function addUnpack(program: Command, context: Context): void {
  program
    .command("unpack")
    .description("write all files of an image into one tar; chunks are checked against their digests")
    .argument("[BOOTSTRAP]", "image")
    .option("-B, --bootstrap <path>", "image (deprecated: give it as argument)")
    .requiredOption("--output <path>", "the tar")
    .addOption(new Option("-b, --blob <path>", "file of the image's blob").conflicts(["blobDir", "backendType"]))
    .addOption(new Option("-D, --blob-dir <dir>", "directory of the image's blobs").conflicts("backendType"))
    .option("--backend-type <type>", "kind of remote storage")
    .option("--backend-config <json>", "its configuration")
    .option("--backend-config-file <path>", "file of its configuration")
    .action(async (argument: string | undefined, flags: UnpackFlags, command: Command) => {
      if (flags.output === "") throw new NydusImageError("IMAGE_ARGUMENT", "invalid empty --output option");
      if (flags.backendType !== undefined)
        throw unsupported("--backend-type", "give the blobs with --blob-dir, or mount the image with `nydusd fuse`");
      await unpack(context, await readBootstrapFile(chooseBootstrap(argument, flags.bootstrap, command)), flags);
    });
}

async function unpack(context: Context, file: BootstrapFile, flags: UnpackFlags): Promise<void> {
  const { bootstrap } = file;
  if (bootstrap.blobs.length > 0 && flags.blob === undefined && flags.blobDir === undefined) {
    throw new NydusImageError("IMAGE_ARGUMENT", "invalid backend configuration, --blob, --blob-dir or --backend-type must be specified");
  }
  if (bootstrap.version === 5) throw unsupported("unpacking a version 5 image", "mount it with `nydusd fuse`");
  const temporary = `${flags.output}.${process.pid}.tmp`;
  const blobs: BlobFileReader[] = [];
  try {
    for (const blob of bootstrap.blobs)
      blobs.push(await BlobFileReader.open(flags.blob ?? join(flags.blobDir!, storedBlobId(file, blob)), blob));
    await using output = await open(temporary, "w");
    await writeMembers(output, bootstrap, blobs, context.io.signal);
    await output.sync();
    await rename(temporary, flags.output);
  } catch (cause) {
    throw new NydusImageError("IMAGE_FILE", `fail to unpack ${file.path} into ${flags.output}`, { cause });
  } finally {
    for (const blob of blobs) await blob[Symbol.asyncDispose]();
    await rm(temporary, { force: true });
  }
}

async function writeMembers(
  output: FileHandle,
  bootstrap: Bootstrap,
  blobs: readonly BlobFileReader[],
  signal: AbortSignal,
): Promise<void> {
  const firstNames = new Map<number, string>();
  for (const { path, nid, inode } of bootstrap.walk()) {
    signal.throwIfAborted();
    if (nid === bootstrap.rootNid || inode.type === "socket") continue;
    const name = Buffer.from(path).toString("latin1");
    const first = inode.type === "file" && inode.nlink > 1 ? firstNames.get(inode.ino) : undefined;
    if (first === undefined) firstNames.set(inode.ino, name);
    await output.writeFile(encodeTarEntry(describe(bootstrap, nid, inode, name, first)));
    if (inode.type === "file" && first === undefined) await writeContent(output, bootstrap, blobs, nid, inode, signal);
  }
  await output.writeFile(tarEnd);
}

function describe(bootstrap: Bootstrap, nid: number, inode: Inode, name: string, first: string | undefined): TarEntry {
  return {
    name: name.slice(1),
    type: first === undefined ? typeOf[inode.type as Exclude<FileType, "socket">] : "1",
    mode: inode.mode & 0o7777,
    uid: inode.uid,
    gid: inode.gid,
    mtime: inode.mtime,
    size: inode.type === "file" && first === undefined ? inode.size : 0,
    linkName: inode.type === "symlink" ? Buffer.from(bootstrap.readLink(nid)).toString("latin1") : (first ?? ""),
    rdev: inode.rdev,
    xattrs: bootstrap.xattrs(nid),
  };
}

async function writeContent(
  output: FileHandle,
  bootstrap: Bootstrap,
  blobs: readonly BlobFileReader[],
  nid: number,
  inode: Inode,
  signal: AbortSignal,
): Promise<void> {
  let written = 0;
  for (const chunk of bootstrap.chunksOf(nid)) {
    signal.throwIfAborted();
    const data = await blobs[chunk.blobIndex].chunk(chunk.chunkIndex, bootstrap.chunkRecord(chunk)?.digest);
    await output.writeFile(data.subarray(0, chunk.length));
    written += chunk.length;
  }
  if (written !== inode.size) throw new NydusImageError("IMAGE_FILE", `inode ${nid} has ${inode.size} bytes, its chunks ${written}`);
  await output.writeFile(tarPadding(inode.size));
}

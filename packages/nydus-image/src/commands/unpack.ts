/** `nydus-image unpack`: an image becomes one tar. Source: spec/nydus-image.md, section 14 */
import type { Bootstrap, FileType, Inode } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import { addBackendOptions, type BackendFlags, openBackend } from "../blob-backend.ts";
import { type BootstrapFile, readBootstrapFile } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { ImageChunks } from "../image-chunks.ts";
import { encodeTarEntry, type TarEntry, tarEnd, tarPadding } from "../tar-writer.ts";
import { writeWholeFile } from "../whole-file.ts";
import { chooseBootstrap } from "./check.ts";

interface UnpackFlags extends BackendFlags {
  bootstrap?: string;
  output: string;
}

/** What takes the bytes of a tar, in order. */
export interface TarSink {
  writeFile(bytes: Uint8Array): Promise<void>;
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
  const command = program
    .command("unpack")
    .description("write all files of an image into one tar; chunks are checked against their digests")
    .argument("[BOOTSTRAP]", "image")
    .option("-B, --bootstrap <path>", "image (deprecated: give it as argument)")
    .requiredOption("--output <path>", "the tar")
    .addOption(new Option("-b, --blob <path>", "file of the image's blob").conflicts(["blobDir", "backendType"]))
    .addOption(new Option("-D, --blob-dir <dir>", "directory of the image's blobs").conflicts("backendType"));
  addBackendOptions(command).action(async (argument: string | undefined, flags: UnpackFlags) => {
    if (flags.output === "") throw new NydusImageError("IMAGE_ARGUMENT", "invalid empty --output option");
    await unpack(context, await readBootstrapFile(chooseBootstrap(argument, flags.bootstrap, command)), flags);
  });
}

async function unpack(context: Context, file: BootstrapFile, flags: UnpackFlags): Promise<void> {
  const { bootstrap } = file;
  await using backend = bootstrap.blobs.length === 0 ? undefined : await openBackend(flags, "--blob, --blob-dir or --backend-type");
  try {
    const chunks = backend && new ImageChunks(file, backend, context.io.signal);
    await writeWholeFile(flags.output, (output) => writeMembers(output, bootstrap, chunks, context.io.signal));
  } catch (cause) {
    throw new NydusImageError("IMAGE_FILE", `fail to unpack ${file.path} into ${flags.output}`, { cause });
  }
}

/** Writes the whole tar. */
export async function writeMembers(
  output: TarSink,
  bootstrap: Bootstrap,
  chunks: ImageChunks | undefined,
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
    if (inode.type === "file" && first === undefined) await writeContent(output, bootstrap, chunks, nid, inode);
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
  output: TarSink,
  bootstrap: Bootstrap,
  chunks: ImageChunks | undefined,
  nid: number,
  inode: Inode,
): Promise<void> {
  let written = 0;
  for (const chunk of bootstrap.chunksOf(nid)) {
    await output.writeFile(await chunks!.read(chunk));
    written += chunk.length;
  }
  if (written !== inode.size) throw new NydusImageError("IMAGE_FILE", `inode ${nid} has ${inode.size} bytes, its chunks ${written}`);
  await output.writeFile(tarPadding(inode.size));
}

/** `nydus-image check`: reads everything in a bootstrap and says what is in it. Source: spec/nydus-image.md, section 13.1 */
import { type Bootstrap, checkBootstrap, chunkFlags, type Inode } from "@nydus-ts/rafs-format";
import { type Command, Option } from "commander";
import { type BootstrapFile, readBootstrapFile, storedBlobId } from "../bootstrap-file.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { writeOutputJson } from "../output-json.ts";
import { checkFeatureWords, hex, quoteBytes, superFlagNames } from "../text.ts";
import { compressorOf } from "./merge.ts";

interface CheckFlags {
  bootstrap?: string;
  verbose?: true;
  outputJson?: string;
}

export function addCheck(program: Command, context: Context): void {
  program
    .command("check")
    .description("check a bootstrap, or a blob with a bootstrap inside")
    .argument("[BOOTSTRAP]", "file to check")
    .option("-B, --bootstrap <path>", "file to check (deprecated: give it as argument)")
    .addOption(new Option("-D, --blob-dir <dir>", "directory of the blobs").conflicts("config"))
    .option("-C, --config <path>", "storage configuration file")
    .option("-v, --verbose", "show every file and chunk")
    .option("-J, --output-json <path>", "file for the result as JSON")
    .action(async (argument: string | undefined, flags: CheckFlags, command: Command) => {
      const path = chooseBootstrap(argument, flags.bootstrap, command);
      await check(context, path, flags);
    });
}

/** The file to look at, given in one of two ways. Wrong usage ends with status 2. */
export function chooseBootstrap(argument: string | undefined, option: string | undefined, command: Command): string {
  if (argument !== undefined && option !== undefined) {
    command.error("error: the argument '[BOOTSTRAP]' cannot be used with '--bootstrap <path>'\n\nFor more information, try '--help'.", {
      exitCode: 2,
    });
  }
  const path = argument ?? option;
  if (path === undefined) {
    command.error("error: the following required arguments were not provided:\n  <BOOTSTRAP>\n\nFor more information, try '--help'.", {
      exitCode: 2,
    });
  }
  return path;
}

async function check(context: Context, path: string, flags: CheckFlags): Promise<void> {
  const file = await readBootstrapFile(path);
  context.log().info(`RAFS features: ${superFlagNames(file.bootstrap.flags)}`);
  const { stdout } = context.io;
  try {
    checkBootstrap(file.bootstrap);
    if (flags.verbose) for (const text of describeTree(file.bootstrap)) stdout.write(text);
  } catch (cause) {
    throw new NydusImageError("IMAGE_FILE", `failed to check bootstrap ${JSON.stringify(path)}`, { cause });
  }
  stdout.write("RAFS filesystem metadata is valid, referenced data blobs: \n");
  for (const line of describeBlobs(file)) stdout.write(line);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: path,
      blobs: file.bootstrap.blobs.map((blob) => storedBlobId(file, blob)),
      fsVersion: String(file.bootstrap.version) as "5" | "6",
      compressor: compressorOf(file.bootstrap.flags),
    },
    { compact: true },
  );
}

/** A line for every name, and one for every chunk of it. */
export function* describeTree(bootstrap: Bootstrap): Generator<string> {
  for (const { path, nid, inode } of bootstrap.walk()) {
    const nameBytes = nid === bootstrap.rootNid ? 1 : path.length - 1 - path.lastIndexOf(0x2f);
    const hasXattr = bootstrap.xattrs(nid).size > 0;
    const link = inode.type === "symlink" ? `Some(${quoteBytes(bootstrap.readLink(nid))})` : "None";
    const chunks = [...bootstrap.chunksOf(nid)];
    const childCount =
      inode.type === "dir" ? count(bootstrap.readDir(nid)) : inode.type === "symlink" ? Math.ceil(inode.size / 4096) : chunks.length;
    yield `inode: ${typeWord(inode)} ${quoteBytes(path)}: index 0 ino ${nid} real_ino ${nid} child_index 0 child_count ${childCount} ` +
      `i_nlink ${inode.nlink} i_size ${inode.size} i_blocks ${Math.ceil(inode.size / 512)} i_name_size ${nameBytes} i_symlink_size ${inode.size & 0xffff} ` +
      `has_xattr ${hasXattr} link ${link} i_mtime ${BigInt.asUintN(64, inode.mtime)} i_mtime_nsec ${inode.mtimeNsec}\n`;
    for (const chunk of chunks) {
      const record = bootstrap.chunkRecord(chunk);
      if (!record)
        throw new NydusImageError(
          "IMAGE_FILE",
          `${quoteBytes(path)}: chunk ${chunk.chunkIndex} of blob ${chunk.blobIndex} is not in the chunk table`,
        );
      const crc = record.flags & chunkFlags.crc32 ? `, crc32 0x${record.crc32c.toString(16)}` : "";
      yield `\t chunk: id ${hex(record.digest, 32)}, index ${record.chunkIndex}, blob_index ${record.blobIndex}, file_offset ${record.fileOffset}, ` +
        `compressed ${record.compressedOffset}/${record.compressedSize}, uncompressed ${record.uncompressedOffset}/${record.uncompressedSize}${crc}\n`;
    }
  }
}

function typeWord(inode: Inode): string {
  if (inode.type === "dir" || inode.type === "symlink") return inode.type;
  if (inode.type === "file") return inode.nlink > 1 ? "hardlink" : "file";
  return "";
}

function count(items: Iterable<unknown>): number {
  let total = 0;
  for (const _ of items) total++;
  return total;
}

function* describeBlobs(file: BootstrapFile): Generator<string> {
  for (const blob of file.bootstrap.blobs) {
    yield `\t ${blob.index}: ${storedBlobId(file, blob)}, compressed size ${blob.compressedSize}, uncompressed size ${blob.uncompressedSize}, ` +
      `chunk size: ${blob.chunkSize}, chunk count: ${blob.chunkCount}, features: ${checkFeatureWords(blob)}\n`;
  }
}

/** `nydusify copy`: an image from one registry, layout folder or archive to another, byte for byte. Source: spec/nydusify.md, section 8 */
import { rm } from "node:fs/promises";
import { type Descriptor, dockerConfigCredentials, openImageTarget } from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import { platformsOf } from "../commands/convert.ts";
import type { Context } from "../context.ts";
import { blobSize, copyBlob } from "../convert/copy-blob.ts";
import { createLimiter } from "../convert/limiter.ts";
import { annotations, isNydusManifest } from "../convert/manifest.ts";
import { type SelectedImage, selectImages } from "../convert/select.ts";
import { Together } from "../convert/together.ts";
import { NydusImageError } from "../errors.ts";
import { blobsInCopyMax, pushChunkBytesMax } from "../limits.ts";
import { parseHumanSize } from "../options.ts";
import { bucketExample, givenBlobs } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { archivePath, packArchive, unpackArchive } from "./archive.ts";
import { workDirectory } from "../work-directory.ts";
import { addStoredBlobs } from "./add-blobs.ts";
import { openSource } from "./image.ts";

interface CopyFlags {
  source: string;
  target?: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  sourceBackendType?: string;
  sourceBackendConfig?: string;
  sourceBackendConfigFile?: string;
  allPlatforms?: boolean;
  platform?: string;
  pushChunkSize: string;
  workDir: string;
}

export function addCopy(program: Command, context: Context): void {
  program
    .command("copy")
    .description("copy an image; both may be a registry reference, oci:DIR[:TAG] or file://ARCHIVE")
    .addOption(new Option("--source <image>", "image to copy").env("SOURCE").makeOptionMandatory())
    .addOption(new Option("--target <image>", "name of the copy").env("TARGET").makeOptionMandatory())
    .addOption(switchOption("--source-insecure", "accept any certificate of the source's registry", "SOURCE_INSECURE"))
    .addOption(switchOption("--target-insecure", "accept any certificate of the target's registry", "TARGET_INSECURE"))
    .addOption(
      new Option(
        "--source-backend-type <type>",
        "where the data blobs are, if not beside the source: oss, s3, localfs; the copy has them",
      ).env("SOURCE_BACKEND_TYPE"),
    )
    .addOption(new Option("--source-backend-config <json>", `{"dir": "DIRECTORY"} or ${bucketExample}`).env("SOURCE_BACKEND_CONFIG"))
    .addOption(
      new Option("--source-backend-config-file <path>", "the same in a file")
        .env("SOURCE_BACKEND_CONFIG_FILE")
        .conflicts("sourceBackendConfig"),
    )
    .addOption(switchOption("--all-platforms", "copy every platform of the image"))
    .option("--platform <list>", "platforms to copy, such as linux/amd64,linux/arm64; default: this machine's")
    .addOption(
      new Option("--push-chunk-size <size>", "send larger blobs in pieces of this size, such as 10MB; 0: whole")
        .default("0MB")
        .env("PUSH_CHUNK_SIZE"),
    )
    .addOption(new Option("--work-dir <dir>", "directory for archives while they are read or written").default("./tmp").env("WORK_DIR"))
    .addOption(new Option("--nydus-image <path>").hideHelp())
    .action(async (flags: CopyFlags) => {
      await copy(context, flags);
    });
}

async function copy(context: Context, flags: CopyFlags): Promise<void> {
  const pieceBytes = pushChunkBytes(flags.pushChunkSize);
  const { sourceBackendType: type, sourceBackendConfig: config, sourceBackendConfigFile: configFile } = flags;
  await using stored = await givenBlobs({ type, config, configFile }, "source-");
  const { signal } = context.io;
  const log = context.log();
  const [from, to] = [archivePath(flags.source), archivePath(flags.target!)];
  await using work = from === undefined && to === undefined ? undefined : await workDirectory(flags.workDir);
  await using source = await openSource(from === undefined ? flags.source : `oci:${await unpackArchive(from, work!.path)}`, {
    insecure: flags.sourceInsecure ?? false,
    signal,
  });
  const layout = to === undefined ? undefined : `${work!.path}/target`;
  await using target = await openImageTarget(layout === undefined ? flags.target! : `oci:${layout}`, {
    credentials: dockerConfigCredentials({}),
    signal,
    skipVerify: flags.targetInsecure ?? false,
  });
  log.info(`copying ${source.name} to ${target.name}`);
  const together = new Together(signal);
  const limit = createLimiter(blobsInCopyMax);
  const pieces = pieceBytes === undefined ? {} : { pieceBytes };
  const { images, index, top, topBytes } = await selectImages(source, { platforms: platformsOf(flags), kind: "all" });
  let blobs = 0;
  const copyImage = async (image: SelectedImage, tagged: boolean): Promise<Descriptor> => {
    const { descriptor, bytes, manifest } = image;
    const parts: Descriptor[] = [manifest.config, ...manifest.layers];
    // Layers that an index image refers to are listed nowhere else, and it is of no use without them.
    for (const digest of new Set(manifest.layers.flatMap((layer) => layer.annotations?.[annotations.reference] ?? [])))
      parts.push({ mediaType: "application/octet-stream", digest, size: await blobSize(source, digest, together.signal) });
    // What is not in the source's repository is named by the bootstrap alone.
    const kept = stored !== undefined && isNydusManifest(manifest) ? { stored, source, target } : undefined;
    const unique = [...new Map(parts.map((part) => [part.digest, part])).values()];
    const written = await together.all(
      unique.map((part) => () => limit(() => copyBlob(part, source, target, { signal: together.signal, ...pieces }))),
    );
    blobs += written.filter(Boolean).length;
    const added = kept && (await addStoredBlobs(image, kept, { signal: together.signal, tagged, ...pieces }));
    if (stored !== undefined && !kept) log.warn(`${descriptor.digest} is not a nydus image: it is copied as it is`);
    if (added) return added;
    await target.writeManifest(bytes, descriptor.mediaType, tagged);
    return descriptor;
  };
  const alone = index === undefined || images.length === 1;
  const copied = await together.all(images.map((image) => () => copyImage(image, alone)));
  let digest = copied[0].digest;
  if (!alone) {
    // Signatures and pinned digests hold only for the same bytes: an index is written anew only when it lists less.
    const isSame = copied.every((one, i) => one.digest === images[i].descriptor.digest);
    const whole = isSame && index.manifests.length === copied.length;
    const bytes = whole ? topBytes : Buffer.from(JSON.stringify({ ...index, manifests: copied }));
    digest = (await target.writeManifest(bytes, top.mediaType, true)).digest;
  }
  if (to !== undefined) {
    await packArchive(layout!, to);
    await rm(layout!, { recursive: true, force: true });
  }
  log.info(`copied ${source.name} to ${flags.target}: ${images.length} images, ${blobs} blobs sent`);
  context.io.stdout.write(`${digest}\n`);
}

/** undefined: blobs are sent whole. */
function pushChunkBytes(text: string): number | undefined {
  const bytes = parseHumanSize(text);
  if (bytes === undefined) throw new NydusImageError("IMAGE_ARGUMENT", `invalid --push-chunk-size ${text}: expected a size such as 10MB`);
  if (bytes > pushChunkBytesMax)
    throw new NydusImageError("IMAGE_ARGUMENT", `--push-chunk-size ${text} is too large: pieces are kept in memory, at most 256MiB each`);
  return bytes === 0 ? undefined : bytes;
}

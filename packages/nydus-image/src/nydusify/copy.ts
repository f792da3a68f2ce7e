/** `nydusify copy`: an image from one registry, layout folder or archive to another, byte for byte. Source: spec/nydusify.md, section 8 */
import { rm } from "node:fs/promises";
import { type Descriptor, dockerConfigCredentials, openImageTarget } from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import { platformsOf } from "../commands/convert.ts";
import type { Context } from "../context.ts";
import { blobSize, copyBlob } from "../convert/copy-blob.ts";
import { createLimiter } from "../convert/limiter.ts";
import { annotations } from "../convert/manifest.ts";
import { type SelectedImage, selectImages } from "../convert/select.ts";
import { Together } from "../convert/together.ts";
import { NydusImageError, unsupported } from "../errors.ts";
import { blobsInCopyMax } from "../limits.ts";
import { switchOption } from "../switch-option.ts";
import { archivePath, packArchive, unpackArchive } from "./archive.ts";
import { workDirectory } from "../work-directory.ts";
import { openSource } from "./image.ts";

interface CopyFlags {
  source: string;
  target?: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  sourceBackendType?: string;
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
    .addOption(new Option("--source-backend-type <type>", "where the data blobs are").env("SOURCE_BACKEND_TYPE").hideHelp())
    .addOption(new Option("--source-backend-config <json>").hideHelp())
    .addOption(new Option("--source-backend-config-file <path>").hideHelp())
    .addOption(switchOption("--all-platforms", "copy every platform of the image"))
    .option("--platform <list>", "platforms to copy, such as linux/amd64,linux/arm64; default: this machine's")
    .addOption(new Option("--push-chunk-size <size>", "send large blobs in pieces of this size").default("0MB").env("PUSH_CHUNK_SIZE"))
    .addOption(new Option("--work-dir <dir>", "directory for archives while they are read or written").default("./tmp").env("WORK_DIR"))
    .addOption(new Option("--nydus-image <path>").hideHelp())
    .action(async (flags: CopyFlags) => {
      await copy(context, flags);
    });
}

async function copy(context: Context, flags: CopyFlags): Promise<void> {
  if (!/^[0-9]+(\.[0-9]+)?\s*([kmgt]i?)?b?$/i.test(flags.pushChunkSize))
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid --push-chunk-size ${flags.pushChunkSize}: expected a size such as 10MB`);
  if (Number.parseFloat(flags.pushChunkSize) > 0)
    throw unsupported("--push-chunk-size", "leave it out: blobs are sent whole and taken up again where they broke");
  if (flags.sourceBackendType !== undefined)
    throw unsupported("--source-backend-type", "convert the source image again, with its blobs in the registry");
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
  const { images, index, top, topBytes } = await selectImages(source, { platforms: platformsOf(flags), kind: "all" });
  let blobs = 0;
  const copyImage = async ({ descriptor, bytes, manifest }: SelectedImage, tagged: boolean): Promise<Descriptor> => {
    const parts: Descriptor[] = [manifest.config, ...manifest.layers];
    // Layers that an index image refers to are listed nowhere else, and it is of no use without them.
    for (const digest of new Set(manifest.layers.flatMap((layer) => layer.annotations?.[annotations.reference] ?? [])))
      parts.push({ mediaType: "application/octet-stream", digest, size: await blobSize(source, digest, together.signal) });
    const unique = [...new Map(parts.map((part) => [part.digest, part])).values()];
    const written = await together.all(
      unique.map((part) => () => limit(() => copyBlob(part, source, target, { signal: together.signal }))),
    );
    blobs += written.filter(Boolean).length;
    await target.writeManifest(bytes, descriptor.mediaType, tagged);
    return descriptor;
  };
  const alone = index === undefined || images.length === 1;
  const copied = await together.all(images.map((image) => () => copyImage(image, alone)));
  let digest = copied[0].digest;
  if (!alone) {
    // Signatures and pinned digests hold only for the same bytes: an index is written anew only when it lists less.
    const whole = index.manifests.length === copied.length;
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

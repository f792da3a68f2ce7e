/** `nydusify optimize`: an image whose listed files are together in one more blob, which is read first. Source: spec/nydusify.md, section 10 */
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { currentPlatform, dockerConfigCredentials, openImageTarget } from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import { readListFile } from "../commands/optimize.ts";
import type { Context } from "../context.ts";
import { annotations } from "../convert/manifest.ts";
import { NydusImageError } from "../errors.ts";
import { loadLayer } from "../layer-file.ts";
import { optimizeImage } from "../optimization.ts";
import { parsePrefetchFiles } from "../prefetch-files.ts";
import { bucketExample, givenBlobs } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { workDirectory } from "../work-directory.ts";
import { blobBackend, openSource, readBootstrapLayer, readConfig, readHalves } from "./image.ts";
import { copyBlobs, writeBlobFile, writeNewImage } from "./new-image.ts";

interface OptimizeFlags {
  source: string;
  target: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  prefetchFiles: string;
  sourceBackendType?: string;
  sourceBackendConfig?: string;
  sourceBackendConfigFile?: string;
  workDir: string;
}

export function addOptimize(program: Command, context: Context): void {
  program
    .command("optimize")
    .description("copy the data of listed files into one more blob, which is read first")
    .addOption(new Option("--source <image>", "nydus image").env("SOURCE").makeOptionMandatory())
    .addOption(new Option("--target <image>", "name of the result").env("TARGET").makeOptionMandatory())
    .addOption(switchOption("--source-insecure", "accept any certificate of the source's registry", "SOURCE_INSECURE"))
    .addOption(switchOption("--target-insecure", "accept any certificate of the target's registry", "TARGET_INSECURE"))
    .addOption(
      new Option("--prefetch-files <path>", 'list of files: {"version": "v1", "files": [{"path": "/a", "ranges": [[0, 4096]]}]}')
        .env("PREFETCH_FILES")
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--source-backend-type <type>", "where the data blobs are, if not beside the source: oss, s3, localfs").env(
        "SOURCE_BACKEND_TYPE",
      ),
    )
    .addOption(new Option("--source-backend-config <json>", `{"dir": "DIRECTORY"} or ${bucketExample}`).env("SOURCE_BACKEND_CONFIG"))
    .addOption(
      new Option("--source-backend-config-file <path>", "the same in a file")
        .env("SOURCE_BACKEND_CONFIG_FILE")
        .conflicts("sourceBackendConfig"),
    )
    .addOption(new Option("--work-dir <dir>", "directory for the new blob until it is sent").default("./tmp").env("WORK_DIR"))
    .addOption(
      new Option("--policy <policy>")
        .choices(["separated-blob-with-prefetch-files"])
        .default("separated-blob-with-prefetch-files")
        .env("OPTIMIZE_POLICY")
        .hideHelp(),
    )
    .addOption(new Option("--nydus-image <path>").hideHelp())
    .addOption(new Option("--push-chunk-size <size>").hideHelp())
    .action(async (flags: OptimizeFlags) => {
      await optimize(context, flags);
    });
}

async function optimize(context: Context, flags: OptimizeFlags): Promise<void> {
  const { signal } = context.io;
  const log = context.log();
  const listText = await readListFile(flags.prefetchFiles);
  const list = parsePrefetchFiles(listText);
  for (const warning of list.warnings) log.warn(warning);
  await using source = await openSource(flags.source, { insecure: flags.sourceInsecure ?? false, signal });
  await using target = await openImageTarget(flags.target, {
    credentials: dockerConfigCredentials({}),
    signal,
    skipVerify: flags.targetInsecure ?? false,
  });
  const { nydus } = await readHalves(source, currentPlatform());
  if (!nydus) throw new NydusImageError("IMAGE_SOURCE", `${source.name} is not a nydus image: convert it first`);
  const stored = nydus.manifest.layers.slice(0, -1);
  const { sourceBackendType: type, sourceBackendConfig: config, sourceBackendConfigFile: configFile } = flags;
  // Of an image that keeps its data beside the registry: the new blob goes there too.
  await using elsewhere = await givenBlobs({ type, config, configFile }, "source-");
  if (stored.length === 0 && !elsewhere)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `${source.name} keeps its data outside of the registry: say where with --source-backend-type`,
    );
  log.info(`optimizing ${source.name}`);
  const [imageConfig, layer] = [await readConfig(source, nydus, signal), await readBootstrapLayer(source, nydus, signal)];
  await using work = await workDirectory(flags.workDir);
  const directory = join(work.path, "blobs");
  await mkdir(directory);
  await using own = elsewhere ? undefined : await blobBackend(source, flags.sourceInsecure ?? false);
  const backend = elsewhere?.backend ?? own!;
  const file = loadLayer(layer.bootstrap);
  const result = await optimizeImage(file, list.files, { backend, directory, warn: (line) => log.warn(line), signal });
  const { added } = result;
  if (!added)
    throw new NydusImageError("IMAGE_ARGUMENT", `no file of ${flags.prefetchFiles} has data in ${source.name}: nothing is written`);
  await copyBlobs(stored, source, target, signal);
  const path = join(directory, added.id);
  const blob = { path, digest: `sha256:${added.id}`, size: (await stat(path)).size, annotations: { [annotations.role]: "prefetch" } };
  const blobs = [...stored];
  if (elsewhere) await elsewhere.store(false).write({ ...blob, mediaType: "application/octet-stream" }, path, { signal });
  else blobs.push(await writeBlobFile(target, blob, { signal }));
  const files = new Map([...layer.files].filter(([name]) => /^image\/[^/]+\.blob\.meta$/.test(name)));
  if (result.addedMeta) files.set(`image/${added.id}.blob.meta`, result.addedMeta);
  files.set("image/prefetch.files", Buffer.from(listText));
  const written = await writeNewImage({
    target,
    manifest: nydus.manifest,
    config: imageConfig,
    blobs,
    bootstrap: result.bootstrap,
    fsVersion: file.bootstrap.version,
    files,
    bootstrapAnnotations: { ...nydus.manifest.layers.at(-1)!.annotations, [annotations.prefetchBlob]: added.id },
    history: (lines) => lines,
    signal,
  });
  log.info(`optimized ${source.name} to ${target.name}: blob ${added.id} holds ${added.chunkCount} chunks of the listed files`);
  context.io.stdout.write(`${written.digest}\n`);
}

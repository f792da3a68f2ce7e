/** `nydusify chunkdict generate`: the chunks that images share, as an image that `convert --chunk-dict` refers to. Source: spec/nydusify.md, section 11 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  currentPlatform,
  type Descriptor,
  dockerConfigCredentials,
  formatPlatform,
  type ImageSource,
  openImageTarget,
  parseReference,
  RegistryImage,
} from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import { generate as generateDictionary } from "../commands/chunkdict.ts";
import type { Context } from "../context.ts";
import { annotations } from "../convert/manifest.ts";
import type { SelectedImage } from "../convert/select.ts";
import { NydusImageError } from "../errors.ts";
import { bucketExample, givenBlobs, storedBlob } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { workDirectory } from "../work-directory.ts";
import { type BootstrapLayerFiles, onePlatform, openSource, readBootstrapLayer, readConfig, readHalves } from "./image.ts";
import { copyBlobs, writeBlobFile, writeNewImage } from "./new-image.ts";

interface GenerateFlags {
  sources: string[];
  target: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  platform: string;
  workDir: string;
  backendType?: string;
  backendConfig?: string;
  backendConfigFile?: string;
}

export function addChunkdict(program: Command, context: Context): void {
  const list = (text: string, before: string[] = []): string[] => [...before, ...text.split(",").filter((word) => word !== "")];
  const command = program
    .command("chunkdict")
    .description("dictionaries of chunks that images share")
    .command("generate")
    .description("write an image of the chunks that versions of images share, for convert --chunk-dict bootstrap:registry:IMAGE")
    .addOption(
      new Option("--sources <images>", "nydus images, NAME:VERSION each; separated by commas, or given several times")
        .env("SOURCES")
        .argParser(list)
        .makeOptionMandatory(),
    )
    .addOption(new Option("--target <image>", "name of the dictionary").env("TARGET").makeOptionMandatory())
    .addOption(switchOption("--source-insecure", "accept any certificate of the sources' registries", "SOURCE_INSECURE"))
    .addOption(switchOption("--target-insecure", "accept any certificate of the target's registry", "TARGET_INSECURE"))
    .option("--platform <platform>", "which of an index", formatPlatform(currentPlatform()))
    .addOption(new Option("--work-dir <dir>", "directory for bootstraps while they are read").default("./output").env("WORK_DIR"))
    .addOption(
      new Option(
        "--backend-type <type>",
        "where the sources' data blobs are, if not beside them: oss, s3, localfs; the dictionary has its own",
      ).env("BACKEND_TYPE"),
    )
    .addOption(
      new Option("--backend-config <json>", `{"dir": "DIRECTORY"} or ${bucketExample}`)
        .env("BACKEND_CONFIG")
        .conflicts("backendConfigFile"),
    )
    .addOption(new Option("--backend-config-file <path>", "the same in a file").env("BACKEND_CONFIG_FILE"));
  for (const name of ["--nydus-image", "--all-platforms"]) command.addOption(new Option(`${name} [value]`).hideHelp());
  command.action(async (flags: GenerateFlags) => {
    await generate(context, flags);
  });
}

/** A source and what was read of it. */
interface Given {
  source: ImageSource;
  image: SelectedImage;
  layer: BootstrapLayerFiles;
}

async function generate(context: Context, flags: GenerateFlags): Promise<void> {
  const { signal } = context.io;
  const log = context.log();
  const platform = onePlatform(flags.platform);
  const { backendType: type, backendConfig: config, backendConfigFile: configFile } = flags;
  await using elsewhere = await givenBlobs({ type, config, configFile }, "");
  await using stack = new AsyncDisposableStack();
  const work = stack.use(await workDirectory(flags.workDir));
  const target = stack.use(
    await openImageTarget(flags.target, {
      credentials: dockerConfigCredentials({}),
      signal,
      skipVerify: flags.targetInsecure ?? false,
    }),
  );
  const given: Given[] = [];
  const paths: string[] = [];
  for (const reference of flags.sources) {
    const source = stack.use(await openSource(reference, { insecure: flags.sourceInsecure ?? false, signal }));
    const { nydus: image } = await readHalves(source, platform);
    if (!image) throw new NydusImageError("IMAGE_SOURCE", `${source.name} is not a nydus image: convert it first`);
    if (image.manifest.layers.length === 1 && elsewhere === undefined)
      throw new NydusImageError("IMAGE_SOURCE", `${source.name} keeps its data outside of the registry: say where with --backend-type`);
    const layer = await readBootstrapLayer(source, image, signal);
    given.push({ source, image, layer });
    const directory = join(work.path, String(paths.length), versionName(reference, source));
    await mkdir(directory, { recursive: true });
    paths.push(join(directory, "nydus_bootstrap"));
    await writeFile(paths.at(-1)!, layer.bootstrap.bytes);
  }
  const [bootstrap, output] = [join(work.path, "chunkdict_bootstrap"), join(work.path, "output.json")];
  await generateDictionary(context, paths, {
    database: "sqlite://:memory:",
    bootstrap,
    outputJson: output,
    prefetchPolicy: "none",
  });
  const { blobs, fs_version: version } = JSON.parse(await readFile(output, "utf8")) as { blobs: string[]; fs_version: "5" | "6" };
  if (blobs.length === 0)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      "the images share no chunks: a dictionary needs more versions of an image, or images that are alike",
    );
  const layers: Descriptor[] = [];
  const files = new Map<string, Buffer>();
  for (const id of blobs) {
    const digest = `sha256:${id}`;
    const owner = given.find(({ image }) => image.manifest.layers.some((layer) => layer.digest === digest));
    const layer = owner?.image.manifest.layers.find((each) => each.digest === digest);
    const role = { [annotations.role]: "dictionary" };
    if (owner && layer) {
      await copyBlobs([layer], owner.source, target, signal);
      layers.push({ ...layer, annotations: { ...layer.annotations, ...role } });
    } else {
      if (elsewhere === undefined)
        throw new NydusImageError("IMAGE_SOURCE", `blob ${id}, which has chunks of the dictionary, is a layer of no source`);
      const stored = await storedBlob(id, elsewhere, "the chunk dictionary", signal);
      layers.push(await writeBlobFile(target, { ...stored, annotations: role }, { signal }));
    }
    const meta = given.map(({ layer: { files: beside } }) => beside.get(`image/${id}.blob.meta`)).find((bytes) => bytes !== undefined);
    if (meta) files.set(`image/${id}.blob.meta`, meta);
  }
  const [first] = given;
  const written = await writeNewImage({
    target,
    // Its files mean nothing, so it says of no source that it was made of it.
    manifest: { ...first.image.manifest, annotations: {} },
    config: await readConfig(first.source, first.image, signal),
    blobs: layers,
    bootstrap: await readFile(bootstrap),
    fsVersion: version === "5" ? 5 : 6,
    files,
    bootstrapAnnotations: {},
    history: () => [],
    signal,
  });
  log.info(`chunk dictionary of ${given.length} images written to ${target.name}: ${blobs.length} blobs`);
  context.io.stdout.write(`${written.digest}\n`);
}

/** The name of a folder that says image and version, as `nydus-image chunkdict generate` wants it. */
function versionName(reference: string, source: ImageSource): string {
  const { repository, tag } =
    source instanceof RegistryImage ? source.reference : parseReference(`localhost/${reference.split("/").at(-1)}`);
  return `${repository}:${tag ?? "latest"}`.replaceAll("/", ":");
}

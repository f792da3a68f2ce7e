/** `nydusify check`: is a nydus image whole, and does it hold what its source holds? Source: spec/nydusify.md, section 5 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { BlobBackend } from "@nydus-ts/chunk-store";
import { checkBootstrap } from "@nydus-ts/rafs-format";
import { currentPlatform, formatPlatform, type ImageSource } from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { annotations, diffIdsOf, nydusMediaTypes } from "../convert/manifest.ts";
import type { SelectedImage } from "../convert/select.ts";
import { NydusImageError } from "../errors.ts";
import { differencesListedMax } from "../limits.ts";
import { bucketExample, givenBlobs } from "../stored-blobs.ts";
import { switchOption } from "../switch-option.ts";
import { type BootstrapLayerFiles, blobBackend, onePlatform, openSource, readBootstrapLayer, readConfig, readHalves } from "./image.ts";
import { compareListings, type Listing, listNydusImage, listOciImage } from "./listing.ts";

interface CheckFlags {
  source?: string;
  target: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  sourceBackendType?: string;
  sourceBackendConfig?: string;
  targetBackendType?: string;
  targetBackendConfig?: string;
  platform: string;
  workDir?: string;
}

export function addCheck(program: Command, context: Context): void {
  const command = program
    .command("check")
    .description("check a nydus image: manifest, bootstrap, and, with --source, every file against the source; nothing is mounted")
    .addOption(new Option("--source <image>", "image to compare with").env("SOURCE"))
    .addOption(new Option("--target <image>", "image to check").env("TARGET").makeOptionMandatory())
    .addOption(switchOption("--source-insecure", "accept any certificate of the source's registry", "SOURCE_INSECURE"))
    .addOption(switchOption("--target-insecure", "accept any certificate of the target's registry", "TARGET_INSECURE"))
    .option("--platform <platform>", "which of an index", formatPlatform(currentPlatform()))
    .addOption(
      new Option("--work-dir <dir>", "directory for manifests, configs and bootstraps, to look at; default: none are kept").env("WORK_DIR"),
    );
  for (const side of ["source", "target"]) {
    const environment = `${side.toUpperCase()}_BACKEND`;
    command
      .addOption(
        new Option(`--${side}-backend-type <type>`, `where the ${side}'s data blobs are, if not beside it: oss, s3, localfs`).env(
          `${environment}_TYPE`,
        ),
      )
      .addOption(new Option(`--${side}-backend-config <json>`, `{"dir": "DIRECTORY"} or ${bucketExample}`).env(`${environment}_CONFIG`));
  }
  for (const name of ["--multi-platform", "--nydus-image", "--nydusd"]) command.addOption(new Option(`${name} [value]`).hideHelp());
  command.action(async (flags: CheckFlags) => {
    await check(context, flags);
  });
}

/** One image with all that was read of it. */
interface Side {
  name: "source" | "target";
  source: ImageSource;
  oci: { image: SelectedImage; config: Buffer } | undefined;
  nydus: { image: SelectedImage; config: Buffer; layer: BootstrapLayerFiles } | undefined;
  backend: BlobBackend | undefined;
}

async function check(context: Context, flags: CheckFlags): Promise<void> {
  const { signal } = context.io;
  const log = context.log();
  const platform = onePlatform(flags.platform);
  await using stack = new AsyncDisposableStack();
  const open = async (
    name: Side["name"],
    reference: string,
    insecure: boolean,
    type: string | undefined,
    config: string | undefined,
  ): Promise<Side> => {
    const source = stack.use(await openSource(reference, { insecure, signal }));
    const { oci, nydus } = await readHalves(source, platform);
    const given = nydus && (await givenBlobs({ type, config }, `${name}-`));
    if (given) stack.use(given);
    const side: Side = {
      name,
      source,
      oci: oci && { image: oci, config: await readConfig(source, oci, signal) },
      nydus: nydus && {
        image: nydus,
        config: await readConfig(source, nydus, signal),
        layer: await readBootstrapLayer(source, nydus, signal),
      },
      backend: nydus && (given?.backend ?? stack.use(await blobBackend(source, insecure))),
    };
    if (flags.workDir !== undefined) await keep(join(flags.workDir, name), side);
    return side;
  };
  const source =
    flags.source === undefined
      ? undefined
      : await open("source", flags.source, flags.sourceInsecure ?? false, flags.sourceBackendType, flags.sourceBackendConfig);
  const target = await open("target", flags.target, flags.targetInsecure ?? false, flags.targetBackendType, flags.targetBackendConfig);
  const sides = source ? [source, target] : [target];
  for (const side of sides) checkManifests(side);
  if (source) compareConfigs(source, target);
  log.info("checked manifest");
  for (const side of sides) checkBootstraps(side);
  log.info("checked bootstrap");
  if (source) {
    const [a, b] = [await listing(source, "oci", signal), await listing(target, "nydus", signal)];
    const listed: string[] = [];
    let count = 0;
    for (const difference of compareListings(a, b)) if (++count <= differencesListedMax) listed.push(difference);
    for (const difference of listed) log.error(difference);
    if (count > 0)
      throw new NydusImageError(
        "IMAGE_SOURCE",
        `the file systems of ${source.source.name} and ${target.source.name} differ in ${count} points; the first: ${listed[0]}`,
      );
    log.info(`checked filesystem: ${b.size} paths`);
  }
  log.info(`verified image ${target.source.name}`);
}

/** Source: section 5.4, rule 1. Both halves of a merged image are looked at. */
function checkManifests({ name, source, oci, nydus }: Side): void {
  const refuse = (image: SelectedImage, why: string) => {
    throw new NydusImageError("IMAGE_SOURCE", `${name} ${source.name} (${image.descriptor.digest}): ${why}`);
  };
  for (const half of [oci, nydus]) {
    if (!half) continue;
    const [ids, layers] = [diffIdsOf(half.config).length, half.image.manifest.layers.length];
    if (ids !== layers) refuse(half.image, `the config has ${ids} diff IDs, the manifest ${layers} layers`);
  }
  if (!nydus) return;
  const { layers } = nydus.image.manifest;
  const last = layers.at(-1)!;
  if (last.annotations?.[annotations.bootstrap] !== "true")
    refuse(nydus.image, `the last layer is not marked ${annotations.bootstrap}: "true"`);
  for (const [i, layer] of layers.slice(0, -1).entries()) {
    if (layer.mediaType !== nydusMediaTypes.blob)
      refuse(nydus.image, `layer ${i} has the media type ${layer.mediaType}, not ${nydusMediaTypes.blob}`);
    if (layer.annotations?.[annotations.blob] !== "true") refuse(nydus.image, `layer ${i} is not marked ${annotations.blob}: "true"`);
  }
  const expected = diffIdsOf(nydus.config).at(-1);
  if (nydus.layer.diffId !== expected)
    refuse(nydus.image, `invalid bootstrap layer diff id: the config says ${expected}, the layer is ${nydus.layer.diffId}`);
}

/** What a container is started with must be the same. */
function compareConfigs(source: Side, target: Side): void {
  const started = (side: Side): Record<string, unknown> => {
    const bytes = side.name === "source" ? (side.oci ?? side.nydus) : (side.nydus ?? side.oci);
    const { config } = JSON.parse(bytes!.config.toString()) as { config?: Record<string, unknown> | null };
    // Docker's own: a hint for Windows, and the name of an image that is another one after a conversion.
    const { ArgsEscaped: _, Image: __, ...rest } = config ?? {};
    return Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null));
  };
  const [a, b] = [started(source), started(target)];
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
    if (!isDeepStrictEqual(a[key], b[key]))
      throw new NydusImageError(
        "IMAGE_SOURCE",
        `the images are started differently: ${key} is ${JSON.stringify(a[key])} in the source, ${JSON.stringify(b[key])} in the target`,
      );
  }
}

/** Source: section 5.4, rule 2 */
function checkBootstraps({ name, source, nydus }: Side): void {
  if (!nydus) return;
  const { bootstrap } = nydus.layer.bootstrap;
  const layers = nydus.image.manifest.layers.slice(0, -1);
  try {
    checkBootstrap(bootstrap);
  } catch (cause) {
    throw new NydusImageError("IMAGE_SOURCE", `${name} ${source.name}: the bootstrap is damaged`, { cause });
  }
  if (layers.length === 0) return; // the blobs are kept elsewhere
  const there = new Set(layers.map((layer) => layer.annotations?.[annotations.reference] ?? layer.digest));
  const missing = bootstrap.blobs.find((blob) => !there.has(`sha256:${blob.id}`));
  if (missing)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `${name} ${source.name}: the bootstrap needs blob ${missing.id}, which the manifest does not list`,
    );
}

/** Of the half that is asked for, or the other. */
async function listing({ source, oci, nydus, backend }: Side, first: "oci" | "nydus", signal: AbortSignal): Promise<Listing> {
  if (oci && (first === "oci" || !nydus)) return await listOciImage(source, oci.image, signal);
  return await listNydusImage(nydus!.layer.bootstrap, backend!, signal);
}

/** Nothing is removed: the directory is the person's. */
async function keep(directory: string, { oci, nydus }: Side): Promise<void> {
  await mkdir(directory, { recursive: true });
  const pretty = (bytes: Uint8Array) => JSON.stringify(JSON.parse(Buffer.from(bytes).toString()), null, 2);
  for (const [name, half] of [["oci", oci] as const, ["nydus", nydus] as const]) {
    if (!half) continue;
    await writeFile(join(directory, `${name}_manifest.json`), pretty(half.image.bytes));
    await writeFile(join(directory, `${name}_config.json`), pretty(half.config));
  }
  if (!nydus) return;
  await mkdir(join(directory, "nydus_bootstrap/image"), { recursive: true });
  await writeFile(join(directory, "nydus_bootstrap/image/image.boot"), nydus.layer.bootstrap.bytes);
}

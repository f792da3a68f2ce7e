/** `nydusify commit`: what a running container changed becomes a layer of a new image. Source: spec/nydusify.md, section 9 */
import { execFile } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { CompressPool, compressorNumbers, digesterNumbers, mergeLayers } from "@nydus-ts/builder";
import { currentPlatform, type Descriptor, dockerConfigCredentials, openImageTarget } from "@nydus-ts/registry-client";
import { type Command, Option } from "commander";
import { compressorOf } from "../commands/merge.ts";
import { pathTar, upperTar } from "../commit/layer-tar.ts";
import { type PackedLayer, packLayer } from "../commit/pack-layer.ts";
import { findContainer, type RunningContainer, whilePaused } from "../commit/running-container.ts";
import type { Context } from "../context.ts";
import { annotations, isConverterHistory, ociAnnotations } from "../convert/manifest.ts";
import { NydusImageError } from "../errors.ts";
import { type LayerFile, loadLayer } from "../layer-file.ts";
import { syncDeadlineMs } from "../limits.ts";
import { switchOption } from "../switch-option.ts";
import { workDirectory } from "../work-directory.ts";
import { openSource, readBootstrapLayer, readConfig, readHalves } from "./image.ts";
import { copyBlobs, writeBlobFile, writeNewImage } from "./new-image.ts";

interface CommitFlags {
  container: string;
  target: string;
  containerdAddress: string;
  namespace: string;
  sourceInsecure?: boolean;
  targetInsecure?: boolean;
  maximumTimes: string;
  withMountPath?: string[];
  workDir: string;
}

export function addCommit(program: Command, context: Context): void {
  const list = (text: string, before: string[] = []): string[] => [...before, ...text.split(",").filter((word) => word !== "")];
  program
    .command("commit")
    .description("make an image of a running container's changes; containerd is asked through its client ctr")
    .addOption(new Option("--container <id>", "the container, or the beginning of its id").makeOptionMandatory())
    .addOption(new Option("--target <image>", "name of the result").env("TARGET").makeOptionMandatory())
    .addOption(
      new Option("--containerd-address <path>", "containerd's socket").default("/run/containerd/containerd.sock").env("CONTAINERD_ADDR"),
    )
    .addOption(new Option("-n, --namespace <name>", "containerd's namespace").default("default").env("NAMESPACE"))
    .addOption(switchOption("--source-insecure", "accept any certificate of the image's registry", "SOURCE_INSECURE"))
    .addOption(switchOption("--target-insecure", "accept any certificate of the target's registry", "TARGET_INSECURE"))
    .addOption(new Option("--maximum-times <count>", "layers that commits may add to an image").default("400").env("MAXIMUM_TIMES"))
    .addOption(
      new Option("--with-path, --with-mount-path <paths>", "also these, though something is mounted there; !PATH leaves a path out")
        .env("WITH_PATH")
        .argParser(list),
    )
    .addOption(new Option("--work-dir <dir>", "directory for new blobs until they are sent").default("./tmp").env("WORK_DIR"))
    .addOption(new Option("--nydus-image <path>").hideHelp())
    .action(async (flags: CommitFlags) => {
      await commit(context, flags);
    });
}

async function commit(context: Context, flags: CommitFlags): Promise<void> {
  const { signal } = context.io;
  const log = context.log();
  const paths = pathsOf(flags.withMountPath ?? []);
  if (!/^[1-9][0-9]{0,5}$/.test(flags.maximumTimes))
    throw new NydusImageError("IMAGE_ARGUMENT", `invalid --maximum-times ${flags.maximumTimes}: expected a number of layers`);
  if (flags.target.includes("@"))
    throw new NydusImageError("IMAGE_ARGUMENT", `--target ${flags.target}: a new image has a tag, not a digest`);
  const where = { address: flags.containerdAddress, namespace: flags.namespace };
  const container = await findContainer(flags.container, where);
  await using source = await openSource(container.image, { insecure: flags.sourceInsecure ?? false, signal });
  await using target = await openImageTarget(flags.target, {
    credentials: dockerConfigCredentials({}),
    signal,
    skipVerify: flags.targetInsecure ?? false,
  });
  const { nydus } = await readHalves(source, currentPlatform());
  if (!nydus)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `container ${container.id} runs ${source.name}, which is not a nydus image: convert it first`,
    );
  const lower = nydus.manifest.layers.slice(0, -1);
  const last = nydus.manifest.layers.at(-1)!;
  if (lower.length === 0)
    throw new NydusImageError("IMAGE_SOURCE", `${source.name} keeps its data outside of the registry: commit the OCI image`);
  const before = (last.annotations?.[annotations.commitBlobs] ?? "").split(",").filter((digest) => digest !== "");
  if (before.length >= Number(flags.maximumTimes))
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `reached maximum committed times: ${source.name} has ${before.length} committed layers, --maximum-times allows ${flags.maximumTimes}`,
    );
  const [config, layer] = [await readConfig(source, nydus, signal), await readBootstrapLayer(source, nydus, signal)];
  const base = loadLayer(layer.bootstrap);
  log.info(`committing container ${container.id} of ${source.name}`);
  await copyBlobs(lower, source, target, signal);
  await using work = await workDirectory(flags.workDir);
  if (container.isPaused) log.warn(`container ${container.id} is paused already, and stays so`);
  await promisify(execFile)("sync", ["-f", container.upperDirectory], { timeout: syncDeadlineMs });
  // Only reading happens while the container stands still; sending can take as long as it likes.
  const packed = await whilePaused(container, where, async () => await pack(container, base, paths, work.path));
  const merged = mergeLayers({
    fsVersion: base.traits.version,
    layers: [base.image.root, ...packed.map(({ root }) => root)],
    compressor: compressorNumbers[compressorOf(base.bootstrap.flags)],
    digester: digesterNumbers[base.traits.digester],
    cipher: base.image.blobs.some(({ cipher }) => cipher !== 0) ? 1 : 0,
    explicitUidGid: base.traits.explicitUidGid,
    prefetch: { policy: "fs", patterns: prefetchPaths(base) },
  });
  const added: Descriptor[] = [];
  const files = new Map([...layer.files].filter(([name]) => /^image\/[^/]+\.blob\.meta$/.test(name)));
  for (const { id, path, size, metaFile } of packed) {
    added.push(await writeBlobFile(target, { path, digest: `sha256:${id}`, size }, { signal }));
    if (metaFile) files.set(`image/${id}.blob.meta`, metaFile);
  }
  const written = await writeNewImage({
    target,
    manifest: { ...nydus.manifest, annotations: ociAnnotations(nydus.manifest) },
    config,
    blobs: [...lower, ...added],
    bootstrap: merged.bootstrap,
    fsVersion: base.traits.version,
    files,
    bootstrapAnnotations: { [annotations.commitBlobs]: [...before, ...added.map(({ digest }) => digest)].join(",") },
    history: (lines) => historyWith(lines, added.length),
    signal,
  });
  log.info(
    `committed container ${container.id} to ${target.name}: ${added.length} layers, ${added.reduce((sum, { size }) => sum + size, 0)} bytes`,
  );
  context.io.stdout.write(`${written.digest}\n`);
}

interface Paths {
  included: string[];
  excluded: string[];
}

/** Absolute paths of one byte per code unit. */
function pathsOf(words: readonly string[]): Paths {
  const paths: Paths = { included: [], excluded: [] };
  for (const word of words) {
    const path = word.replace(/^!/, "");
    const names = path.split("/").filter((name) => name !== "" && name !== ".");
    if (!path.startsWith("/") || names.length === 0 || names.includes(".."))
      throw new NydusImageError("IMAGE_ARGUMENT", `--with-path ${word}: expected an absolute path below /, without ..`);
    paths[word.startsWith("!") ? "excluded" : "included"].push(`/${Buffer.from(names.join("/")).toString("latin1")}`);
  }
  return paths;
}

async function pack(
  container: RunningContainer,
  base: LayerFile,
  { included, excluded }: Paths,
  directory: string,
): Promise<PackedLayer[]> {
  await using pool = new CompressPool();
  const merged = `/proc/${container.pid}/root`;
  const upper = Buffer.from(container.upperDirectory).toString("latin1");
  const streams = [upperTar({ upper, merged, excluded, replaced: included }), ...included.map((path) => pathTar(merged, path))];
  const packed: PackedLayer[] = [];
  for (const [i, stream] of streams.entries()) {
    // Layers of equal content are one file each, so each has a folder.
    const own = join(directory, String(i));
    await mkdir(own);
    packed.push(await packLayer(stream, base, { directory: own, pool }));
  }
  return packed;
}

/** What the image fetches first, it fetches first still. */
function prefetchPaths({ bootstrap }: LayerFile): string[] {
  const wanted = new Set(bootstrap.prefetchNids);
  if (wanted.size === 0) return [];
  return [...bootstrap.walk()].filter(({ nid }) => wanted.has(nid)).map(({ path }) => Buffer.from(path).toString("latin1"));
}

/** A line for each new layer, in front of the bootstrap's. */
function historyWith(lines: readonly unknown[], count: number): unknown[] {
  const own = Array.from({ length: count }, () => ({ created_by: "nydusify commit", comment: "Nydus Commit Layer" }));
  const at = lines.length > 0 && isConverterHistory(lines.at(-1)) ? lines.length - 1 : lines.length;
  return [...lines.slice(0, at), ...own, ...lines.slice(at)];
}

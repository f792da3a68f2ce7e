/** `nydus-image optimize`: the data of listed files, together in one new blob. Source: spec/nydus-image.md, sections 3.6, 4.3 and 17 */
import { readFile } from "node:fs/promises";
import { RepackedBlob, type TreeNode, writeArtifact } from "@nydus-ts/builder";
import { blobFeatures, hasFeature } from "@nydus-ts/rafs-format";
import type { StoredChunk } from "@nydus-ts/rafs-format/writer";
import { type Command, Option } from "commander";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { type BackendFlags, ImageChunks, openBackend } from "../image-chunks.ts";
import { loadLayerFile } from "../layer-file.ts";
import { isDirectory } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import { parsePrefetchFiles, type PrefetchFile } from "../prefetch-files.ts";
import {
  blobCompressorOf,
  chunkBytes,
  digestKey,
  digesterOf,
  type EditableImage,
  findNode,
  editable,
  nodesOf,
  writeEdited,
} from "../rewrite-image.ts";
import { compressorOf } from "./merge.ts";

interface OptimizeFlags extends BackendFlags {
  bootstrap: string;
  prefetchFiles?: string;
  outputBlobDir?: string;
  outputBootstrap: string;
  config?: string;
  outputJson?: string;
}

export function addOptimize(program: Command, context: Context): void {
  program
    .command("optimize")
    .description("copy the data of listed files into one new blob, which is read first")
    .requiredOption("-B, --bootstrap <path>", "image")
    .option("-p, --prefetch-files <path>", "list of files, JSON")
    .option("--output-blob-dir <dir>", "directory for the new blob")
    .option("-O, --output-bootstrap <path>", "file for the new bootstrap", "optimized_bootstrap")
    .option("-C, --config <path>", "storage configuration file")
    .addOption(new Option("-D, --blob-dir <dir>", "directory of the image's blobs").conflicts("config"))
    .option("-b, --blob <path>", "accepted, not used")
    .option("--backend-type <type>", "kind of remote storage")
    .addOption(new Option("--backend-config <json>", "its configuration").conflicts("backendConfigFile"))
    .option("--backend-config-file <path>", "file of its configuration")
    .option("-J, --output-json <path>", "file for the result as JSON")
    .action(async (flags: OptimizeFlags) => {
      await optimize(context, flags);
    });
}

async function optimize(context: Context, flags: OptimizeFlags): Promise<void> {
  const { outputBlobDir, prefetchFiles } = flags;
  if (outputBlobDir === undefined) throw new NydusImageError("IMAGE_ARGUMENT", "missing parameter `output-blob-dir`");
  if (prefetchFiles === undefined) throw new NydusImageError("IMAGE_ARGUMENT", "missing parameter `prefetch-files`");
  const log = context.log();
  const file = await loadLayerFile(flags.bootstrap, "bootstrap", log);
  await using backend = openBackend({ ...flags, blob: undefined }, "--blob-dir or --backend-type");
  if (!(await isDirectory(outputBlobDir)))
    throw new NydusImageError("IMAGE_ARGUMENT", `directory to store blobs does not exist: ${outputBlobDir}`);
  if (file.bootstrap.blobs.length === 0) throw new NydusImageError("IMAGE_FILE", "No blob info found in superblock");
  const list = parsePrefetchFiles(await readListFile(prefetchFiles));
  for (const warning of list.warnings) log.warn(warning);
  const image = editable(file, "optimize");
  const moves = planMoves(image, list.files, (path) => log.warn(`prefetch file ${path} is bad, skip it`));
  const blobs = [...image.blobs];
  if (moves.size > 0) blobs.push(await moveChunks(image, moves, outputBlobDir, new ImageChunks(file, backend, context.io.signal)));
  else log.warn("no listed file has data: no blob is written");
  await writeArtifact({ file: flags.outputBootstrap }, writeEdited(image, blobs));
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: flags.outputBootstrap,
      blobs: blobs.map(({ id }) => id),
      fsVersion: String(file.bootstrap.version) as "5" | "6",
      compressor: compressorOf(file.bootstrap.flags),
    },
    { compact: false },
  );
}

async function readListFile(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((cause: unknown) => {
    throw new NydusImageError("IMAGE_FILE", `failed to open ${path}`, { cause });
  });
}

/** Which chunks of which files move, in the order of the list. */
function planMoves(image: EditableImage, files: readonly PrefetchFile[], bad: (path: string) => void): Map<TreeNode, Set<number>> {
  const moves = new Map<TreeNode, Set<number>>();
  for (const { path, ranges } of files) {
    const node = findNode(image.root, Buffer.from(path).toString("latin1"));
    if (!node?.isRegular) {
      bad(path);
      continue;
    }
    const chosen = moves.get(node) ?? new Set();
    for (const i of node.chunks.keys()) {
      const start = i * image.bootstrap.chunkSize;
      const end = start + node.chunks[i].uncompressedSize;
      // Both ends count, as in the original: a range that ends where a chunk begins touches it.
      if (ranges === undefined || ranges.some(([offset, size]) => offset <= end && start <= offset + size)) chosen.add(i);
    }
    if (chosen.size > 0) moves.set(node, chosen);
  }
  return moves;
}

/** Stores the chunks and points the files, by all their names, at them. A chunk that several files share is stored once. */
async function moveChunks(image: EditableImage, moves: ReadonlyMap<TreeNode, ReadonlySet<number>>, directory: string, chunks: ImageChunks) {
  const { bootstrap } = image;
  const bytes = chunkBytes(image, chunks);
  await using blob = await RepackedBlob.create({
    destination: { directory },
    version: bootstrap.version,
    compressor: blobCompressorOf(bootstrap),
    digester: digesterOf(bootstrap),
    chunkSize: bootstrap.chunkSize,
    chunkInfoVersion: bootstrap.blobs.some((each) => hasFeature(each, "chunkInfoV2")) ? 2 : 1,
    // Only version 6 marks it.
    features: bootstrap.version === 6 ? blobFeatures.separatedWithPrefetchFiles : 0,
    sectionHeaders: true,
  });
  const moved = new Map<string, StoredChunk>();
  const byLink = new Map<unknown, StoredChunk[]>();
  for (const [node, chosen] of moves) {
    const list = (node.link && byLink.get(node.link)) ?? node.chunks.slice();
    for (const i of chosen) {
      if (list[i].blob === blob.blob) continue;
      // The chunk table has room for one chunk of a digest in a blob.
      const key = digestKey(list[i]);
      let next = moved.get(key);
      if (next === undefined) {
        next = await blob.add(list[i], bytes);
        moved.set(key, next);
      }
      list[i] = next;
    }
    node.chunks = list;
    if (node.link) byLink.set(node.link, list);
  }
  await blob.commit();
  if (byLink.size > 0) pointLinks(image.root, byLink);
  return blob.blob;
}

function pointLinks(root: TreeNode, byLink: ReadonlyMap<unknown, StoredChunk[]>): void {
  for (const node of nodesOf(root)) {
    const list = node.link && byLink.get(node.link);
    if (list) node.chunks = list;
  }
}

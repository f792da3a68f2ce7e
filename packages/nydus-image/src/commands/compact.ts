/** `nydus-image compact`: drops what nobody uses from the blobs of an image, and joins small ones. Source: spec/nydus-image.md, sections 3.5 and 16 */
import { RepackedBlob, type TreeNode, writeArtifact } from "@nydus-ts/builder";
import type { BlobEntry, StoredChunk } from "@nydus-ts/rafs-format/writer";
import type { Command } from "commander";
import { addBackendOptions, type BackendFlags, openBackend } from "../blob-backend.ts";
import { compressedDataSize } from "../bootstrap-file.ts";
import { type BlobUse, planCompaction } from "../compaction.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { ImageChunks } from "../image-chunks.ts";
import { loadLayerFile, parseChunkDict } from "../layer-file.ts";
import type { Log } from "../log.ts";
import { isDirectory, parseInteger } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import { blobTraits, chunkBytes, digestKey, type EditableImage, editable, nodesOf, writeEdited } from "../rewrite-image.ts";
import { compressorOf } from "./merge.ts";

interface CompactFlags extends BackendFlags {
  bootstrap: string;
  blobDir: string;
  minUsedRatio: string;
  compactBlobSize: string;
  maxCompactSize: string;
  layersToCompact: string;
  chunkDict?: string;
  outputBootstrap?: string;
  outputJson?: string;
}

export function addCompact(program: Command, context: Context): void {
  const command = program
    .command("compact")
    .description("write blobs anew without the chunks that nobody uses, small ones together")
    .requiredOption("-B, --bootstrap <path>", "image")
    .requiredOption("-D, --blob-dir <dir>", "directory of the image's blobs, and for new ones");
  addBackendOptions(command)
    .option("--min-used-ratio <percent>", "blobs of which less is used are written anew", "0")
    .option("--compact-blob-size <bytes>", "smaller blobs are joined", "10485760")
    .option("--max-compact-size <bytes>", "size of a joined blob", "104857600")
    .option("--layers-to-compact <count>", "with fewer blobs than this nothing is done", "0")
    .option("--chunk-dict <path>", "bootstrap of a chunk dictionary; its blobs stay as they are")
    .option("-O, --output-bootstrap <path>", "file for the new bootstrap; default: the image's name with the extension bootstrap.compact")
    .option("-J, --output-json <path>", "file for the result as JSON")
    .action(async (flags: CompactFlags) => {
      await compact(context, flags);
    });
}

async function compact(context: Context, flags: CompactFlags): Promise<void> {
  const log = context.log();
  const limits = {
    minUsedRatio: parseInteger(flags.minUsedRatio, 2 ** 8),
    compactBlobBytes: parseInteger(flags.compactBlobSize, Number.MAX_SAFE_INTEGER),
    maxCompactBytes: parseInteger(flags.maxCompactSize, Number.MAX_SAFE_INTEGER),
  };
  const layersToCompact = parseInteger(flags.layersToCompact, Number.MAX_SAFE_INTEGER);
  const file = await loadLayerFile(flags.bootstrap, "bootstrap", log);
  log.info(`load bootstrap ${JSON.stringify(flags.bootstrap)} successfully`);
  await using backend = await openBackend(flags, "--blob-dir or --backend-type");
  if (!(await isDirectory(flags.blobDir)))
    throw new NydusImageError("IMAGE_ARGUMENT", `directory to store blobs does not exist: ${flags.blobDir}`);
  const image = editable(file, "compact");
  const dictionary = flags.chunkDict === undefined ? undefined : await Dictionary.load(parseChunkDict(flags.chunkDict), image, log);
  if (image.blobs.length + (dictionary?.added.length ?? 0) < layersToCompact) return;

  const { uses, moved, isChanged } = collectUses(image, dictionary);
  const fates = planCompaction(uses, limits, (line) => log.info(line));
  if (!isChanged && fates.every((fate) => fate === "keep")) {
    log.info("compactor: no chance to compact data blobs");
    return;
  }
  const bytes = chunkBytes(image, new ImageChunks(file, backend, context.io.signal));
  const blobs: BlobEntry[] = [];
  for (const [i, fate] of fates.entries()) {
    if (fate === "keep") blobs.push(uses[i].blob);
    else if (fate !== "drop") blobs.push(await rebuild(image, fate.chunks, flags.blobDir, bytes, moved));
  }
  for (const node of nodesOf(image.root)) node.chunks = node.chunks.map((chunk) => resolve(chunk, moved));
  blobs.push(...(dictionary?.used(image.root) ?? []));
  const output = flags.outputBootstrap ?? defaultOutput(flags.bootstrap);
  await writeArtifact({ file: output }, writeEdited(image, blobs));
  log.info("compactor: successfully compacted blob");
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: output,
      blobs: blobs.map(({ id }) => id),
      fsVersion: String(file.bootstrap.version) as "5" | "6",
      compressor: compressorOf(file.bootstrap.flags),
    },
    { compact: false },
  );
}

/** The source path with its extension replaced. */
export function defaultOutput(path: string): string {
  return `${path.replace(/(?<=[^/])\.[^./]*$/, "")}.bootstrap.compact`;
}

/** The chunks of a dictionary, and the rows its blobs have in the table. */
class Dictionary {
  /** rows that the image does not have yet */
  readonly added: BlobEntry[];
  readonly #rows: ReadonlyMap<string, BlobEntry>;
  readonly #chunks = new Map<string, StoredChunk>();

  private constructor(image: EditableImage, dictionary: { blobs: readonly BlobEntry[]; root: TreeNode }) {
    const known = new Map(image.blobs.map((blob) => [blob.id, blob]));
    this.added = dictionary.blobs.filter(({ id }) => !known.has(id));
    this.#rows = new Map(dictionary.blobs.map((blob) => [blob.id, known.get(blob.id) ?? blob]));
    for (const node of nodesOf(dictionary.root)) {
      for (const chunk of node.chunks) {
        const key = digestKey(chunk);
        if (!this.#chunks.has(key)) this.#chunks.set(key, { ...chunk, blob: this.#rows.get(chunk.blob.id)! });
      }
    }
  }

  static async load(path: string, image: EditableImage, log: Log): Promise<Dictionary> {
    return new Dictionary(image, (await loadLayerFile(path, "chunk dictionary", log)).image);
  }

  has(blob: BlobEntry): boolean {
    return this.#rows.get(blob.id) === blob;
  }

  /** @throws NydusImageError IMAGE_SOURCE: equal digests, different sizes */
  find(chunk: StoredChunk): StoredChunk | undefined {
    const found = this.#chunks.get(digestKey(chunk));
    if (found && found.uncompressedSize !== chunk.uncompressedSize) {
      throw new NydusImageError(
        "IMAGE_SOURCE",
        `a chunk of blob ${chunk.blob.id} has ${chunk.uncompressedSize} bytes, in the chunk dictionary ${found.uncompressedSize}`,
      );
    }
    return found;
  }

  /** Blobs of the dictionary that the tree refers to, in the order of their rows. */
  used(root: TreeNode): BlobEntry[] {
    const referred = new Set<BlobEntry>();
    for (const node of nodesOf(root)) for (const { blob } of node.chunks) referred.add(blob);
    return [...this.#rows.values()].filter((blob) => referred.has(blob));
  }
}

/** Of each blob that is no dictionary's the chunks in use. `moved`: where others are found instead. */
function collectUses(image: EditableImage, dictionary: Dictionary | undefined) {
  const { bootstrap } = image;
  const uses = new Map<BlobEntry, BlobUse>();
  for (const [i, blob] of image.blobs.entries()) {
    if (!dictionary?.has(blob)) uses.set(blob, { blob, dataBytes: compressedDataSize(bootstrap.blobs[i]), chunks: [] });
  }
  const moved = new Map<StoredChunk, StoredChunk>();
  const seen = new Map<unknown, StoredChunk>();
  let isChanged = false;
  for (const node of nodesOf(image.root)) {
    for (const chunk of node.chunks) {
      if (moved.has(chunk)) continue;
      const use = uses.get(chunk.blob);
      // Version 5 records a chunk in every file that has it, so equal ones are told by their digest alone.
      const key = bootstrap.version === 5 ? digestKey(chunk) : chunk;
      const other = use ? seen.get(key) : dictionary?.find(chunk);
      if (other && other !== chunk) {
        moved.set(chunk, other);
        isChanged ||= other.blob !== chunk.blob || other.compressedOffset !== chunk.compressedOffset;
      } else if (use && !other) {
        seen.set(key, chunk);
        use.chunks.push(chunk);
      }
    }
  }
  return { uses: [...uses.values()], moved, isChanged };
}

/** Stores chunks in a new blob, in the order of their old places; a digest once, as the chunk table has room for one. */
async function rebuild(
  image: EditableImage,
  chunks: readonly StoredChunk[],
  directory: string,
  bytes: ReturnType<typeof chunkBytes>,
  moved: Map<StoredChunk, StoredChunk>,
): Promise<BlobEntry> {
  const { bootstrap } = image;
  await using blob = await RepackedBlob.create({
    destination: { directory },
    ...blobTraits(bootstrap),
    features: 0,
    sectionHeaders: false,
  });
  const index = new Map(image.blobs.map((entry, i) => [entry, i]));
  const place = (chunk: StoredChunk) => index.get(chunk.blob)!;
  const ordered = [...chunks].sort((a, b) => place(a) - place(b) || a.compressedOffset - b.compressedOffset || a.index - b.index);
  const stored = new Map<string, StoredChunk>();
  for (const chunk of ordered) {
    const key = digestKey(chunk);
    const next = stored.get(key) ?? (await blob.add(chunk, bytes));
    stored.set(key, next);
    moved.set(chunk, next);
  }
  await blob.commit();
  return blob.blob;
}

/** Where a chunk is after all: it may stand for another that was itself stored anew. */
function resolve(chunk: StoredChunk, moved: ReadonlyMap<StoredChunk, StoredChunk>): StoredChunk {
  let found = chunk;
  for (let next = moved.get(found); next; next = moved.get(found)) found = next;
  return found;
}

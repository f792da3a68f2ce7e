/** `nydus-image chunkdict generate`: a dictionary of the chunks that images share. Source: spec/nydus-image.md, sections 3.9 and 18 */
import { basename, dirname, resolve } from "node:path";
import { type PrefetchPolicy, writeArtifact } from "@nydus-ts/builder";
import { superFlags } from "@nydus-ts/rafs-format";
import type { BlobEntry } from "@nydus-ts/rafs-format/writer";
import { type Command, Option } from "commander";
import { storedBlobId } from "../bootstrap-file.ts";
import { type BlobRow, ChunkDatabase, type ChunkRow, databasePath } from "../chunkdict/database.ts";
import { selectChunks } from "../chunkdict/select.ts";
import { chunkPlace, writeDictionary } from "../chunkdict/write.ts";
import type { Context } from "../context.ts";
import { NydusImageError } from "../errors.ts";
import { type LayerFile, loadLayerFile } from "../layer-file.ts";
import type { Log } from "../log.ts";
import { bootstrapDestination, readPrefetchPatterns } from "../options.ts";
import { writeOutputJson } from "../output-json.ts";
import { compressorOf } from "./merge.ts";

export interface GenerateFlags {
  database: string;
  bootstrap?: string;
  blobDir?: string;
  prefetchPolicy: PrefetchPolicy;
  outputJson?: string;
}

const mebibyte = 1024 * 1024;

export function addChunkdict(program: Command, context: Context): void {
  const chunkdict = program.command("chunkdict").description("chunk dictionaries");
  chunkdict.action(() => void context.io.stdout.write("Usage: [OPTIONS] [COMMAND]\n"));
  chunkdict
    .command("generate")
    .description("note the chunks of images in a database, and write a dictionary of those that they share")
    .argument("<SOURCE...>", "bootstraps, each in a directory called NAME:VERSION")
    .option("--database <url>", "database, sqlite:///PATH or sqlite://:memory:", "sqlite:///home/runner/output/database.db")
    .option("-B, --bootstrap <path>", "file for the dictionary")
    .option("-D, --blob-dir <dir>", "directory for the dictionary, named by its digest")
    .addOption(new Option("--prefetch-policy <policy>", "accepted").choices(["fs", "blob", "none"]).default("none"))
    .option("-J, --output-json <path>", "file for the result as JSON")
    .option("-C, --config <path>", "storage configuration file")
    .option("-v, --verbose", "accepted")
    .action(async (sources: string[], flags: GenerateFlags) => {
      await generate(context, sources, flags);
    });
}

export async function generate(context: Context, sources: readonly string[], flags: GenerateFlags): Promise<void> {
  const { io } = context;
  await readPrefetchPatterns(context, flags.prefetchPolicy);
  const destination = await bootstrapDestination(flags);
  const log = context.log();
  const files: LayerFile[] = [];
  for (const path of sources) files.push(await loadLayerFile(path, "bootstrap", log));
  const first = files[0].bootstrap;
  if (files.some(({ bootstrap }) => bootstrap.version !== first.version)) {
    for (const { path, bootstrap } of files) io.stdout.write(`Bootstrap path ${JSON.stringify(path)} has version V${bootstrap.version}\n`);
    throw new NydusImageError("IMAGE_SOURCE", "Bootstrap versions are inconsistent, cannot use chunkdict.");
  }
  const other = files.find(({ bootstrap }) => bootstrap.chunkSize !== first.chunkSize);
  if (other)
    throw new NydusImageError(
      "IMAGE_SOURCE",
      `chunk sizes differ: ${first.chunkSize} of ${files[0].path}, ${other.bootstrap.chunkSize} of ${other.path}`,
    );
  const scanned = files.map(scan);
  using database = new ChunkDatabase(databasePath(flags.database));
  database.add(
    scanned.flatMap(({ blobs }) => blobs),
    scanned.flatMap(({ chunks }) => chunks),
  );
  log.info(`Chunkdict metadata is saved at: ${JSON.stringify(flags.database)}`);

  const rows = database.chunks();
  const selection = selectChunks(rows);
  tell(log, rows, selection);
  const { bootstrap, blobs } = writeDictionary(
    selection.rows,
    database.blobs(),
    {
      blobs: new Map(scanned.flatMap(({ entries }) => [...entries])),
      indexes: new Map(scanned.flatMap(({ indexes }) => [...indexes])),
    },
    {
      version: first.version,
      chunkSize: first.chunkSize,
      compressor: compressorOf(first.flags),
      digester: files[0].traits.digester,
      explicitUidGid: files[0].traits.explicitUidGid,
      cipher: files.some((file) => (file.bootstrap.flags & superFlags.encryptionAes128Xts) !== 0n) ? 1 : 0,
    },
    (line) => io.stderr.write(`${line}\n`),
  );
  const path = await writeArtifact(destination, bootstrap);
  log.info(`Chunkdict metadata is saved at: ${JSON.stringify(path)}`);
  await writeOutputJson(
    flags.outputJson,
    {
      bootstrap: path,
      blobs: blobs.map(({ id }) => id),
      fsVersion: String(first.version) as "5" | "6",
      compressor: compressorOf(first.flags),
    },
    { compact: false },
  );
}

interface Scanned {
  blobs: BlobRow[];
  chunks: ChunkRow[];
  entries: Map<string, BlobEntry>;
  indexes: Map<string, number>;
}

/** Rows of an image, called as its directory is: NAME:VERSION. */
function scan(file: LayerFile): Scanned {
  const { bootstrap, image, path } = file;
  const [name, version] = basename(dirname(resolve(path)))
    .split(":")
    .slice(-2);
  if (version === undefined)
    throw new NydusImageError("IMAGE_SOURCE", `${path} must lie in a directory called NAME:VERSION, by which its image is known`);
  const ids = bootstrap.blobs.map((blob) => storedBlobId(file, blob));
  const result: Scanned = { blobs: [], chunks: [], entries: new Map(image.blobs.map((blob, i) => [ids[i], blob])), indexes: new Map() };
  for (const [i, blob] of bootstrap.blobs.entries()) {
    const { compressedSize, uncompressedSize, compressor, ciCompressedSize, ciUncompressedSize, ciOffset } = blob;
    result.blobs.push({ blobId: ids[i], compressedSize, uncompressedSize, compressor, ciCompressedSize, ciUncompressedSize, ciOffset });
  }
  for (const { nid } of bootstrap.walk()) {
    for (const chunk of bootstrap.chunksOf(nid)) {
      const record = bootstrap.chunkRecord(chunk);
      if (!record)
        throw new NydusImageError("IMAGE_FILE", `${path}: chunk ${chunk.chunkIndex} of blob ${chunk.blobIndex} is not in the chunk table`);
      const row: ChunkRow = {
        image: name,
        version,
        blobId: ids[record.blobIndex],
        digest: Buffer.from(record.digest).toString("hex"),
        crc32: record.crc32c,
        compressedSize: record.compressedSize,
        uncompressedSize: record.uncompressedSize,
        compressedOffset: record.compressedOffset,
        uncompressedOffset: record.uncompressedOffset,
      };
      result.chunks.push(row);
      result.indexes.set(chunkPlace(row), record.chunkIndex);
    }
  }
  return result;
}

function tell(log: Log, rows: readonly ChunkRow[], selection: ReturnType<typeof selectChunks>): void {
  const { trainBytes, testBytes, remainingBytes, dictionaryBytes, alone } = selection;
  const all = rows.reduce((sum, { compressedSize }) => sum + compressedSize, 0);
  log.info(`All chunk size is ${all / mebibyte}`);
  log.info(`Train set size is ${trainBytes / mebibyte}`);
  log.info(`Test set size is ${testBytes / mebibyte}`);
  const rate = testBytes === 0 ? 0 : 1 - remainingBytes / testBytes;
  log.info(`After deduplicating test set size is ${remainingBytes / mebibyte} and deduplicating rate is ${rate} `);
  log.info(`Chunkdict size is ${dictionaryBytes / mebibyte}`);
  log.info(`The length of chunkdict is ${selection.rows.length}`);
  log.info("It is not recommended to use image deduplication");
  for (const image of alone) log.info(image);
}

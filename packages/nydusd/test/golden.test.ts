import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { cp, mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import {
  compareListings,
  type GoldenCase,
  goldenAbsent,
  goldenCases,
  goldenDir,
  listTree,
  readListing,
  Workspace,
} from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Nydusd, startNydusd } from "./support.ts";

/** Cases the original can't read either, or whose data is not stored (golden/README.md). */
const unreadable: Record<string, string> = {
  "small-v6-optimize": "the original wrote a wrong blob record",
  "tiny-v6-optimize": "the original wrote a wrong blob record",
  "plain-v6-estargz-ref": "ZRAN context at a member end",
  "small-v6-offset": "nothing is stored in front of the blob",
  "small-v6-cachedir": "cache only, no blob",
};

const golden = goldenDir();
const readable = goldenCases().filter(
  (entry) => entry.hasListing && entry.omitted.length === 0 && unreadable[entry.name] === undefined && sourceOf(entry) !== undefined,
);

describe.skipIf(golden === undefined)(`golden images through one daemon${golden === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let nydusd: Nydusd;

  beforeAll(async () => {
    workspace = new Workspace("nydusd-golden");
    // Reference cases take their data from the source tars, named by digest.
    const sources = workspace.path("sources");
    await mkdir(sources);
    for (const name of readdirSync(join(golden!, "sources"))) {
      const file = join(golden!, "sources", name);
      if (!(await stat(file)).isFile()) continue;
      const digest = createHash("sha256").update(readFileSync(file)).digest("hex");
      if (!existsSync(join(sources, digest))) symlinkSync(file, join(sources, digest));
    }
    symlinkSync(join(golden!, "sources", "plain.tar"), join(sources, "plain.tar"));
    // big.tar is the one source that is stored as gzip only.
    const big = gunzipSync(readFileSync(join(golden!, "sources", "big.tar.gz")));
    await writeFile(join(sources, createHash("sha256").update(big).digest("hex")), big);
    nydusd = await startNydusd(workspace, ["fuse"]);
  });
  afterAll(() => workspace?.[Symbol.asyncDispose]());

  test.for(readable.map((entry) => [entry.name, entry] as const))("%s shows its listing", async ([name, entry]) => {
    const cache = workspace.path(name, "cache");
    await mkdir(cache, { recursive: true });
    // A tarfs image reads its tars in the cache directory itself.
    if (name.includes("tarfs")) await cp(workspace.path("sources"), cache, { recursive: true, dereference: true });
    const blobs = workspace.path(name, "blobs");
    if (entry.blobDirectory === undefined) await mkdir(blobs, { recursive: true });
    else await cp(entry.blobDirectory, blobs, { recursive: true });
    const config = JSON.stringify({
      device: {
        backend: { type: "localfs", config: { dir: blobs, alt_dirs: [workspace.path("sources")] } },
        cache: { type: "blobcache", config: { work_dir: cache } },
      },
      mode: "direct",
      enable_xattr: true,
    });
    const source = entry.bootstrapFile ?? join(blobs, sourceOf(entry)!);
    await nydusd.client.mount(`/${name}`, { source, fs_type: "rafs", config });
    const differences = compareListings(await listTree(join(nydusd.mountpoint, name)), readListing(entry));
    expect(differences).toEqual([]);
    await nydusd.client.umount(`/${name}`);
    expect(existsSync(join(nydusd.mountpoint, name, "anything"))).toBe(false);
  });
});

/** The file that holds the image: the bootstrap, or of an inline case the blob that was built last. */
function sourceOf(entry: GoldenCase): string | undefined {
  if (entry.bootstrapFile !== undefined) return entry.bootstrapFile;
  const output = join(entry.directory, "output.json");
  if (!existsSync(output)) return undefined;
  const { blobs } = JSON.parse(readFileSync(output, "utf8")) as { blobs?: string[] };
  const named = blobs?.at(-1);
  if (named === undefined || entry.blobDirectory === undefined || existsSync(join(entry.blobDirectory, named))) return named;
  // A reference case names the tar.gz; its bootstrap is in the blob of the index, the only one stored.
  return readdirSync(entry.blobDirectory)[0];
}

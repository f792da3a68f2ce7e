import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
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
import { layOutBlobs, layOutSources } from "./golden-blobs.ts";
import { type Nydusd, startNydusd } from "./support.ts";

/** Nobody has the data of these: zstd 1.5.6 alone would make their blobs again, which are too large to be stored. */
const withoutBlob = ["big-v6-16m-zstd", "big-v5-1m-zstd"];

/**
 * Images that contradict themselves, and the files that can't be read, by the original neither:
 * `--blob-offset` counts chunks from 4096 bytes further than the chunk info beside them, so no place of the blob fits both;
 * `optimize` of batches copied nothing of `/r` and says of both its chunks that they are encrypted, without a key.
 */
const contradictory: Record<string, (listed: { path: string; size: number }) => boolean> = {
  "small-v6-offset": ({ size }) => size > 0,
  "tiny-v6-optimize": ({ path }) => path === "/mid" || path === "/r",
};

const golden = goldenDir();
const readable = goldenCases().filter(
  (entry) =>
    entry.hasListing && !withoutBlob.includes(entry.name) && contradictory[entry.name] === undefined && sourceOf(entry) !== undefined,
);

describe.skipIf(golden === undefined)(`golden images through one daemon${golden === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let nydusd: Nydusd;

  beforeAll(async () => {
    workspace = new Workspace("nydusd-golden");
    await layOutSources(golden!, workspace.path("sources"), gunzipSync);
    nydusd = await startNydusd(workspace, ["fuse"]);
  });
  afterAll(() => workspace?.[Symbol.asyncDispose]());

  test.for(readable.map((entry) => [entry.name, entry] as const))("%s shows its listing", async ([name, entry]) => {
    await mount(entry);
    const differences = compareListings(await listTree(join(nydusd.mountpoint, name)), readListing(entry));
    expect(differences).toEqual([]);
    await nydusd.client.umount(`/${name}`);
    expect(existsSync(join(nydusd.mountpoint, name, "anything"))).toBe(false);
  });

  test.for(goldenCases().filter(({ name }) => contradictory[name] !== undefined))(
    "$name shows its tree, and EIO for data it does not have, never other data",
    async (entry) => {
      await mount(entry);
      const mounted = join(nydusd.mountpoint, entry.name);
      expect(compareListings(await listTree(mounted, { content: false }), readListing(entry), { ignore: ["sha256"] })).toEqual([]);
      let lost = 0;
      for (const { path, type, size, sha256 } of readListing(entry)) {
        if (type !== "file") continue;
        const bytes = typeof path === "string" ? Buffer.from(path) : Buffer.from(path.b64, "base64");
        const content = readFile(Buffer.concat([Buffer.from(mounted), bytes]));
        if (contradictory[entry.name]!({ path: bytes.toString(), size })) {
          await expect(content).rejects.toMatchObject({ code: "EIO" });
          lost++;
        } else
          expect(
            createHash("sha256")
              .update(await content)
              .digest("hex"),
          ).toBe(sha256);
      }
      expect(lost).toBeGreaterThan(0);
      await nydusd.client.umount(`/${entry.name}`);
    },
  );

  async function mount(entry: GoldenCase): Promise<void> {
    const cache = workspace.path(entry.name, "cache");
    const blobs = workspace.path(entry.name, "blobs");
    await layOutBlobs(entry, blobs, cache, workspace.path("sources"));
    const config = JSON.stringify({
      device: {
        backend: { type: "localfs", config: { dir: blobs, alt_dirs: [workspace.path("sources")] } },
        cache: { type: "blobcache", config: { work_dir: cache } },
      },
      mode: "direct",
      enable_xattr: true,
    });
    const source = entry.bootstrapFile ?? join(blobs, sourceOf(entry)!);
    await nydusd.client.mount(`/${entry.name}`, { source, fs_type: "rafs", config });
  }
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

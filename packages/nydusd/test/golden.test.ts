import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { blake3 } from "@napi-rs/blake-hash";
import { chunkInfoV2Flags, crc32c, locateBlobMeta, metaTrailerBytes, openBootstrap } from "@nydus-ts/rafs-format";
import {
  compareListings,
  type GoldenCase,
  goldenAbsent,
  goldenCase,
  goldenCases,
  goldenDir,
  type ListingEntry,
  listTree,
  readListing,
  run,
  Workspace,
} from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { layOutBlobs, layOutSources } from "./golden-blobs.ts";
import { type Nydusd, startNydusd } from "./support.ts";

const repository = join(import.meta.dirname, "../../..");

/**
 * Images that contradict themselves, and the files that can't be read, by the original neither:
 * `--blob-offset` counts chunks from 4096 bytes further than the place of the chunk info, so no place of the blob fits both;
 * `optimize` of batches copied nothing of `/r` and says of both its chunks that they are encrypted, without a key.
 */
const contradictory: Record<string, (listed: { path: string; size: number }) => boolean> = {
  "small-v6-offset": ({ size }) => size > 0,
  "tiny-v6-optimize": ({ path }) => path === "/mid" || path === "/r",
};

const golden = goldenDir();
const readable = goldenCases().filter((entry) => entry.hasListing && contradictory[entry.name] === undefined);

/** Every case is mounted and compared: most with the listing beside it, each other one with what its test says. */
describe.skipIf(golden === undefined)(`golden images through one daemon${golden === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let nydusd: Nydusd;
  const compared = new Set<string>();

  beforeAll(async () => {
    workspace = new Workspace("nydusd-golden");
    await layOutSources(golden!, workspace.path("sources"), gunzipSync);
    await run("bash", [join(golden!, "make-sources.sh"), workspace.path("trees")]);
    nydusd = await startNydusd(workspace, ["fuse"]);
  }, 60_000);
  afterAll(() => workspace?.[Symbol.asyncDispose]());

  test.for(readable.map((entry) => [entry.name, entry] as const))("%s shows its listing", async ([name, entry]) => {
    await mount(entry);
    expect(await differences(name, readListing(entry))).toEqual([]);
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
      compared.add(entry.name);
      await nydusd.client.umount(`/${entry.name}`);
    },
  );

  test("small-v6-offset contradicts itself: its chunks lie 4096 bytes before where it says, its chunk info where it says", async () => {
    const { bootstrapFile, blobDirectory } = goldenCase("small-v6-offset");
    const bootstrap = openBootstrap(await readFile(bootstrapFile!));
    const blob = bootstrap.blobs[0]!;
    const stored = await readFile(join(blobDirectory!, blob.id));
    let end = 0;
    for (const chunk of bootstrap.chunkRecords()) {
      const place = chunk.compressedOffset - 4096;
      const bytes = stored.subarray(place, place + chunk.compressedSize);
      const data = chunk.compressedSize === chunk.uncompressedSize ? bytes : zstdDecompressSync(bytes);
      expect(Buffer.from(blake3(data)).equals(chunk.digest)).toBe(true);
      end = Math.max(end, chunk.compressedOffset + chunk.compressedSize);
    }
    expect(zstdDecompressSync(stored.subarray(blob.ciOffset, blob.ciOffset + blob.ciCompressedSize))).toHaveLength(blob.ciUncompressedSize);
    expect(end).toBe(blob.ciOffset + 4096);
  });

  test("tiny-v6-optimize contradicts itself: its new blob is a copy of one chunk of two, and both are encrypted without a cipher", async () => {
    const { bootstrapFile, blobDirectory } = goldenCase("tiny-v6-optimize");
    const bootstrap = openBootstrap(await readFile(bootstrapFile!));
    const added = bootstrap.blobs[1]!;
    const chunks = Array.from(bootstrap.chunkRecords()).filter(({ blobIndex }) => blobIndex === 1);
    const stored = await readFile(join(blobDirectory!, added.id));
    const located = locateBlobMeta(added, stored.subarray(-metaTrailerBytes), stored.length);
    const info = zstdDecompressSync(stored.subarray(located.ciOffset, located.ciOffset + located.ciCompressedSize));
    // The flags are the last byte of the first word of a record of 24 bytes (spec/rafs.md 5.3).
    const flags = [info[7]!, info[24 + 7]!];
    expect(flags.map((byte) => byte & chunkInfoV2Flags.encrypted)).toEqual([chunkInfoV2Flags.encrypted, chunkInfoV2Flags.encrypted]);
    expect(added.cipher).toBe("none");
    const byPlace = chunks.sort((a, b) => a.compressedOffset - b.compressedOffset);
    expect(byPlace.map(({ compressedOffset, compressedSize }) => [compressedOffset, compressedSize])).toEqual([
      [0, added.compressedSize],
      [added.compressedSize, 0],
    ]);
    expect(Buffer.from(blake3(zstdDecompressSync(stored.subarray(0, added.compressedSize)))).equals(byPlace[0]!.digest)).toBe(true);
  });

  test.each([
    ["layers-v5-compact", "layers-v5-parent"],
    ["layers-v6-compact", "layers-v6-parent"],
  ])("%s: what compact left as it was shows the listing of %s", async (name, sibling) => {
    const entry = goldenCase(name);
    await mount(entry, { source: join(entry.directory, "in.boot") });
    expect(await differences(name, readListing(goldenCase(sibling)))).toEqual([]);
    await nydusd.client.umount(`/${name}`);
    // What it wrote beside it is an empty file.
    await expect(mount(entry)).rejects.toThrow(/bootstrap/);
  });

  test("chunkdict-v6-generate: its input shows the listing of small-v6-zstd-blake3, the dictionary what the kernel shows", async () => {
    const name = "chunkdict-v6-generate";
    const entry = goldenCase(name);
    await mount(entry, { source: join(entry.directory, "in.boot") });
    expect(await differences(name, readListing(goldenCase("small-v6-zstd-blake3")))).toEqual([]);
    await nydusd.client.umount(`/${name}`);

    // The only name in it is "/chunkdict": a tree for the builder, not for a kernel, which has the root and can't list it.
    await mount(entry);
    const seen = await rootOf(join(nydusd.mountpoint, name));
    expect(seen).toMatchObject({ names: "EIO", mode: 0o40660, uid: 1000 });
    if (readFileSync("/proc/filesystems", "utf8").includes("erofs")) {
      const kernel = workspace.path("kernel");
      await mkdir(kernel);
      await run("mount", ["-t", "erofs", "-o", "loop,ro", entry.bootstrapFile!, kernel]);
      try {
        expect(seen).toEqual(await rootOf(kernel));
      } finally {
        await run("umount", [kernel]);
      }
    }
    await nydusd.client.umount(`/${name}`);
  });

  test("ext-v6: both bootstraps show their halves of the source tree", async () => {
    const name = "ext-v6";
    const entry = goldenCase(name);
    const tree = await listTree(workspace.path("trees/ext"));
    const isExternal = (path: unknown): boolean => String(path).startsWith("/d");

    await mount(entry);
    expect(await differences(name, asImage(tree.filter(({ path }) => !isExternal(path))))).toEqual([]);
    await nydusd.client.umount(`/${name}`);

    // attributes.txt says where the file lies in the external blob, and invents the CRC of each chunk. So the file is not what lies there:
    const source = join(entry.directory, "bootstrap.external");
    const data = await readFile(workspace.path("trees/ext/d/ext"));
    const externalBlob = (): Buffer => Buffer.concat([Buffer.alloc(8192), data, Buffer.alloc(20_480 - 8192 - data.length)]);
    await mount(entry, { source, blobs: { ["ab".repeat(32)]: externalBlob() } });
    await expect(readFile(join(nydusd.mountpoint, name, "d/ext"))).rejects.toMatchObject({ code: "EIO" });
    await nydusd.client.umount(`/${name}`);
    // With four bytes of each chunk changed so that it has the CRC, the image shows what then lies there.
    for (const [chunk, crc] of [0x11111111, 0x22222222, 0x33333333].entries())
      forceCrc32c(data.subarray(chunk * 4096, (chunk + 1) * 4096), crc);
    await mount(entry, { source, blobs: { ["ab".repeat(32)]: externalBlob() } });
    const sha256 = createHash("sha256").update(data).digest("hex");
    const half = asImage(tree.filter(({ path }) => path === "/" || isExternal(path)));
    expect(
      await differences(
        name,
        half.map((listed) => (listed.path === "/d/ext" ? { ...listed, sha256 } : listed)),
      ),
    ).toEqual([]);
    await nydusd.client.umount(`/${name}`);
  });

  test("plain-v6-estargztoc, where the original aborts: our build shows the listing of plain-v6-estargz-rafs, without times", async () => {
    const name = "plain-v6-estargztoc";
    const layer = await readFile(join(golden!, "sources/plain.estargz"));
    const id = createHash("sha256").update(layer).digest("hex");
    const recorded = /^nydus-image (create .*)$/m.exec(await readFile(join(golden!, "cases", name, "cmd.txt"), "utf8"))![1]!;
    const argv = recorded
      .replace("0".repeat(64), id)
      .replace("0x5d7c", `0x${layer.length.toString(16)}`) // it is that of an earlier layer
      .replaceAll("$OUT", workspace.path("estargztoc"))
      .replace("$SRC", join(golden!, "sources"));
    await mkdir(workspace.path("estargztoc"));
    await run(join(repository, "bin/node"), [join(repository, "packages/nydus-image/src/bin.ts"), ...argv.split(" ")]);
    await mount(goldenCase(name), { source: workspace.path("estargztoc/bootstrap"), blobs: { [id]: layer } });
    // The table of contents holds no times.
    const listing = readListing(goldenCase("plain-v6-estargz-rafs")).map((listed) => ({ ...listed, mtime: 0, nsec: 0 }));
    expect(await differences(name, listing)).toEqual([]);
    await nydusd.client.umount(`/${name}`);
  });

  test("no case was left out", () => {
    expect([...compared].sort()).toEqual(goldenCases().map(({ name }) => name));
  });

  async function differences(name: string, expected: readonly ListingEntry[]): Promise<string[]> {
    compared.add(name);
    return compareListings(await listTree(join(nydusd.mountpoint, name)), expected);
  }

  /** @param other.source  another bootstrap than that of the case; @param other.blobs  blobs that it wants besides, by id */
  async function mount(entry: GoldenCase, other: { source?: string; blobs?: Record<string, Uint8Array> } = {}): Promise<void> {
    const cache = workspace.path(entry.name, "cache");
    const blobs = workspace.path(entry.name, "blobs");
    await layOutBlobs(entry, blobs, cache, workspace.path("sources"));
    for (const [id, bytes] of Object.entries(other.blobs ?? {})) await writeFile(join(blobs, id), bytes);
    const config = JSON.stringify({
      device: {
        backend: { type: "localfs", config: { dir: blobs, alt_dirs: [workspace.path("sources")] } },
        cache: { type: "blobcache", config: { work_dir: cache } },
      },
      mode: "direct",
      enable_xattr: true,
    });
    const source = other.source ?? entry.bootstrapFile ?? join(blobs, inlineBlobOf(entry));
    await nydusd.client.mount(`/${entry.name}`, { source, fs_type: "rafs", config });
  }
});

/** Of an inline case, the blob that holds the bootstrap: the one that was built last. */
function inlineBlobOf(entry: GoldenCase): string {
  const { blobs } = JSON.parse(readFileSync(join(entry.directory, "output.json"), "utf8")) as { blobs: string[] };
  const named = blobs.at(-1)!;
  // A reference case names the tar.gz; its bootstrap is in the blob of the index, the only one stored.
  return existsSync(join(entry.blobDirectory!, named)) ? named : readdirSync(entry.blobDirectory!)[0]!;
}

/** What a version 6 image of a directory shows of it: the root without its time, sizes and links of directories by what is in them. */
function asImage(tree: readonly ListingEntry[]): ListingEntry[] {
  return tree.map((entry) => {
    if (entry.type !== "dir") return entry;
    const below = entry.path === "/" ? "/" : `${entry.path}/`;
    const children = tree.filter(
      ({ path }) => path !== "/" && String(path).startsWith(below) && !String(path).slice(below.length).includes("/"),
    );
    const names = [".", "..", ...children.map(({ path }) => String(path).slice(below.length))];
    return {
      ...entry,
      ...(entry.path === "/" ? { mtime: 0, nsec: 0 } : {}),
      size: names.reduce((size, name) => size + 12 + Buffer.byteLength(name), 0),
      nlink: 2 + children.filter(({ type }) => type === "dir").length,
    };
  });
}

/** Gives `data` the CRC by changing its last four bytes: the register is run back from its end, over the table of the polynomial. */
function forceCrc32c(data: Buffer, crc: number): void {
  const table = Uint32Array.from({ length: 256 }, (_, index) => {
    let value = index;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0x82f63b78 : 0);
    return value;
  });
  let wanted = ~crc >>> 0;
  for (let step = 0; step < 4; step++) {
    const index = table.findIndex((value) => value >>> 24 === wanted >>> 24);
    wanted = (((wanted ^ table[index]!) << 8) | index) >>> 0;
  }
  const tail = data.length - 4;
  data.writeUInt32LE((wanted ^ ~crc32c(data.subarray(0, tail))) >>> 0, tail);
  assert.equal(crc32c(data), crc);
}

async function rootOf(directory: string): Promise<unknown> {
  const { mode, uid, gid, nlink, size, mtimeMs } = await stat(directory);
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => error.code);
  return { mode, uid, gid, nlink, size, mtimeMs, names };
}

import { mkdir, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { mount, umount2 } from "@nydus-ts/linux";
import { compareListings, goldenAbsent, goldenDir, listTree, readListing, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { copyCase, localConfig, startNydusd } from "./support.ts";

const caseName = "small-v6-zstd-blake3";

describe.skipIf(goldenDir() === undefined)(`a full cache disk${goldenDir() === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  beforeEach(() => {
    workspace = new Workspace("nydusd-full");
  });
  afterEach(() => workspace[Symbol.asyncDispose]());

  test("does not fail reads: every byte is right, and once there is room again the data is cached", async () => {
    const image = await copyCase(workspace, caseName);
    const disk = workspace.path("disk");
    await mkdir(disk);
    mount({ source: "tmpfs", target: disk, type: "tmpfs", flags: 0, options: "size=256k" });
    workspace.defer(async () => umount2(disk, 0));
    const nydusd = await startNydusd(workspace, ["fuse"]);
    // Map and meta find room when the image is mounted; then the rest of the disk is filled, and no chunk fits.
    await nydusd.client.mount("/a", {
      source: image.bootstrap,
      fs_type: "rafs",
      config: localConfig(image.blobs, disk, { enable_xattr: true }),
    });
    const filler = join(disk, "filler");
    await writeFile(filler, Buffer.alloc(1 << 20)).catch((error: NodeJS.ErrnoException) => expect(error.code).toBe("ENOSPC"));
    expect((await statfs(disk)).bavail).toBe(0);

    const differences = async (): Promise<string[]> =>
      compareListings(await listTree(join(nydusd.mountpoint, "a")), readListing(image.golden));
    expect(await differences()).toEqual([]);
    expect(nydusd.program.running).toBe(true);
    const before = (await nydusd.client.blobcacheMetrics()) as { entries_count: number };
    expect(before.entries_count).toBe(0);

    await writeFile(filler, "");
    await nydusd.client.umount("/a");
    await nydusd.client.mount("/b", {
      source: image.bootstrap,
      fs_type: "rafs",
      config: localConfig(image.blobs, disk, { enable_xattr: true }),
    });
    expect(compareListings(await listTree(join(nydusd.mountpoint, "b")), readListing(image.golden))).toEqual([]);
    const after = (await nydusd.client.blobcacheMetrics()) as { entries_count: number };
    expect(after.entries_count).toBeGreaterThan(0);
  });
});

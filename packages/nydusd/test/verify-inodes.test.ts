import { join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { damagedCases, goldenAbsent, goldenCase, goldenDir, readBootstrap, Workspace } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { verifyInodes } from "../src/images/verify-inodes.ts";
import { copyCase, localConfig, startNydusd } from "./support.ts";

const absent = goldenDir() === undefined;

describe.skipIf(absent)(`the digests of the inodes of a v5 image${absent ? ` (${goldenAbsent})` : ""}`, () => {
  test.each(["small-v5-zstd-blake3", "small-v5-lz4_block-sha256", "layers-v5-merge3", "xattrs-v5", "wide-v5"])(
    "of %s are right",
    async (name) => {
      await verifyInodes(openBootstrap(readBootstrap(goldenCase(name))));
    },
  );

  test("a changed byte in a digest or in the target of a link is found, wherever it is in the tree", async () => {
    const bytes = Buffer.from(readBootstrap(goldenCase("small-v5-zstd-blake3")));
    const bootstrap = openBootstrap(bytes);
    const places: Uint8Array[] = [...bootstrap.chunkRecords()].map(({ digest }) => digest);
    for (const { nid, inode } of bootstrap.walk()) {
      if (inode.type !== "symlink") continue;
      const target = bootstrap.readLink(nid);
      const at = bytes.indexOf(target);
      // A target may also be a name, elsewhere in the file.
      if (at === bytes.lastIndexOf(target)) places.push(bytes.subarray(at, at + 1));
    }
    expect(places.length).toBeGreaterThan(20);
    for (const place of places) {
      place[0]! ^= 1;
      await expect(verifyInodes(openBootstrap(bytes))).rejects.toMatchObject({ code: "RAFS_DIGEST" });
      place[0]! ^= 1;
    }
    await verifyInodes(openBootstrap(bytes));
  });

  test("are compared at the mount with digest_validate, which refuses the image; v6 is mounted with it as without", async () => {
    await using workspace = new Workspace("nydusd-verify");
    const nydusd = await startNydusd(workspace, ["fuse"]);
    const [v5, v6] = [await copyCase(workspace, "plain-v5-tar"), await copyCase(workspace, "plain-v6-tar")];
    const mount = (source: string, blobs: string, at: string, validate: boolean): Promise<unknown> => {
      const config = localConfig(blobs, workspace.path("cache", at.slice(1)), { digest_validate: validate });
      return nydusd.client.mount(at, { source, fs_type: "rafs", config });
    };
    for (const name of ["v5-digest", "v5-chunk-digest"]) {
      const damaged = join(damagedCases().find((entry) => entry.name === name)!.directory, "bootstrap");
      await expect(mount(damaged, v5.blobs, `/${name}`, true)).rejects.toThrow("RAFS_DIGEST");
      await mount(damaged, v5.blobs, `/${name}`, false);
    }
    await mount(v5.bootstrap, v5.blobs, "/v5", true);
    await mount(v6.bootstrap, v6.blobs, "/v6", true);
  });
});

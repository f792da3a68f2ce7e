import { readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compareListings, goldenAbsent, goldenDir, listTree, readListing, Workspace } from "@nydus-ts/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { copyCase, localConfig, startNydusd } from "./support.ts";

describe.skipIf(goldenDir() === undefined)(`a damaged cache${goldenDir() === undefined ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  beforeEach(() => {
    workspace = new Workspace("nydusd-damaged");
  });
  afterEach(() => workspace[Symbol.asyncDispose]());

  // 33 of users.md: one bad file on a node made every later container of it fail.
  test.each(["small-v6-zstd-blake3", "small-v5-zstd-blake3"])(
    "%s: whichever local file is damaged, the next mount shows every byte right",
    async (name) => {
      const image = await copyCase(workspace, name);
      const nydusd = await startNydusd(workspace, ["fuse"]);
      const config = localConfig(image.blobs, image.cache, { enable_xattr: true });
      const mounted = async (): Promise<string[]> => {
        await nydusd.client.mount("/a", { source: image.bootstrap, fs_type: "rafs", config });
        const differences = compareListings(await listTree(join(nydusd.mountpoint, "a")), readListing(image.golden));
        await nydusd.client.umount("/a");
        return differences;
      };
      expect(await mounted()).toEqual([]);
      for (const file of readdirSync(image.cache)) {
        const path = join(image.cache, file);
        const whole = readFileSync(path);
        writeFileSync(
          path,
          whole.map((byte, at) => (at % 1000 === 7 ? byte ^ 0xff : byte)),
        );
        expect(await mounted(), `${file} with changed bytes`).toEqual([]);
        truncateSync(path, whole.length >> 1);
        expect(await mounted(), `${file} cut off`).toEqual([]);
      }
      expect(readdirSync(image.cache).length).toBeGreaterThan(1);
      expect(nydusd.log()).toContain("what the disk kept is damaged and fetched again");
    },
  );
});

import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { compareListings, goldenAbsent, goldenCase, goldenDir, listTree, readListing } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { cachedBlob, mountOf, Stage } from "./fixtures.ts";

const golden = goldenDir();
if (golden === undefined) console.log(goldenAbsent);

describe.skipIf(golden === undefined)("an image served through FUSE", () => {
  test("shows what the listing says, with nothing of its data in the cache at first", async () => {
    await using stage = new Stage();
    const entry = goldenCase("small-v6-cachefiles");
    await using blob = cachedBlob(entry, { ready: false });
    const engine = stage.engine({ trace: (line) => stage.log.trace(line) });
    await engine.attach(mountOf(entry, [blob]));
    await engine.start();
    expect(compareListings(await listTree(stage.mountpoint, { parallel: 2 }), readListing(entry))).toEqual([]);
    console.log(stage.log.lines.slice(0, 30).join("\n"));
    await engine.stop({ unmount: true });
    expect(stage.isMounted()).toBe(false);
  });
});

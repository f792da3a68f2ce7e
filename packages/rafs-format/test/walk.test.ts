import { describe, expect, test } from "vitest";
import { bufferSource, DIRENT, INODE_V5, openBootstrap, openRandomAccess, RafsError, RafsV5Cursor, RafsV6Cursor } from "../src/index.ts";
import { type BuildEntry, buildBootstrap } from "../src/writer/index.ts";
import { view } from "./hostile.ts";

const directories = ["/", "/a", "/a/x", "/b", "/b/y"];
const entries = directories.map((path): BuildEntry => ({ path, mode: 0o040755, uid: 0, gid: 0, mtime: 0, mtimeNsec: 0, size: 0 }));
const image = (version: 5 | 6): Promise<Uint8Array> =>
  buildBootstrap(entries, { version, chunkSize: 4096, compressor: "none", digester: "sha256", blobs: [], prefetch: [] });

describe("no directory is entered twice", () => {
  test.each([
    ["under a second name in its own directory", "/", "b", "/a"],
    ["through a second parent", "/b", "y", "/a/x"],
    ["as its own child", "/a", "x", "/a"],
    ["the root below itself", "/a", "x", "/"],
    ["an ancestor", "/b", "y", "/b"],
  ])("version 6: %s", async (_, directory, name, target) => {
    const bytes = await image(6);
    const bootstrap = openBootstrap(bytes);
    const [holder, wanted] = [directory, target].map((path) => bootstrap.resolve(path) as number);
    const cursor = new RafsV6Cursor(bytes);
    cursor.load(holder!);
    const block = cursor.blockOffset(0);
    cursor.openBlock(0);
    for (let at = 0; at < cursor.entryCount; at++) {
      cursor.entry(at);
      if (Buffer.from(bytes.subarray(cursor.entryNameStart, cursor.entryNameEnd)).toString() === name)
        view(bytes).setBigUint64(block + at * DIRENT.recordSize + DIRENT.nid, BigInt(wanted!), true);
    }
    await expectRefused(bytes);
  });

  test.each([
    ["under a second name in its own directory", "/b", "/a"],
    ["through a second parent", "/b/y", "/a/x"],
  ])("version 5: %s", async (_, name, target) => {
    const bytes = await image(5);
    const bootstrap = openBootstrap(bytes);
    const cursor = new RafsV5Cursor(bytes);
    cursor.load(bootstrap.resolve(name) as number);
    view(bytes).setBigUint64(cursor.inodeOffset + INODE_V5.ino, BigInt(bootstrap.resolve(target) as number), true);
    await expectRefused(bytes);
  });
});

/** By both walks, before it could go round. */
async function expectRefused(bytes: Uint8Array): Promise<void> {
  const codes: (string | undefined)[] = [];
  let names = 0;
  for (const walk of [() => openBootstrap(bytes).walk(), async () => (await openRandomAccess(bufferSource(bytes))).walk()]) {
    try {
      for await (const _ of await walk()) names++;
      codes.push(undefined);
    } catch (error) {
      codes.push(error instanceof RafsError ? error.code : String(error));
    }
  }
  expect(codes).toEqual(["RAFS_DIRECTORY", "RAFS_DIRECTORY"]);
  expect(names).toBeLessThanOrEqual(2 * directories.length);
}

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { goldenAbsent, goldenCase, goldenDir } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { run, TemporaryDirectory } from "./support.ts";

const hasGolden = goldenDir() !== undefined;
if (!hasGolden) console.log(goldenAbsent);

/** Everything a tar can carry, by path. */
function contents(path: string): Map<string, unknown> {
  const bootstrap = openBootstrap(readFileSync(path));
  const entries = new Map<string, unknown>();
  for (const { path: name, nid, inode } of bootstrap.walk()) {
    if (inode.type === "socket" || nid === bootstrap.rootNid) continue;
    const { type, mode, uid, gid, size, nlink, mtime, rdev } = inode;
    entries.set(Buffer.from(name).toString("latin1"), {
      ...{ type, mode, uid, gid, nlink, mtime, rdev },
      size: type === "dir" ? 0 : size,
      target: type === "symlink" ? Buffer.from(bootstrap.readLink(nid)).toString("latin1") : "",
      xattrs: bootstrap.xattrs(nid),
      chunks: Array.from(bootstrap.chunksOf(nid), (chunk) => Buffer.from(bootstrap.chunkRecord(chunk)!.digest).toString("hex")),
    });
  }
  return entries;
}

describe.skipIf(!hasGolden)("unpacking", () => {
  test.each(["small-v6-zstd-blake3", "small-v6-lz4_block-blake3", "plain-v6-targz", "layers-v6-merge3", "big-v6-64k-lz4"])(
    "%s, unpacked and built again, has the same files, owners, times, xattrs, links and data",
    async (name) => {
      using work = new TemporaryDirectory();
      const golden = goldenCase(name);
      mkdirSync(work.join("blobs"));
      expect((await run(["unpack", "-D", golden.blobDirectory!, "--output", work.join("image.tar"), golden.bootstrapFile!])).code).toBe(0);
      const chunkSize = `0x${openBootstrap(readFileSync(golden.bootstrapFile!)).chunkSize.toString(16)}`;
      const argv = [
        "create",
        "-t",
        "tar-rafs",
        "--chunk-size",
        chunkSize,
        "-D",
        work.join("blobs"),
        "-B",
        work.join("again"),
        work.join("image.tar"),
      ];
      expect((await run(argv)).code).toBe(0);
      expect(contents(work.join("again"))).toEqual(contents(golden.bootstrapFile!));
    },
  );

  test("a flipped bit in a blob is told, and no tar is left", async () => {
    using work = new TemporaryDirectory();
    const golden = goldenCase("plain-v6-tar");
    const blob = openBootstrap(readFileSync(golden.bootstrapFile!)).blobs[0].id;
    mkdirSync(work.join("blobs"));
    const bytes = readFileSync(join(golden.blobDirectory!, blob));
    bytes[100] ^= 1;
    writeFileSync(work.join("blobs", blob), bytes);
    const { code, stderr } = await run(["unpack", "-D", work.join("blobs"), "--output", work.join("image.tar"), golden.bootstrapFile!]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/the blob is damaged/)]);
    expect(readdirSync(work.path)).toEqual(["blobs"]);
  });

  test("a blob that is not there, or holds batches, is one clear line", async () => {
    using work = new TemporaryDirectory();
    const missing = await run(["unpack", "-D", work.path, "--output", work.join("t"), goldenCase("plain-v6-tar").bootstrapFile!]);
    expect([missing.code, missing.stderr]).toEqual([1, expect.stringContaining("can not open the blob")]);
    const batch = goldenCase("tiny-v6-batch-zstd");
    const refused = await run(["unpack", "-D", batch.blobDirectory!, "--output", work.join("t"), batch.bootstrapFile!]);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("has the feature batch")]);
  });
});

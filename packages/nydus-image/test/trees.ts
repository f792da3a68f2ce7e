/** Whether two images hold the same tree: both are unpacked by the program, and the tars compared. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { expect } from "vitest";
import { run, type TemporaryDirectory } from "./support.ts";

export interface ImageOnDisk {
  bootstrap: string;
  blobs: string;
}

export async function sameTree(work: TemporaryDirectory, ...images: readonly ImageOnDisk[]): Promise<void> {
  const digests: string[] = [];
  for (const [i, { bootstrap, blobs }] of images.entries()) {
    const tar = work.join(`tree-${i}.tar`);
    const { code, stderr } = await run(["unpack", "-D", blobs, "--output", tar, bootstrap]);
    expect([code, stderr]).toEqual([0, ""]);
    const hash = createHash("sha256");
    for await (const part of createReadStream(tar)) hash.update(part as Uint8Array);
    digests.push(hash.digest("hex"));
  }
  expect(new Set(digests).size).toBe(1);
}

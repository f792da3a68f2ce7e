import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { afterEach, expect, test, vi } from "vitest";
import { Artifact } from "../src/artifact.ts";
import { syncBehindBytes } from "../src/limits.ts";
import { TemporaryDirectory } from "./support.ts";

const temporary: TemporaryDirectory[] = [];
afterEach(() => {
  vi.restoreAllMocks();
  for (const directory of temporary.splice(0)) directory[Symbol.dispose]();
});
function directory(): TemporaryDirectory {
  const made = new TemporaryDirectory();
  temporary.push(made);
  return made;
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** The class of file handles, which node:fs does not export. */
async function fileHandlePrototype(): Promise<FileHandle> {
  await using handle = await open("/dev/null");
  return Object.getPrototypeOf(handle) as FileHandle;
}

test("pieces of one memory, side by side or not, and of others become the file they say, in order", async () => {
  const work = directory();
  const [a, b] = [randomBytes(3_000_000), randomBytes(5000)];
  const pieces = [a.subarray(0, 10), a.subarray(10, 2_000_000), a.subarray(2_000_001), b.subarray(10), b.subarray(0, 10), a.subarray(0, 7)];
  await using artifact = await Artifact.create({ directory: work.path });
  for (const piece of pieces) await artifact.append(piece);
  await artifact.append(b, { hashed: false });
  const hashed = Buffer.concat(pieces);
  expect(artifact.digest().toString("hex")).toBe(sha256(hashed));
  const path = await artifact.commit("blob");
  expect(readFileSync(path).equals(Buffer.concat([hashed, b]))).toBe(true);
  expect(readdirSync(work.path)).toEqual(["blob"]);
});

test("a large file is given to the disk while it is written, and a failure there fails the commit and leaves nothing", async () => {
  const work = directory();
  const datasync = vi.spyOn(await fileHandlePrototype(), "datasync").mockRejectedValueOnce(new Error("EIO: i/o error, fdatasync"));
  {
    await using artifact = await Artifact.create({ directory: work.path });
    const piece = randomBytes(1_000_000);
    for (let written = 0; written < syncBehindBytes; written += piece.length) await artifact.append(piece);
    await artifact.flush();
    expect(datasync).toHaveBeenCalledOnce();
    await expect(artifact.commit("blob")).rejects.toMatchObject({
      code: "BUILD_OUTPUT",
      message: expect.stringContaining("EIO") as string,
    });
  }
  expect(readdirSync(work.path)).toEqual([]);
});

test("a file that is given up while the disk works on it is gone once the disk has ended", async () => {
  const work = directory();
  const prototype = await fileHandlePrototype();
  const { datasync } = prototype;
  let hasEnded = false;
  vi.spyOn(prototype, "datasync").mockImplementation(async function (this: FileHandle) {
    await datasync.call(this);
    await new Promise((resolve) => setTimeout(resolve, 20));
    hasEnded = true;
  });
  {
    await using artifact = await Artifact.create({ directory: work.path });
    await artifact.append(randomBytes(syncBehindBytes));
    await artifact.flush();
  }
  expect(hasEnded).toBe(true);
  expect(readdirSync(work.path)).toEqual([]);
});

/** Changes in the kernel's own overlay file system, taken as a layer: on the image below they give what the mount shows. */
import { execFileSync } from "node:child_process";
import { createWriteStream, mkdirSync, writeFileSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { compareListings, type ListingEntry, listTree } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import { pathTar, upperTar } from "../src/commit/layer-tar.ts";
import { run, TemporaryDirectory } from "./support.ts";

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.log("overlay mounts need root: what a container wrote is not compared with the kernel's view");

/** A lower directory, and an overlay of it that a script changes. */
class Overlay implements Disposable {
  readonly work = new TemporaryDirectory();
  readonly upper: string;
  readonly merged: string;

  constructor(options: string, script: string) {
    const { work } = this;
    for (const name of ["lower", "writable", "merged", "tree", "blobs"]) mkdirSync(work.join(name));
    // Of its own, so that it does not matter what file system temporary files are on.
    execFileSync("mount", ["-t", "tmpfs", "tmpfs", work.join("writable")]);
    for (const name of ["upper", "work"]) mkdirSync(work.join("writable", name));
    this.upper = work.join("writable/upper");
    this.merged = work.join("merged");
    const shell = (text: string, cwd: string) => execFileSync("sh", ["-ec", text], { cwd, stdio: ["ignore", "ignore", "inherit"] });
    shell(
      "mkdir -p kept/deep opaque/old moved/inner; echo a > kept/a; echo b > kept/deep/b; echo old > opaque/old/file; echo m > moved/m; echo i > moved/inner/i;" +
        "head -c 300000 /dev/urandom > large; echo gone > gone; ln gone also-gone; echo meta > meta",
      work.join("lower"),
    );
    const dirs = `lowerdir=${work.join("lower")},upperdir=${this.upper},workdir=${work.join("writable/work")}`;
    execFileSync("mount", ["-t", "overlay", "overlay", "-o", `${dirs}${options}`, this.merged]);
    try {
      shell(script, this.merged);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const path of [this.merged, this.work.join("writable")]) execFileSync("umount", [path]);
    this.work[Symbol.dispose]();
  }
}

const comparable = (listing: readonly ListingEntry[]) =>
  listing
    .filter(({ path }) => path !== "/")
    .map((entry) => ({ ...entry, nsec: 0, nlink: 0, ...(entry.type === "dir" ? { size: 0 } : {}) }));

async function asImage({ work }: Overlay, stream: AsyncIterable<Buffer>): Promise<ListingEntry[]> {
  await pipeline(stream, createWriteStream(work.join("upper.tar")));
  const create = ["create", "-D", work.join("blobs")];
  expect((await run([...create, "-B", work.join("lower.boot"), work.join("lower")])).code).toBe(0);
  const above = ["-t", "tar-rafs", "--parent-bootstrap", work.join("lower.boot"), "-B", work.join("upper.boot"), work.join("upper.tar")];
  expect((await run([...create, ...above])).stderr).not.toContain("Error");
  expect((await run(["unpack", "-D", work.join("blobs"), "--output", work.join("image.tar"), work.join("upper.boot")])).code).toBe(0);
  execFileSync("tar", ["-C", work.join("tree"), "--xattrs", "--xattrs-include=*", "-xpf", work.join("image.tar")], { stdio: "ignore" });
  return await listTree(work.join("tree"));
}

describe.skipIf(!isRoot)("what was written into an overlay", () => {
  test.each([
    [
      "files that are new, changed, gone, linked, and of every kind",
      "",
      "echo n > new; echo c >> kept/a; rm gone; ln new hard; ln -s new soft; mkfifo pipe; mknod dev c 1 3; mknod block b 7 9; truncate -s 0 large",
    ],
    ["a directory that was removed and made again", "", "rm -r opaque; mkdir opaque; echo only > opaque/only"],
    [
      "a directory in the place of a file, and a file in that of a directory",
      "",
      "rm gone; mkdir gone; echo x > gone/x; rm -r opaque; echo f > opaque",
    ],
    ["modes, owners and times", "", "chmod 4711 kept/a; chown 12:34 kept; touch -d @1000000000 large"],
    [
      "a directory that was moved (redirect_dir)",
      ",redirect_dir=on",
      "mv moved elsewhere; echo new > elsewhere/new; rm elsewhere/inner/i; mv kept/deep deeper",
    ],
    ["a file of which only the mode is new (metacopy)", ",redirect_dir=on,metacopy=on", "chmod 600 meta large; mv meta meta2"],
    ["nothing", "", "true"],
  ])("%s", async (_, options, script) => {
    using overlay = new Overlay(options, script);
    const { upper, merged } = overlay;
    const found = await asImage(overlay, upperTar({ upper, merged, excluded: [], replaced: [] }));
    expect(compareListings(comparable(found), comparable(await listTree(merged)))).toEqual([]);
  });

  test("paths that are left out stay as the image has them, and replaced ones are gone", async () => {
    using overlay = new Overlay(
      "",
      "echo c >> kept/a; echo n > kept/new; mkdir out; echo s > out/secret; echo d > kept/deep/d; echo i >> moved/inner/i",
    );
    const { upper, merged } = overlay;
    const stream = upperTar({ upper, merged, excluded: ["/out", "/kept/new"], replaced: ["/moved/inner"] });
    const paths = (await asImage(overlay, stream)).map(({ path }) => path);
    expect(paths).toEqual(expect.arrayContaining(["/kept/a", "/kept/deep/d", "/moved/m"]));
    expect(paths.filter((path) => /^\/(out|kept\/new|moved\/inner)/.test(String(path)))).toEqual([]);
  });
});

describe("a path that comes whole", () => {
  test("through a link is refused: it would be followed on this machine", async () => {
    using work = new TemporaryDirectory();
    mkdirSync(work.join("root/real"), { recursive: true });
    writeFileSync(work.join("root/real/file"), "x");
    execFileSync("ln", ["-s", "/etc", work.join("root/way")]);
    const drain = async (path: string) => {
      let bytes = 0;
      for await (const part of pathTar(work.join("root"), path)) bytes += part.length;
      return bytes;
    };
    expect(await drain("/real")).toBeGreaterThan(1024);
    for (const path of ["/way", "/way/passwd"])
      await expect(drain(path)).rejects.toMatchObject({ code: "IMAGE_ARGUMENT", message: expect.stringContaining("is a link") });
    await expect(drain("/none")).rejects.toMatchObject({ code: "IMAGE_ARGUMENT" });
  });
});

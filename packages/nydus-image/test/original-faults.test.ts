/** What the original program does wrong, as docs/compatibility.md lists it, and what is done here; golden data are not needed. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { openBootstrap } from "@nydus-ts/rafs-format";
import { describe, expect, test } from "vitest";
import { layerTar, run, TemporaryDirectory } from "./support.ts";

const names = (archive: string): string[] => execFileSync("tar", ["-tf", archive], { encoding: "utf8" }).trim().split("\n");

describe("create", () => {
  test.each(["tar-rafs", "targz-ref", "tar-tarfs"])(
    "--type %s of a tar with .. in its names ends with the names that are meant",
    async (type) => {
      using work = new TemporaryDirectory();
      writeFileSync(work.join("in.tar"), layerTar({ "a/../b": "b", "../../c": "c", "..": "" }));
      mkdirSync(work.join("blobs"));
      expect((await run(["create", "-t", type, "-D", work.join("blobs"), "-B", work.join("boot"), work.join("in.tar")])).code).toBe(0);
      const paths = [...openBootstrap(readFileSync(work.join("boot"))).walk()].map(({ path }) => Buffer.from(path).toString());
      expect(paths).toEqual(["/", "/b", "/c"]);
    },
  );

  test("-B and -b without --type builds, and asks for no --external-blob", async () => {
    using work = new TemporaryDirectory();
    mkdirSync(work.join("tree"));
    writeFileSync(work.join("tree/file"), "content");
    expect(await run(["create", "-B", work.join("boot"), "-b", work.join("blob"), work.join("tree")])).toMatchObject({
      code: 0,
      stdout: "",
    });
    expect((await run(["check", work.join("boot")])).code).toBe(0);
  });

  test("a parent of version 5 under version 6 builds, and the tree of both is read", async () => {
    using work = new TemporaryDirectory();
    mkdirSync(work.join("lower"));
    mkdirSync(work.join("upper"));
    mkdirSync(work.join("blobs"));
    writeFileSync(work.join("lower/file"), "content");
    writeFileSync(work.join("upper/other"), "another");
    const place = ["-D", work.join("blobs")];
    await run(["create", "-v", "5", "-B", work.join("parent"), ...place, work.join("lower")]);
    const argv = ["create", "-v", "6", "--parent-bootstrap", work.join("parent"), "-B", work.join("boot"), ...place, work.join("upper")];
    expect(await run(argv)).toMatchObject({ code: 0 });
    expect((await run(["check", work.join("boot")])).code).toBe(0);
    expect(await run(["unpack", ...place, "--output", work.join("tar"), work.join("boot")])).toMatchObject({ code: 0 });
    const content = (name: string) => execFileSync("tar", ["-xOf", work.join("tar"), name], { encoding: "utf8" });
    expect([names(work.join("tar")), content("file"), content("other")]).toEqual([["file", "other"], "content", "another"]);
  });
});

describe.skipIf(process.getuid?.() !== 0)("unpack", () => {
  test.each(["5", "6"])("version %s: fifos and devices are in the tar", async (version) => {
    using work = new TemporaryDirectory();
    execFileSync("sh", ["-ec", 'mkdir "$0"; cd "$0"; mkfifo pipe; mknod null c 1 3; mknod disk b 7 300; echo x > file', work.join("tree")]);
    await run(["create", "-v", version, "-D", work.path, "-B", work.join("boot"), work.join("tree")]);
    const { code, stderr } = await run(["unpack", "-D", work.path, "--output", work.join("out.tar"), work.join("boot")]);
    expect([code, stderr, names(work.join("out.tar"))]).toEqual([0, "", ["disk", "file", "null", "pipe"]]);
    mkdirSync(work.join("out"));
    execFileSync("tar", ["-C", work.join("out"), "-xpf", work.join("out.tar")]);
    const kinds = (directory: string) =>
      execFileSync("stat", ["-c", "%n %F %t:%T", "disk", "file", "null", "pipe"], { cwd: directory, encoding: "utf8" });
    expect(kinds(work.join("out"))).toBe(kinds(work.join("tree")));
  });
});

describe("what is written can be used", () => {
  /** Two layers that share half of the first one's data. */
  async function layered(work: TemporaryDirectory, version: string): Promise<void> {
    for (const [name, files] of Object.entries({
      one: { kept: "k".repeat(9000), gone: "g".repeat(90_000) },
      two: { ".wh.gone": "", more: "m" },
    })) {
      mkdirSync(work.join(name));
      for (const [file, content] of Object.entries(files)) writeFileSync(work.join(name, file), content);
    }
    mkdirSync(work.join("blobs"));
    const create = ["create", "-v", version, "--compressor", "none", "-D", work.join("blobs")];
    await run([...create, "-B", work.join("one.boot"), work.join("one")]);
    await run([...create, "--parent-bootstrap", work.join("one.boot"), "-B", work.join("image"), work.join("two")]);
  }

  test.each(["5", "6"])(
    "version %s: the output of optimize passes the check and is read, that of compact is not empty",
    async (version) => {
      using work = new TemporaryDirectory();
      await layered(work, version);
      const contents = async (bootstrap: string) => {
        const { code, stderr } = await run(["unpack", "-D", work.join("blobs"), "--output", work.join("tar"), bootstrap]);
        expect([code, stderr]).toEqual([0, ""]);
        return readFileSync(work.join("tar")).toString("latin1");
      };
      const expected = await contents(work.join("image"));
      writeFileSync(work.join("list"), JSON.stringify({ version: "v1", files: [{ path: "/kept" }] }));
      const optimize = ["optimize", "-B", work.join("image"), "-D", work.join("blobs"), "--output-blob-dir", work.join("blobs")];
      expect((await run([...optimize, "-p", work.join("list"), "-O", work.join("hot")])).code).toBe(0);
      const compact = ["compact", "-B", work.join("image"), "-D", work.join("blobs"), "--min-used-ratio", "80", "-O", work.join("small")];
      expect((await run(compact)).code).toBe(0);
      for (const name of ["hot", "small"]) {
        expect((await run(["check", work.join(name)])).code).toBe(0);
        expect(await contents(work.join(name))).toBe(expected);
      }
    },
  );

  test("inspect ends at the end of its input, also when there is none", async () => {
    using work = new TemporaryDirectory();
    await layered(work, "6");
    for (const stdin of ["", "ls", "ls\n\n"]) expect((await run(["inspect", work.join("image")], { stdin })).code).toBe(0);
  });
});

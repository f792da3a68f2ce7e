import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { crc32c } from "@nydus-ts/rafs-format";
import { describe, expect, test } from "vitest";
import { parseAttributes } from "../src/attributes.ts";
import { run, TemporaryDirectory } from "./support.ts";

const id = "ab".repeat(32);
const line = (path: string, more = "") =>
  `${path} type=external blob_index=0 blob_id=${id} chunk_size=4096 chunk_0_compressed_offset=0 compressed_size=1MiB crcs=1,2,3 ${more}`;

describe("create --attributes", () => {
  test.each(["5", "6"])("version %s: files whose data lie in another blob are read from there", async (version) => {
    using work = new TemporaryDirectory();
    const blob = randomBytes(40_960);
    const blobId = createHash("sha256").update(blob).digest("hex");
    const crcs = (offset: number, size: number) =>
      Array.from({ length: Math.ceil(size / 4096) }, (_, i) =>
        crc32c(blob.subarray(offset + i * 4096, offset + Math.min(size, (i + 1) * 4096))).toString(16),
      ).join(",");
    for (const name of ["tree/model/part", "tree/docs", "blobs"]) mkdirSync(work.join(name), { recursive: true });
    writeFileSync(work.join("tree/model/part/weights"), "");
    writeFileSync(work.join("tree/model/index"), blob.subarray(20_480, 25_000));
    writeFileSync(work.join("tree/model/readme"), "of this image");
    writeFileSync(work.join("tree/docs/text"), "also of this image");
    writeFileSync(work.join("blobs", blobId), blob);
    const common = `type=external blob_index=0 blob_id=${blobId} chunk_size=4KiB compressed_size=40960`;
    writeFileSync(
      work.join("attributes"),
      `# where the data are\n\nmodel/part/weights ${common} file_size=10000 chunk_0_compressed_offset=4096 crcs=${crcs(4096, 10_000)}\n` +
        `/model/index ${common} chunk_0_compressed_offset=20480 crcs=${crcs(20_480, 4520)}\nmodel/other type=normal\n`,
    );
    const argv = [
      "create",
      "-v",
      version,
      "--chunk-size",
      "0x1000",
      "-D",
      work.join("blobs"),
      "-B",
      work.join("boot"),
      "-J",
      work.join("json"),
    ];
    const { code, stderr } = await run([...argv, "--attributes", work.join("attributes"), work.join("tree")]);
    expect([code, stderr]).toEqual([0, expect.stringContaining(`external data blobs: ["${blobId}"]`)]);
    expect(JSON.parse(readFileSync(work.join("json"), "utf8"))).toMatchObject({
      external_blobs: [blobId],
      external_bootstrap: work.join("boot.external"),
    });
    const unpacked = async (bootstrap: string) => {
      const outcome = await run(["unpack", "-D", work.join("blobs"), "--output", work.join("tar"), bootstrap]);
      expect([outcome.code, outcome.stderr]).toEqual([0, ""]);
      return readFileSync(work.join("tar")).toString("latin1");
    };
    const [own, external] = [await unpacked(work.join("boot")), await unpacked(work.join("boot.external"))];
    expect([own.includes("of this image"), own.includes("weights"), own.includes("index")]).toEqual([true, false, false]);
    expect([external.includes("readme"), external.includes("docs")]).toEqual([false, false]);
    for (const part of [blob.subarray(4096, 14_096), blob.subarray(20_480, 25_000)])
      expect(external.includes(part.toString("latin1"))).toBe(true);
    expect((await run(["check", work.join("boot.external")])).code).toBe(0);
  });

  test.each([
    ["5", ["--external-blob"], []],
    ["6", ["--external-blob"], ["--features", "blob-toc"]],
    ["6", [], []],
  ])(
    "version %s, --blob-inline-meta %j %j: the second bootstrap is in a blob, and says the chunk size of its files",
    async (version, external, more) => {
      using work = new TemporaryDirectory();
      const blob = randomBytes(40_960);
      const blobId = createHash("sha256").update(blob).digest("hex");
      const crcs = [0, 8192].map((start) => crc32c(blob.subarray(start, Math.min(start + 8192, 10_000))).toString(16));
      for (const name of ["tree", "blobs"]) mkdirSync(work.join(name));
      writeFileSync(work.join("tree/weights"), "");
      writeFileSync(work.join("tree/readme"), "of this image");
      writeFileSync(work.join("blobs", blobId), blob);
      const words = `type=external blob_index=0 blob_id=${blobId} chunk_size=8192 compressed_size=40960 file_size=10000`;
      writeFileSync(work.join("attributes"), `weights ${words} chunk_0_compressed_offset=0 crcs=${crcs.join(",")}\n`);
      const argv = ["create", "-v", version, "--blob-inline-meta", "-D", work.join("blobs"), "-J", work.join("json"), ...more];
      const place = external.flatMap((option) => [option, work.join("external")]);
      expect(await run([...argv, ...place, "--attributes", work.join("attributes"), work.join("tree")])).toMatchObject({ code: 0 });
      const { external_bootstrap: bootstrap, external_blobs: ids } = JSON.parse(readFileSync(work.join("json"), "utf8"));
      expect(ids).toEqual([blobId]);
      expect(readdirSync(work.join("blobs"))).toHaveLength(external.length > 0 ? 2 : 3);
      expect(await run(["check", bootstrap])).toMatchObject({
        stdout: expect.stringContaining(version === "6" ? "chunk size: 8192" : blobId),
      });
      expect(await run(["unpack", "-D", work.join("blobs"), "--output", work.join("tar"), bootstrap])).toMatchObject({
        code: 0,
        stderr: "",
      });
      const found = readFileSync(work.join("tar")).toString("latin1");
      expect([found.includes(blob.subarray(0, 10_000).toString("latin1")), found.includes("of this image")]).toEqual([true, false]);
    },
  );

  test.each([
    [line("d/none"), "is not in the directory"],
    [line("d"), "is no regular file"],
    [line("d/f").replace("4096", "64MiB"), "has chunks of 67108864 bytes; an image's are of a power of two, from 4096 to 16777216"],
    [`${line("d/f")}\n${line("d/g").replace("4096", "8192")}`, "/d/g has chunks of 8192 bytes, /d/f of 4096: an image records one size"],
    [line("d/f").replace("1MiB", "4096"), "it must begin at a multiple of 4096 and end within"],
    [line("d/f").replace("crcs=1,2,3", "crcs=1"), "invalid crc index 1"],
    [line("d/f").replace("blob_index=0", "blob_index=1"), "no external file names blob 0"],
    [line("d/f").replace(id, "x"), "is not 64 hexadecimal digits"],
    [line("d/f").replace("1MiB", "many"), "compressed_size=many is no size"],
    [line("d/f").replace("blob_index=0", ""), "blob_index is missing"],
    [line("../f"), "leads out of the directory"],
    [line("d/f").replace("1,2,3", "1,z"), "z in crcs is no checksum"],
  ])("%j is refused in one error, and no image is left", async (text, words) => {
    using work = new TemporaryDirectory();
    mkdirSync(work.join("tree/d"), { recursive: true });
    mkdirSync(work.join("out"));
    for (const name of ["f", "g"]) writeFileSync(work.join("tree/d", name), "x".repeat(9000));
    writeFileSync(work.join("attributes"), text);
    const argv = [
      "create",
      "--chunk-size",
      "0x1000",
      "-D",
      work.join("out"),
      "-B",
      work.join("out/boot"),
      "--attributes",
      work.join("attributes"),
    ];
    const { code, stderr } = await run([...argv, work.join("tree")]);
    expect([code, stderr.match(/^Error: /gm)?.length, stderr]).toEqual([1, 1, expect.stringContaining(words)]);
    expect([existsSync(work.join("out/boot")), readdirSync(work.join("out"))]).toEqual([false, []]);
  });

  test("sizes are read as people write them", () => {
    const [file] = parseAttributes(line("a/./b", "file_size=3MB").replace("4096", "64KiB")).values();
    expect([file!.chunkSize, file!.fileSize, file!.blobBytes, file!.crcs]).toEqual([65_536, 3_000_000, 1_048_576, [1, 2, 3]]);
  });

  test.each([
    [["-t", "tar-rafs"], "conflicts with '--attributes'"],
    [["--blob-inline-meta", "-b", "blob"], "give --external-blob or --blob-dir"],
  ])("with %j it is refused", async (options, words) => {
    using work = new TemporaryDirectory();
    const argv = [
      "create",
      ...options,
      ...(options.includes("-t") ? ["-D", work.path, "-B", work.join("boot")] : []),
      "--attributes",
      "/dev/null",
      work.path,
    ];
    expect((await run(argv)).stderr).toContain(words);
  });
});

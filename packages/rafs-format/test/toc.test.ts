import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { goldenCase, goldenDir, readBootstrap } from "@nydus-ts/testkit";
import { describe, expect, test } from "vitest";
import {
  type BlobRecord,
  type BlobSection,
  checkSection,
  findInlinedBootstrap,
  openBootstrap,
  RafsError,
  readDigestArray,
  readKnownToc,
  readTarHeader,
  readToc,
  type Toc,
  tocEntry,
  tocTailBytes,
} from "../src/index.ts";
import { damaged, unLz4 } from "./golden.ts";
import { codeOf, eachFlip } from "./hostile.ts";

const blobOf = (directory: string): Buffer => {
  const name = readdirSync(directory).find((file) => /^[0-9a-f]{64}$/.test(file)) as string;
  return readFileSync(join(directory, name));
};
const golden = (name: string): Buffer => blobOf(join(goldenCase(name).directory, "blobs"));
const decode = (section: BlobSection, stored: Buffer): Uint8Array =>
  section.compressor === "zstd"
    ? zstdDecompressSync(stored)
    : section.compressor === "lz4_block"
      ? unLz4(stored, section.uncompressedSize)
      : stored;
const tailOf = (blob: Buffer): Uint8Array => Uint8Array.from(blob.subarray(blob.length - tocTailBytes(blob.length)));

describe.skipIf(goldenDir() === undefined)("tables of contents of golden blobs", () => {
  test.each(["small-v6-toc", "small-v6-inline-toc", "plain-v6-zran-inline-toc"])(
    "%s: every section decodes to its size and digest",
    (name) => {
      const blob = golden(name);
      const toc = readToc(tailOf(blob), blob.length) as Toc;
      expect(toc.entries.length).toBeGreaterThan(2);
      for (const entry of toc.entries) {
        if (entry.name === "image.blob") continue;
        const stored = blob.subarray(entry.offset, entry.offset + entry.compressedSize);
        checkSection(entry, decode(entry, stored));
      }
    },
  );

  test("a ToC that the bootstrap knows is compared with size and digest, and the digest array with the chunk table", () => {
    const entry = goldenCase("small-v6-toc");
    const blob = golden("small-v6-toc");
    const bootstrap = openBootstrap(readBootstrap(entry));
    const [record] = bootstrap.blobs as [BlobRecord];
    const toc = readKnownToc(blob.subarray(blob.length - record.tocSize), blob.length, record);
    const section = tocEntry(toc, "blob.digest");
    const array = blob.subarray(section?.offset, (section?.offset ?? 0) + (section?.compressedSize ?? 0));
    const digestOf = readDigestArray(array, record);
    const recorded = bootstrap.chunkDigests(0);
    const hex = (digest: Uint8Array | undefined): string => Buffer.from(digest as Uint8Array).toString("hex");
    for (let index = 0; index < record.chunkCount; index++) expect(hex(digestOf(index))).toBe(hex(recorded(index)));
    expect(digestOf(record.chunkCount)).toBeUndefined();
    expect(codeOf(() => readDigestArray(array.subarray(32), record))).toBe("RAFS_TOC");
    const other = { ...record, tocDigest: new Uint8Array(32).fill(1) };
    expect(codeOf(() => readKnownToc(tailOf(blob), blob.length, other))).toBe("RAFS_TOC");
    expect(codeOf(() => readKnownToc(new Uint8Array(4096), blob.length, record))).toBe("RAFS_TOC");
  });

  test.each(["small-v6-inline", "small-v6-inline-toc", "plain-v6-zran-inline", "plain-v6-zran-inline-toc", "small-v5-inline"])(
    "%s: the bootstrap inside the blob is found, verified and opened",
    (name) => {
      const blob = golden(name);
      const section = findInlinedBootstrap(tailOf(blob), blob.length);
      if (section === undefined) throw new Error("no bootstrap found");
      const stored = blob.subarray(section.offset, section.offset + section.compressedSize);
      const bytes = section.compressor === "zstd" ? zstdDecompressSync(stored) : stored;
      checkSection(section, bytes);
      expect(bytes.equals(readBootstrap(goldenCase(name)))).toBe(true);
    },
  );

  test("a blob without bootstrap has none, whatever its end looks like", () => {
    const blob = golden("small-v6-zstd-blake3");
    expect(findInlinedBootstrap(tailOf(blob), blob.length)).toBeUndefined();
    expect(findInlinedBootstrap(new Uint8Array(0), 0)).toBeUndefined();
    expect(readToc(new Uint8Array(512), 512)).toBeUndefined();
  });

  test.each(goldenDir() === undefined ? [] : damaged("inline-", goldenDir() as string))(
    "$name is refused or has no bootstrap",
    ({ directory }) => {
      const blob = blobOf(directory);
      let section: ReturnType<typeof findInlinedBootstrap>;
      try {
        section = findInlinedBootstrap(tailOf(blob), blob.length);
      } catch (error) {
        expect(error).toBeInstanceOf(RafsError);
        return;
      }
      if (section === undefined) return;
      const found = section;
      const stored = blob.subarray(found.offset, found.offset + found.compressedSize);
      expect(codeOf(() => checkSection(found, found.compressor === "zstd" ? zstdDecompressSync(stored) : stored))).toBe("RAFS_TOC");
    },
  );

  test.each(["small-v6-inline", "small-v6-inline-toc"])(
    "%s: any changed byte of ToC and tar header is refused or stays inside the blob",
    (name) => {
      const blob = golden(name);
      const tail = tailOf(blob);
      const used = tail.subarray(name.endsWith("toc") ? tail.length - 512 - 5 * 128 : tail.length - 512);
      eachFlip(used, () => {
        let section: ReturnType<typeof findInlinedBootstrap>;
        try {
          section = findInlinedBootstrap(tail, blob.length);
        } catch (error) {
          if (error instanceof RafsError) return;
          throw error;
        }
        if (section !== undefined && section.offset + section.compressedSize > blob.length) throw new Error("outside of the blob");
      });
    },
  );
});

test("a tar header with a wrong checksum or size is refused; other bytes are no tar header", () => {
  const header = new Uint8Array(512);
  header.set(Buffer.from("image.boot"));
  header.set(Buffer.from("00000001000"), 124);
  header.set(Buffer.from("00000000000"), 136);
  header[156] = 0x30;
  header.set(Buffer.from("ustar  "), 257);
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.set(Buffer.from(`${sum.toString(8).padStart(7, "0")}\0`), 148);
  expect(readTarHeader(header)).toEqual({ name: "image.boot", size: 512 });
  const changed = Uint8Array.from(header);
  changed[0] = 0x58;
  expect(codeOf(() => readTarHeader(changed))).toBe("RAFS_TAR_HEADER");
  const wrongSize = Uint8Array.from(header);
  wrongSize[130] = 0x39;
  expect(codeOf(() => readTarHeader(wrongSize))).toBe("RAFS_TAR_HEADER");
  expect(readTarHeader(new Uint8Array(512))).toBeUndefined();
  expect(readTarHeader(header.subarray(1))).toBeUndefined();
});

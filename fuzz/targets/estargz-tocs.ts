// Tables of contents of eStargz layers, as `estargztoc-ref` takes them.
import { BuilderError } from "@nydus-ts/builder";
import { RafsError } from "@nydus-ts/rafs-format";
import { readEstargzToc } from "../../packages/builder/src/sources/estargz-toc.ts";
import { checkBuilt } from "../built-tree.ts";
import { goldenSource } from "../golden-files.ts";
import { mutateJson } from "../mutate.ts";
import type { Seed, Target } from "../target.ts";

const chunkSize = 0x1000;
const sha256 = (byte: string): string => `sha256:${byte.repeat(64)}`;
const known = { mode: 0o644, modtime: "2023-11-14T22:13:20.5Z", uid: 1, gid: 2, userName: "", groupName: "" };
const table = {
  version: 1,
  entries: [
    { ...known, name: "d/", type: "dir", mode: 0o755 },
    { ...known, name: "d/file", type: "reg", size: 5000, offset: 100, digest: sha256("1"), chunkSize, chunkDigest: sha256("2") },
    {
      ...known,
      name: "d/file",
      type: "chunk",
      offset: 300,
      chunkOffset: chunkSize,
      chunkSize: 5000 - chunkSize,
      chunkDigest: sha256("3"),
      digest: sha256("1"),
    },
    {
      ...known,
      name: "d/small",
      type: "reg",
      size: 10,
      offset: 500,
      digest: sha256("4"),
      chunkDigest: sha256("4"),
      xattrs: { "user.a": "YQ==" },
    },
    { ...known, name: "hard", type: "hardlink", linkName: "d/file" },
    { ...known, name: "soft", type: "symlink", linkName: "../d" },
    { ...known, name: "null", type: "char", devMajor: 1, devMinor: 3 },
    { ...known, name: "pipe", type: "fifo" },
  ],
};

export const target: Target = {
  name: "estargz-tocs",
  seeds: (golden) => {
    const stored = goldenSource(golden, "plain.estargz.toc.json");
    return [
      seed("a table", Buffer.from(JSON.stringify(table)), chunkSize),
      ...(stored === undefined ? [] : [seed("plain", stored, 0x400000)]),
    ];
  },
  accepts: (error) => error instanceof BuilderError || error instanceof RafsError,
};

function seed(name: string, bytes: Uint8Array, size: number): Seed {
  return {
    name,
    bytes,
    mutate: mutateJson,
    read: async (mutated) => {
      const stream = [mutated][Symbol.iterator]();
      const options = { blobId: "0".repeat(64), blobBytes: 1_000_000, chunkSize: size, explicitUidGid: true };
      const { root, blob } = await readEstargzToc({
        ...options,
        stream: (async function* () {
          yield* stream;
        })(),
      });
      checkBuilt(root, blob === undefined ? [] : [blob], size);
    },
  };
}

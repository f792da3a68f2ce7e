import { expect, test } from "vitest";
import { BuilderError } from "../src/index.ts";
import { readEstargzToc } from "../src/sources/estargz-toc.ts";

const read = (type: string): Promise<unknown> =>
  readEstargzToc({
    stream: (async function* () {
      yield Buffer.from(JSON.stringify({ version: 1, entries: [{ name: "a", type }] }));
    })(),
    blobId: "0".repeat(64),
    blobBytes: 1000,
    chunkSize: 4096,
    explicitUidGid: true,
  });

// "constructor" was found by fuzz/run.ts: a name that every object has was taken for a known type.
test.each(["constructor", "__proto__", "socket", ""])("a table of contents with the entry type %j is refused", async (type) => {
  await expect(read(type)).rejects.toMatchObject({ name: BuilderError.name, code: "BUILD_TAR" });
});

test("a table of contents with a known entry type is read", async () => {
  await expect(read("dir")).resolves.toMatchObject({ entryCount: 1, blob: undefined });
});

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LocalfsOptions, localfsBackend } from "../src/index.ts";
import { blobBackendSuite, type OpenedBackend } from "../src/testing/index.ts";

async function opened(prepare: (folder: string) => Promise<LocalfsOptions>): Promise<OpenedBackend> {
  const folder = await mkdtemp(join(tmpdir(), "localfs-"));
  const backend = localfsBackend(await prepare(folder));
  return { backend, end: () => rm(folder, { recursive: true }) };
}

blobBackendSuite("a folder", {
  kind: "localfs",
  namesBlobs: true,
  owns: true,
  open: (blob, id) =>
    opened(async (folder) => {
      await writeFile(join(folder, id), blob);
      return { dir: folder };
    }),
});

blobBackendSuite("the second of two folders, the first holding an empty file of that name,", {
  kind: "localfs",
  namesBlobs: true,
  owns: true,
  open: (blob, id) =>
    opened(async (folder) => {
      const [dir, other] = [join(folder, "dir"), join(folder, "other")];
      await mkdir(dir);
      await mkdir(other);
      await writeFile(join(dir, id), "");
      await writeFile(join(other, id), blob);
      return { dir, altDirs: [other] };
    }),
});

blobBackendSuite("one file", {
  kind: "localfs",
  namesBlobs: false,
  owns: true,
  open: (blob) =>
    opened(async (folder) => {
      await writeFile(join(folder, "blob"), blob);
      return { blobFile: join(folder, "blob") };
    }),
});

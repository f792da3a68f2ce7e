// Bootstraps of both versions, through objects, cursors and pages: all must say the same.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bufferSource, checkBootstrap, openBootstrap, openCursor, openRandomAccess, RafsError } from "@nydus-ts/rafs-format";
import { goldenFiles } from "../golden-files.ts";
import type { Target } from "../target.ts";

const fixtures = join(import.meta.dirname, "../../packages/rafs-format/test/fixtures");
/** Names that one case looks at one by one. */
const namesMax = 1000;
const pagedBytesMax = 20_480;

export const target: Target = {
  name: "bootstraps",
  seeds: (golden) =>
    [
      ...["plain-v6.boot", "plain-v5.boot"].map((name) => ({ name, bytes: readFileSync(join(fixtures, name)) })),
      ...goldenFiles(golden, /^bootstrap(\.external)?$/).filter(({ name }) => !name.startsWith("wide")),
    ].flatMap(({ name, bytes }) => [
      { name, bytes, read },
      // In pages it takes ten times as long, so the smaller images do.
      ...(bytes.length <= pagedBytesMax ? [{ name: `${name} in pages`, bytes, read: readPages }] : []),
    ]),
  accepts: (error) => error instanceof RafsError,
};

function read(bytes: Uint8Array): void {
  const bootstrap = openBootstrap(bytes);
  const cursor = openCursor(bytes);
  let names = 0;
  for (const { nid, inode } of bootstrap.walk()) {
    if (++names > namesMax) break;
    cursor.load(nid);
    if (inode.type !== "dir") continue;
    for (const { name, nid: child } of bootstrap.readDir(nid)) {
      if (cursor.find(nid, name, 0, name.length) !== child) throw new RafsError("RAFS_DIRECTORY", "a listed name is not found");
    }
  }
  checkBootstrap(bootstrap);
}

/** Two walks of the same bytes end after the same names, with the same code. */
async function readPages(bytes: Uint8Array): Promise<void> {
  const whole = await namesOf(async function* () {
    yield* openBootstrap(bytes).walk();
  });
  const pages = await namesOf(async function* () {
    yield* (await openRandomAccess(bufferSource(bytes), { pageBytes: 512, cacheBytes: 4096 })).walk();
  });
  if (whole !== pages) throw new Error(`in memory: ${whole}; in pages: ${pages}`);
}

async function namesOf(walk: () => AsyncIterable<unknown>): Promise<string> {
  let names = 0;
  try {
    for await (const _ of walk()) if (++names > namesMax) break;
    return `${names} names`;
  } catch (error) {
    if (error instanceof RafsError) return `${names} names, ${error.code}`;
    throw error;
  }
}

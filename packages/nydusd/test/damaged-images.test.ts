import { existsSync, readdirSync, symlinkSync } from "node:fs";
import { lstat, mkdir, open, readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { type DamagedCase, damagedCases, goldenAbsent, goldenCase, goldenDir, Workspace } from "@nydus-ts/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { localConfig, type Nydusd, startNydusd } from "./support.ts";

/** What the damaged images were made from. */
const bases = ["plain-v6-tar", "plain-v5-tar", "plain-v6-export", "xattrs-v5", "small-v5-zstd-blake3", "small-v6-inline"];
/** Of one image, for everything that is done with it; nothing here waits for a network. */
const imageDeadlineMs = 20_000;
const entriesMax = 5000;
const pieceBytes = 4096;

/**
 * Images that are mounted all the same: a bootstrap is not read whole at the mount. "served": whatever can be opened is read without a
 * fault; what is damaged is an inode or a directory that gives EIO by itself, or nothing a reader sees. "EIO": reads fail.
 */
const mountable = {
  served: [
    "v6-appended",
    "v6-chunktable-none",
    "v6-nlink0",
    "v6-format",
    "v6-layout3",
    "v6-dir-huge",
    "v6-dir-0",
    "v6-file-huge",
    "v6-mode0",
    "v6-dirent-off0",
    "v6-dirent-off13",
    "v6-dirent-off-far",
    "v6-dirent-nid-far",
    "v6-dirent-nid-max",
    "v6-dirent-cycle",
    "v6-dirent-slash",
    "v6-dirent-order",
    "v6-dirent-dup",
    "v6-sym-5000",
    "v6-sym-0",
    "v6-xattr-prefix",
    "v6-xattr-len",
    "v6-xattr-count",
    "v6-dir-plain-far",
    "v5-digest",
    "v5-parent",
    "v5-ext-none",
    "unpack5-special",
  ],
  EIO: [
    "v6-chunk-blob0",
    "v6-chunk-blob9",
    "v6-chunk-index-big",
    "v6-chunk-block",
    "v5-chunk-digest",
    "blob6-short",
    "blob6-missing",
    "blob6-header-magic",
    "blob6-header-entries",
    "blob6-ci-garbage",
    "blob6-bitflip-zstd",
    "blob6-bitflip-raw",
    "blob5-short",
    "blob5-bitflip",
  ],
} as const;

/** A file as the daemon showed it; `failures` are offset and errno of what could not be read. */
interface ShownFile {
  readonly path: string;
  readonly pieces: { readonly offset: number; readonly bytes: Buffer }[];
  readonly failures: string[];
}

const absent = goldenDir() === undefined;

describe.skipIf(absent)(`damaged images through one daemon${absent ? ` (${goldenAbsent})` : ""}`, () => {
  let workspace: Workspace;
  let nydusd: Nydusd;
  let pool: string;
  /** By path: the contents that file has in the images that are whole. */
  const truth = new Map<string, Buffer[]>();
  const outcomes = new Map<string, string>();

  beforeAll(async () => {
    workspace = new Workspace("nydusd-damaged-images");
    pool = workspace.path("blobs");
    await mkdir(pool);
    const wholes = bases.filter((name) => existsSync(join(goldenDir()!, "cases", name))).map((name) => goldenCase(name));
    for (const { blobDirectory } of wholes) {
      for (const id of readdirSync(blobDirectory!)) if (!existsSync(join(pool, id))) symlinkSync(join(blobDirectory!, id), join(pool, id));
    }
    nydusd = await startNydusd(workspace, ["fuse"]);
    for (const whole of wholes) {
      const source = whole.bootstrapFile ?? join(whole.blobDirectory!, readdirSync(whole.blobDirectory!)[0]!);
      await mount(source, pool, `base-${whole.name}`);
      for (const { path, pieces, failures } of await filesBelow(join(nydusd.mountpoint, "a"))) {
        expect(failures).toEqual([]);
        truth.set(path, [...(truth.get(path) ?? []), Buffer.concat(pieces.map(({ bytes }) => bytes))]);
      }
      await nydusd.client.umount("/a");
    }
    expect(truth.size).toBeGreaterThan(10);
  }, 60_000);
  afterAll(() => workspace?.[Symbol.asyncDispose]());

  const mount = async (source: string, blobs: string, name: string): Promise<void> => {
    const config = localConfig(blobs, workspace.path("caches", name), { enable_xattr: true });
    await nydusd.client.mount("/a", { source, fs_type: "rafs", config });
  };

  test.for(damagedCases().map((entry) => [entry.name, entry.fault, entry] as const))(
    "%s (%s) is refused in one line, or shows no wrong byte",
    { timeout: imageDeadlineMs + 10_000 },
    async ([name, , entry]) => {
      const signal = AbortSignal.timeout(imageDeadlineMs);
      const refusal = await mount(sourceOf(entry), blobsOf(entry, pool), name).then(
        () => undefined,
        (error: Error) => error.message,
      );
      if (refusal === undefined) {
        const files = await filesBelow(join(nydusd.mountpoint, "a"), signal);
        outcomes.set(name, files.some(({ failures }) => failures.length > 0) ? "EIO" : "served");
        for (const { path, pieces } of files) {
          const known = truth.get(path) ?? [];
          const wrong = pieces.filter(
            ({ offset, bytes }) => !known.some((whole) => whole.subarray(offset, offset + bytes.length).equals(bytes)),
          );
          expect(wrong.map(({ offset, bytes }) => `${path} [${offset}..+${bytes.length})`)).toEqual([]);
        }
        await nydusd.client.umount("/a");
      } else {
        outcomes.set(name, "refused");
        expect(refusal).toMatch(/^[^\n]{20,600}$/);
      }
      expect((await nydusd.client.info()).state).toBe("RUNNING");
    },
  );

  test("what is mounted is known, the rest was refused; the daemon made no mistake of its own", () => {
    const mounted = Object.fromEntries([...outcomes].filter(([, outcome]) => outcome !== "refused"));
    expect(mounted).toEqual(
      Object.fromEntries(Object.entries(mountable).flatMap(([outcome, names]) => names.map((name) => [name, outcome]))),
    );
    expect(outcomes.size).toBe(115);
    // A mistake of the program is logged with the place where it happened.
    expect(nydusd.log()).not.toMatch(/^\s+at .*:\d+:\d+/m);
  });
});

function sourceOf(entry: DamagedCase): string {
  const inline = readdirSync(entry.directory).find((file) => /^[0-9a-f]{64}$/.test(file));
  return join(entry.directory, inline ?? "bootstrap");
}

/** A damaged blob is served, a missing one stays missing; all else comes from the images that are whole. */
function blobsOf(entry: DamagedCase, pool: string): string {
  if (existsSync(join(entry.directory, "blobs"))) return join(entry.directory, "blobs");
  return entry.name.startsWith("inline") || entry.name.startsWith("blob") ? entry.directory : pool;
}

/** Every file below a folder, as far as it can be listed and read. */
async function filesBelow(root: string, signal?: AbortSignal): Promise<ShownFile[]> {
  const files: ShownFile[] = [];
  const folders = [""];
  let entries = 0;
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    const names = await readdir(join(root, folder), { encoding: "latin1" }).catch(() => []);
    for (const name of names) {
      signal?.throwIfAborted();
      if (++entries > entriesMax) throw new Error(`more than ${entriesMax} entries: the tree has a loop`);
      const path = `${folder}/${name}`;
      const place = Buffer.from(root + path, "latin1");
      const stat = await lstat(place).catch(() => undefined);
      if (stat?.isDirectory()) folders.push(path);
      if (stat?.isSymbolicLink()) await readlink(place).catch(() => "");
      if (stat?.isFile()) files.push(await readFile(path, place, stat.size));
    }
  }
  return files;
}

/** A size the image claims may be anything: the start, and the end, are read. */
async function readFile(path: string, place: Buffer, size: number): Promise<ShownFile> {
  const shown: ShownFile = { path, pieces: [], failures: [] };
  const file = await open(place, "r").catch((error: NodeJS.ErrnoException) => void shown.failures.push(`open ${error.code}`));
  if (file === undefined) return shown;
  try {
    for (let offset = 0; offset < Math.min(size, 1 << 20); offset += pieceBytes) {
      const bytes = Buffer.alloc(Math.min(pieceBytes, size - offset));
      try {
        const { bytesRead } = await file.read(bytes, 0, bytes.length, offset);
        if (bytesRead > 0) shown.pieces.push({ offset, bytes: bytes.subarray(0, bytesRead) });
      } catch (error) {
        shown.failures.push(`${offset} ${(error as NodeJS.ErrnoException).code}`);
      }
    }
  } finally {
    await file.close();
  }
  return shown;
}

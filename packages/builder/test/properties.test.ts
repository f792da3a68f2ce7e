/** What must hold for any tree, on random ones. Each property works on a tmpfs of its own, where root may set what it likes. */
import { execFileSync } from "node:child_process";
import { chmodSync, lchownSync, linkSync, lstatSync, lutimesSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { lsetxattr, mknod, mount, umount2 } from "@nydus-ts/linux";
import { modeTypes, openBootstrap } from "@nydus-ts/rafs-format";
import { compareListings, listTree } from "@nydus-ts/testkit";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CompressPool, type CreateOptions, type CreateResult, loadImage, mergeLayers, type TreeNode } from "../src/index.ts";
import { BlobReader, build, listImage, TemporaryDirectory } from "./support.ts";

interface Attributes {
  mode: number;
  uid: number;
  gid: number;
  /** seconds, also before 1970 */
  mtime: number;
  xattr?: Uint8Array | undefined;
}

type Entry =
  | (Attributes & { kind: "file"; unit: Uint8Array; repeat: number })
  | (Attributes & { kind: "dir"; children: Children; opaque: boolean })
  | (Attributes & { kind: "symlink"; target: string })
  | (Attributes & { kind: "fifo" })
  /** another name of the file made last */
  | (Attributes & { kind: "hardlink" })
  /** takes the name away from lower layers */
  | (Attributes & { kind: "whiteout" });
type Children = Array<[name: string, entry: Entry]>;

const attributes = {
  mode: fc.integer({ min: 0, max: 0o7777 }),
  uid: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 0xfffffffe })),
  gid: fc.nat(70_000),
  mtime: fc.integer({ min: -2_000_000_000, max: 2_000_000_000 }),
  xattr: fc.option(fc.uint8Array({ maxLength: 40 }), { nil: undefined }),
};
const file = fc.record({
  kind: fc.constant("file" as const),
  unit: fc.uint8Array({ maxLength: 300 }),
  repeat: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 60 })),
  ...attributes,
});
const leaf = fc.oneof(
  { arbitrary: file, weight: 5 },
  fc.record({
    kind: fc.constant("symlink" as const),
    target: fc.string({ minLength: 1, maxLength: 200, unit: "grapheme-ascii" }),
    ...attributes,
  }),
  fc.record({ kind: fc.constant("fifo" as const), ...attributes }),
  fc.record({ kind: fc.constant("hardlink" as const), ...attributes }),
);

/** Any bytes that a name may have, one a code unit; but for whiteouts, which are no names of a single layer. */
const anyName = fc
  .uint8Array({ minLength: 1, maxLength: 255 })
  .map((bytes) => Buffer.from(bytes.map((byte) => (byte === 0 || byte === 0x2f ? 0x2d : byte))).toString("latin1"))
  .filter((name) => name !== "." && name !== ".." && !name.startsWith(".wh."));
/** Few names, so that layers meet. */
const sharedName = fc.constantFrom("a", "b", "c", "-d");

function trees(name: fc.Arbitrary<string>, leaves: fc.Arbitrary<Entry>, opaque: fc.Arbitrary<boolean>): fc.Arbitrary<Children> {
  const { children } = fc.letrec<{ children: Children; entry: Entry }>((tie) => ({
    children: fc.uniqueArray(fc.tuple(name, tie("entry")), { maxLength: 6, selector: ([key]) => key }),
    entry: fc.oneof(
      { depthSize: "small" },
      leaves,
      fc.record({ kind: fc.constant("dir" as const), children: tie("children"), opaque, ...attributes }),
    ),
  }));
  return children;
}

const noDevice = { major: 0, minor: 0 };

/** How a layer says that something is gone. */
interface Form {
  remove(directory: Buffer, name: string): void;
  opaque(directory: Buffer): void;
  /** the form of what is below an opaque directory; the same if absent */
  insideOpaque?: Form;
}

const ociForm: Form = {
  remove: (directory, name) => writeFileSync(below(directory, `.wh.${name}`), ""),
  opaque: (directory) => writeFileSync(below(directory, ".wh..wh..opq"), ""),
};

/**
 * What the kernel itself leaves in an upper directory: it makes whiteouts only for names that lower layers show, and shows others as names
 * that can not be looked up. `view` is a mount of the layers below the one at `root`.
 */
function kernelForm(root: string, view: string): Form {
  const opaque = (directory: Buffer) => lsetxattr(directory, "trusted.overlay.opaque", Buffer.from("y"));
  return {
    opaque,
    remove(directory, name) {
      const path = below(directory, name);
      const shown = isShown(Buffer.concat([Buffer.from(view), path.subarray(root.length)]));
      if (shown) mknod(path, modeTypes.char, noDevice);
    },
    insideOpaque: { opaque, remove: () => {} },
  };
}

function isShown(path: Buffer): boolean {
  try {
    lstatSync(path);
    return true;
  } catch {
    // ENOENT, or ENOTDIR where a lower layer has a file.
    return false;
  }
}

/** Shows the overlay of `layers`, lowest first, while `run` runs. The kernel wants two at least. */
async function withOverlay<T>(directory: string, layers: readonly string[], run: (view: string) => Promise<T>): Promise<T> {
  const [view, empty, emptyToo] = ["view", "empty", "empty-too"].map((name) => join(directory, name));
  for (const path of [view, empty, emptyToo]) mkdirSync(path, { recursive: true });
  const lower = [empty, emptyToo, ...layers];
  mount({ source: "overlay", target: view, type: "overlay", flags: 0, options: `lowerdir=${lower.toReversed().join(":")}` });
  try {
    return await run(view);
  } finally {
    umount2(view, 0);
  }
}

function below(directory: Buffer, name: string): Buffer {
  return Buffer.concat([directory, Buffer.from("/"), Buffer.from(name, "latin1")]);
}

/** Makes a tree on disk; the last entry of every directory first, if it is to be `backwards`. */
function writeTree(path: Buffer, children: Children, form: Form, backwards = false): void {
  let last: Buffer | undefined;
  for (const [name, entry] of backwards ? children.toReversed() : children) {
    const at = below(path, name);
    if (entry.kind === "file") {
      writeFileSync(at, contentOf(entry.unit, entry.repeat));
      last = at;
    } else if (entry.kind === "dir") {
      mkdirSync(at);
      writeTree(at, entry.children, entry.opaque ? (form.insideOpaque ?? form) : form, backwards);
      if (entry.opaque) form.opaque(at);
    } else if (entry.kind === "symlink") {
      symlinkSync(entry.target, at);
    } else if (entry.kind === "fifo") {
      mknod(at, modeTypes.fifo, noDevice);
    } else if (entry.kind === "whiteout") {
      form.remove(path, name);
      continue;
    } else if (last && !backwards) {
      linkSync(last, at);
      continue;
    } else {
      continue;
    }
    lchownSync(at, entry.uid, entry.gid);
    if (entry.kind !== "symlink") chmodSync(at, entry.mode);
    if (entry.xattr) lsetxattr(at, "trusted.note", entry.xattr);
    // As dates: a negative number of seconds means "now" to Node.
    lutimesSync(at, new Date(entry.mtime * 1000), new Date(entry.mtime * 1000));
  }
}

function contentOf(unit: Uint8Array, repeat: number): Buffer {
  return Buffer.concat(Array.from({ length: repeat }, () => unit));
}

/** One tmpfs for all runs of a property, empty at the start of each. */
class Scratch {
  readonly #temporary = new TemporaryDirectory();
  readonly path = this.#temporary.join("tmpfs");
  #runs = 0;

  constructor() {
    mkdirSync(this.path);
    mount({ source: "tmpfs", target: this.path, type: "tmpfs", flags: 0, options: "size=256m" });
  }

  async use<T>(run: (directory: string) => Promise<T>): Promise<T> {
    const directory = join(this.path, String(this.#runs++));
    mkdirSync(directory);
    try {
      return await run(directory);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  [Symbol.dispose](): void {
    umount2(this.path, 0);
    this.#temporary[Symbol.dispose]();
  }
}

function listBuilt(out: string, { bootstrap: bytes }: Pick<CreateResult, "bootstrap">) {
  const bootstrap = openBootstrap(bytes);
  return listImage(
    bootstrap,
    bootstrap.blobs.map((blob) => new BlobReader(blob, join(out, "blobs", blob.id))),
  );
}

const options = fc.record({
  compressor: fc.constantFrom("none", "zstd", "lz4_block"),
  digester: fc.constantFrom("blake3", "sha256"),
  chunkSize: fc.constantFrom(0x1000, 0x2000),
  batchSize: fc.constantFrom(0, 0x1000),
  toc: fc.boolean(),
}) satisfies fc.Arbitrary<Partial<CreateOptions>>;

describe("any tree", () => {
  let scratch: Scratch;
  beforeAll(() => {
    scratch = new Scratch();
  });
  afterAll(() => scratch[Symbol.dispose]());
  const runs = { numRuns: 30 };
  const children = trees(anyName, leaf, fc.constant(false));

  test("is read back as it was, from version 6 and version 5", async () => {
    const property = fc.asyncProperty(children, options, async (tree, given) => {
      await scratch.use(async (directory) => {
        mkdirSync(join(directory, "source"));
        writeTree(Buffer.from(join(directory, "source")), tree, ociForm);
        const built = await build(join(directory, "source"), join(directory, "v6"), given);
        const source = await listTree(join(directory, "source"));
        const shown = listBuilt(join(directory, "v6"), built);
        // Sizes of directories are the format's own, and the root's time is that of unpacking.
        const [root, ...rest] = shown.map((entry) => (entry.type === "dir" ? { ...entry, size: 0 } : entry));
        const [sourceRoot, ...sourceRest] = source.map((entry) => (entry.type === "dir" ? { ...entry, size: 0 } : entry));
        expect(compareListings(rest, sourceRest)).toEqual([]);
        expect(compareListings([root], [sourceRoot], { ignore: ["mtime", "nsec"] })).toEqual([]);

        const { batchSize, toc, ...version5 } = given;
        const other = await build(join(directory, "source"), join(directory, "v5"), { ...version5, version5: { alignedChunks: false } });
        const names = (bytes: Buffer) => {
          const bootstrap = openBootstrap(bytes);
          return Array.from(bootstrap.walk(), ({ path, nid, inode: { nid: _, ino, size, ...inode } }) => [
            Buffer.from(path).toString("latin1"),
            inode,
            inode.type === "dir" ? 0 : size,
            bootstrap.xattrs(nid),
            Array.from(bootstrap.chunksOf(nid), (chunk) => Buffer.from(bootstrap.chunkRecord(chunk)!.digest).toString("hex")),
          ]);
        };
        expect(names(other.bootstrap)).toEqual(names(built.bootstrap));
      });
    });
    await fc.assert(property, runs);
  }, 120_000);

  test("gives the same bytes, in whatever order it was made and however many threads compress", async () => {
    const withoutLinks = trees(
      anyName,
      leaf.filter(({ kind }) => kind !== "hardlink"),
      fc.constant(false),
    );
    const property = fc.asyncProperty(withoutLinks, options, async (tree, given) => {
      await scratch.use(async (directory) => {
        // Enough data that threads are started.
        const large: Children = [0, 1, 2].map((i) => [
          `large-${i}`,
          { kind: "file", unit: Buffer.from(`${i} is a line of text\n`), repeat: 60_000, mode: 0o644, uid: 0, gid: 0, mtime: i },
        ]);
        const results: CreateResult[] = [];
        for (const [name, backwards, threads] of [
          ["forwards", false, 1],
          ["backwards", true, 3],
        ] as const) {
          mkdirSync(join(directory, name));
          writeTree(Buffer.from(join(directory, name)), [...tree, ...large], ociForm, backwards);
          await using pool = new CompressPool({ threads });
          results.push(await build(join(directory, name), join(directory, `${name}-out`), { ...given, pool }));
        }
        expect(results[1].blob!.id).toBe(results[0].blob!.id);
        expect(results[1].bootstrap.equals(results[0].bootstrap)).toBe(true);
      });
    });
    await fc.assert(property, { numRuns: 10 });
  }, 120_000);

  test("merged layers are what the kernel's overlay of them is", async () => {
    const removal = fc.record({ kind: fc.constant("whiteout" as const), ...attributes });
    const layerLeaf = fc.oneof({ arbitrary: leaf.filter(({ kind }) => kind !== "hardlink"), weight: 3 }, removal);
    const layers = fc.array(trees(sharedName, layerLeaf, fc.boolean()), { minLength: 2, maxLength: 4 });
    const property = fc.asyncProperty(layers, async (given) => {
      await scratch.use(async (directory) => {
        const roots: TreeNode[] = [];
        const lower: string[] = [];
        for (const [i, tree] of given.entries()) {
          const [oci, kernel] = [`oci-${i}`, `kernel-${i}`].map((name) => join(directory, name));
          for (const path of [oci, kernel]) mkdirSync(path);
          writeTree(Buffer.from(oci), tree, ociForm);
          await withOverlay(directory, lower, async (view) => writeTree(Buffer.from(kernel), tree, kernelForm(kernel, view)));
          lower.push(kernel);
          const source = { kind: "tar" as const, stream: tarOf(oci) };
          const built = await build(oci, join(directory, "out"), { source, bootstrap: { file: join(directory, `boot-${i}`) } });
          roots.push(loadImage(built.bootstrap).root);
        }
        const merged = mergeLayers({
          layers: roots,
          compressor: 3,
          digester: 0,
          cipher: 0,
          explicitUidGid: true,
          prefetch: { policy: "none", patterns: [] },
        });
        const expected = await withOverlay(directory, lower, async (view) => await listTree(view));
        const ignore = ["size", "nlink", "mtime", "nsec"] as const;
        expect(compareListings(listBuilt(join(directory, "out"), merged), expected, { ignore })).toEqual([]);
      });
    });
    await fc.assert(property, runs);
  }, 120_000);
});

async function* tarOf(directory: string): AsyncGenerator<Uint8Array> {
  yield execFileSync("tar", ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", directory, "-cf", "-", "."], {
    maxBuffer: 256 * 1024 * 1024,
  });
}

import fc from "fast-check";
import { expect, test } from "vitest";
import { blobFeatures, checkBootstrap, modeTypes, openBootstrap } from "../src/index.ts";
import {
  type BlobEntry,
  type BootstrapOptions,
  newBlobEntry,
  numberTree,
  type StoredChunk,
  TreeNode,
  writeBootstrap,
  writeBootstrapV5,
} from "../src/writer/index.ts";

// Reader and writer share tables, not code: what one writes the other must read, for any tree.

const chunkSize = 4096;

interface Spec {
  readonly kind: "file" | "dir" | "symlink" | "fifo" | "char" | "link";
  readonly name: string;
  readonly permissions: number;
  readonly uid: number;
  readonly mtime: number;
  readonly size: number;
  readonly xattrs: readonly (readonly [string, Uint8Array])[];
  readonly children: readonly Spec[];
}

/** Byte strings, one byte a code unit: no slash, no NUL. Short and longest ones are frequent, as are those around the dot entries. */
const nameArbitrary = fc.oneof(
  fc.string({
    unit: fc.integer({ min: 1, max: 255 }).map((byte) => (byte === 0x2f ? "!" : String.fromCharCode(byte))),
    minLength: 1,
    maxLength: 12,
  }),
  fc.constantFrom("-", "...", "..a", ".a", " ", "\x7f", "\xff", "a", "ab"),
  fc.integer({ min: 200, max: 255 }).map((length) => "n".repeat(length)),
);

const xattrArbitrary = fc.tuple(
  fc.constantFrom("user.a", "user.\xc3\xa9", "trusted.overlay.opaque", "security.capability", "system.posix_acl_access"),
  fc.uint8Array({ maxLength: 300 }),
);

const leaf = fc.record({
  kind: fc.constantFrom("file", "symlink", "fifo", "char", "link") as fc.Arbitrary<Spec["kind"]>,
  name: nameArbitrary,
  permissions: fc.integer({ min: 0, max: 0o7777 }),
  uid: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  mtime: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
  size: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 3900, max: 4096 }), fc.integer({ min: 0, max: 60_000 })),
  xattrs: fc.uniqueArray(xattrArbitrary, { maxLength: 4, selector: ([name]) => name }),
  children: fc.constant([] as Spec[]),
});
const directory = (children: fc.Arbitrary<Spec[]>): fc.Arbitrary<Spec> =>
  fc.tuple(leaf, children).map(([attributes, list]) => ({ ...attributes, kind: "dir", children: list }));
const inner = directory(fc.array(leaf, { maxLength: 90, size: "max" }));
const tree = directory(fc.array(fc.oneof({ weight: 4, arbitrary: leaf }, { weight: 1, arbitrary: inner }), { maxLength: 60, size: "max" }));

test("any tree that is written, as version 5 and as version 6, is read back as it was: names, attributes, xattrs, links, chunks", () => {
  fc.assert(
    fc.property(tree, fc.integer({ min: 0, max: 3 }), (spec, blobCount) => {
      const built = build({ ...spec, name: "" }, blobCount);
      const order = numberTree(built.root);
      const options: BootstrapOptions = {
        root: built.root,
        nodeCount: order.length,
        blobs: built.blobs,
        chunkSize,
        compressor: 0,
        digester: 1,
        cipher: 0,
        explicitUidGid: true,
        hasXattr: true,
        prefetch: [],
      };
      for (const write of [writeBootstrap, writeBootstrapV5]) {
        const bootstrap = openBootstrap(write(options));
        expect(checkBootstrap(bootstrap).names).toBe(order.length);
        const found: unknown[] = [];
        for (const { path, nid, inode } of bootstrap.walk()) {
          found.push({
            path: Buffer.from(path).toString("latin1"),
            mode: inode.mode,
            uid: inode.uid,
            mtime: Number(inode.mtime),
            nlink: inode.nlink,
            ino: inode.ino,
            rdev: inode.rdev,
            ...(inode.type === "dir" ? {} : { size: inode.size }),
            xattrs: new Map(
              [...bootstrap.xattrs(nid)].map(([name, value]) => [name, Buffer.from(value).toString("hex")]).sort() as [string, string][],
            ),
            target: inode.type === "symlink" ? Buffer.from(bootstrap.readLink(nid)).toString("latin1") : undefined,
            chunks: [...bootstrap.chunksOf(nid)].map(
              (chunk) => `${chunk.blobIndex}:${chunk.chunkIndex}@${chunk.uncompressedOffset}+${chunk.length}`,
            ),
          });
        }
        expect(found).toEqual(expected(built.root, built.blobs));
      }
    }),
    { numRuns: 150 },
  );
});

interface Built {
  readonly root: TreeNode;
  readonly blobs: BlobEntry[];
}

function build(spec: Spec, blobCount: number): Built {
  const all = Array.from({ length: blobCount }, (_, index) => emptyBlob(index));
  let linked: TreeNode | undefined;
  const add = (entry: Spec): TreeNode => {
    // A first `link`, and every file of an image without blobs, is an empty file.
    const kind = entry.kind === "link" && linked === undefined ? "file" : entry.kind;
    const isFile = kind === "file" || kind === "link";
    const size = isFile ? (blobCount === 0 ? 0 : entry.size) : kind === "symlink" ? Math.min(Math.max(entry.size, 1), 4096) : 0;
    const mode = entry.permissions | modeTypes[kind === "link" ? "file" : kind];
    const node = new TreeNode(entry.name, {
      mode,
      uid: entry.uid,
      gid: 7,
      size,
      mtime: entry.mtime,
      mtimeNsec: 5,
      rdev: kind === "char" ? 0x103 : 0,
    });
    if (entry.xattrs.length > 0) node.xattrs = new Map(entry.xattrs);
    if (kind === "symlink") node.target = Buffer.alloc(size, "t/");
    if (isFile && blobCount > 0) addChunks(node, all[entry.uid % blobCount] as BlobEntry);
    if (kind === "link" && linked !== undefined) return linkTo(linked, entry.name);
    if (kind === "file" && linked === undefined) linked = node;
    for (const child of entry.children) {
      if (child.name !== "." && child.name !== "..") node.children?.set(child.name, add(child));
    }
    return node;
  };
  const root = add(spec);
  return { root, blobs: all.filter(({ chunkCount }) => chunkCount > 0) };
}

/** A second name of the inode of `first`. */
function linkTo(first: TreeNode, name: string): TreeNode {
  first.link ??= { hardlink: true };
  const node = new TreeNode(name, first);
  node.link = first.link;
  node.chunks = first.chunks;
  node.xattrs = first.xattrs;
  return node;
}

function addChunks(node: TreeNode, blob: BlobEntry): void {
  for (let left = node.size; left > 0; left -= chunkSize) {
    const digest = new Uint8Array(32);
    new DataView(digest.buffer).setUint32(0, blob.chunkCount + 1);
    const size = Math.min(left, chunkSize);
    const chunk: StoredChunk = {
      digest,
      blob,
      index: blob.chunkCount,
      flags: 0,
      compressedOffset: blob.uncompressedSize,
      compressedSize: size,
      uncompressedOffset: blob.uncompressedSize,
      uncompressedSize: size,
      crc32: 0,
    };
    node.chunks.push(chunk);
    blob.chunkCount++;
    blob.uncompressedSize += 4096;
    blob.compressedSize = blob.uncompressedSize;
    blob.ciOffset = blob.uncompressedSize;
    blob.ciCompressedSize += 16;
    blob.ciUncompressedSize += 16;
  }
}

function emptyBlob(index: number): BlobEntry {
  return newBlobEntry({
    id: `${index}`.repeat(64),
    chunkSize,
    compressor: 0,
    digester: 1,
    features: blobFeatures.aligned,
  });
}

/** What the reader must find, depth first, children by name bytes. */
function expected(root: TreeNode, blobs: readonly BlobEntry[]): unknown[] {
  const found: unknown[] = [];
  const visit = (node: TreeNode, path: string): void => {
    found.push({
      path: path === "" ? "/" : path,
      mode: node.mode,
      uid: node.uid,
      mtime: node.mtime,
      nlink: node.nlink,
      ino: node.ino,
      rdev: node.rdev,
      ...(node.isDirectory ? {} : { size: node.size }),
      xattrs: new Map(
        [...(node.xattrs ?? [])].map(([name, value]) => [name, Buffer.from(value).toString("hex")]).sort() as [string, string][],
      ),
      target: node.target === undefined ? undefined : Buffer.from(node.target).toString("latin1"),
      chunks: node.chunks.map(
        (chunk) => `${blobs.indexOf(chunk.blob)}:${chunk.index}@${chunk.uncompressedOffset}+${chunk.uncompressedSize}`,
      ),
    });
    for (const child of node.sorted) visit(child, `${path}/${child.name}`);
  };
  visit(root, "");
  return found;
}

/** What a container sees of an image, without mounting it: every path with its attributes and a digest of its content. */
import { createHash } from "node:crypto";
import { applyLayers, type ChunkSink, readLayerTree, type TreeNode } from "@nydus-ts/builder";
import type { BlobBackend } from "@nydus-ts/chunk-store";
import { chunkBytesMin, modeTypeMask, modeTypes } from "@nydus-ts/rafs-format";
import { newBlobEntry } from "@nydus-ts/rafs-format/writer";
import type { ImageSource } from "@nydus-ts/registry-client";
import type { BootstrapFile } from "../bootstrap-file.ts";
import { createLimiter } from "../convert/limiter.ts";
import type { SelectedImage } from "../convert/select.ts";
import { Together } from "../convert/together.ts";
import { ImageChunks } from "../image-chunks.ts";
import { filesInCheckMax } from "../limits.ts";

export interface Listed {
  mode: number;
  uid: number;
  gid: number;
  /** of files and links */
  size: number | undefined;
  /** of devices */
  rdev: number | undefined;
  target: string | undefined;
  xattrs: ReadonlyMap<string, Uint8Array>;
  /** of files */
  content: string | undefined;
}

/** By path, one byte per code unit; without the root, of which layers often say nothing. */
export type Listing = Map<string, Listed>;

/** Contents are compared by the digests of pieces of this size, which both sides can cut from a stream. Source: `readLayerTree` */
const pieceBytes = 1024 * 1024;
const sha256 = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();

/** Reads every layer of an OCI image once, as a stream. @throws RegistryError, BuilderError */
export async function listOciImage(source: ImageSource, { manifest }: SelectedImage, signal: AbortSignal): Promise<Listing> {
  const layers: TreeNode[] = [];
  for (const layer of manifest.layers) layers.push(await readLayerTree(source.openBlob(layer, { signal }), hashingSink()));
  const listing: Listing = new Map();
  const root = applyLayers(layers);
  const pending = root ? [{ node: root, path: "" }] : [];
  for (let next = pending.pop(); next; next = pending.pop()) {
    for (const child of next.node.children?.values() ?? []) {
      const path = `${next.path}/${child.name}`;
      listing.set(path, {
        ...attributes(child.mode, child),
        target: child.target === undefined ? undefined : Buffer.from(child.target).toString("latin1"),
        xattrs: child.xattrs ?? new Map(),
        content: child.isRegular ? joinDigests(child.chunks.map(({ digest }) => digest)) : undefined,
      });
      pending.push({ node: child, path });
    }
  }
  return listing;
}

/** Reads every file of a nydus image through its chunks, each verified. @throws ChunkStoreError, RafsError */
export async function listNydusImage(file: BootstrapFile, backend: BlobBackend, signal: AbortSignal): Promise<Listing> {
  const { bootstrap } = file;
  const together = new Together(signal);
  const chunks = new ImageChunks(file, backend, together.signal);
  const limit = createLimiter(filesInCheckMax);
  const listing: Listing = new Map();
  const contents: Array<() => Promise<void>> = [];
  for (const { path, nid, inode } of bootstrap.walk()) {
    if (nid === bootstrap.rootNid) continue;
    const listed: Listed = {
      ...attributes(inode.mode, inode),
      target: inode.type === "symlink" ? Buffer.from(bootstrap.readLink(nid)).toString("latin1") : undefined,
      xattrs: bootstrap.xattrs(nid),
      content: undefined,
    };
    listing.set(Buffer.from(path).toString("latin1"), listed);
    if (inode.type !== "file") continue;
    contents.push(() =>
      limit(async () => {
        const content = new PieceDigest();
        for (const chunk of bootstrap.chunksOf(nid)) content.update(await chunks.read(chunk));
        listed.content = content.digest();
      }),
    );
  }
  await together.all(contents);
  return listing;
}

/** One line for each difference, by path. */
export function* compareListings(source: Listing, target: Listing): Generator<string> {
  for (const path of [...new Set([...source.keys(), ...target.keys()])].sort()) {
    const [a, b] = [source.get(path), target.get(path)];
    const name = JSON.stringify(Buffer.from(path, "latin1").toString());
    if (!a || !b) {
      yield `${name} is only in the ${a ? "source" : "target"}`;
      continue;
    }
    for (const [what, left, right] of fieldsOf(a, b))
      if (left !== right) yield `${name}: ${what} is ${left} in the source, ${right} in the target`;
  }
}

function fieldsOf(a: Listed, b: Listed): Array<[what: string, source: string, target: string]> {
  const text = (value: number | string | undefined) => String(value ?? "none");
  return [
    ["mode", a.mode.toString(8), b.mode.toString(8)],
    ["uid", text(a.uid), text(b.uid)],
    ["gid", text(a.gid), text(b.gid)],
    ["size", text(a.size), text(b.size)],
    ["device", text(a.rdev), text(b.rdev)],
    ["link target", JSON.stringify(a.target), JSON.stringify(b.target)],
    ["xattrs", describeXattrs(a.xattrs), describeXattrs(b.xattrs)],
    ["content", text(a.content), text(b.content)],
  ];
}

function describeXattrs(xattrs: ReadonlyMap<string, Uint8Array>): string {
  const items = [...xattrs].map(([name, value]) => `${JSON.stringify(name)}=${Buffer.from(value).toString("base64")}`);
  return `{${items.sort().join(", ")}}`;
}

function attributes(
  mode: number,
  of: { uid: number; gid: number; size: number; rdev: number },
): Pick<Listed, "mode" | "uid" | "gid" | "size" | "rdev"> {
  const type = mode & modeTypeMask;
  const hasSize = type === modeTypes.file || type === modeTypes.symlink;
  const isDevice = type === modeTypes.char || type === modeTypes.block;
  return { mode, uid: of.uid, gid: of.gid, size: hasSize ? of.size : undefined, rdev: isDevice ? of.rdev : undefined };
}

/** Takes file data and keeps digests only. */
function hashingSink(): ChunkSink {
  const blob = newBlobEntry({ id: "", chunkSize: chunkBytesMin, compressor: 0, digester: 0, features: 0 });
  const place = { blob, index: 0, flags: 0, compressedOffset: 0, compressedSize: 0, uncompressedOffset: 0, crc32: 0 };
  return {
    allocate: (bytes) => new Uint8Array(bytes),
    add: (data, { chunks, index }) => {
      chunks[index] = { ...place, digest: sha256(data), uncompressedSize: data.length };
    },
  };
}

/** The digest of a content that comes in parts of any size. */
class PieceDigest {
  readonly #digests: Uint8Array[] = [];
  #hash = createHash("sha256");
  #bytes = 0;

  update(data: Uint8Array): void {
    for (let at = 0; at < data.length; ) {
      const part = data.subarray(at, at + pieceBytes - this.#bytes);
      this.#hash.update(part);
      this.#bytes += part.length;
      at += part.length;
      if (this.#bytes === pieceBytes) this.#end();
    }
  }

  digest(): string {
    if (this.#bytes > 0) this.#end();
    return joinDigests(this.#digests);
  }

  #end(): void {
    this.#digests.push(this.#hash.digest());
    this.#hash = createHash("sha256");
    this.#bytes = 0;
  }
}

const joinDigests = (digests: readonly Uint8Array[]): string => sha256(Buffer.concat(digests)).toString("hex");

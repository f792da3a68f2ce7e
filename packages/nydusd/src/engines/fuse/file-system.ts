import { answered, EINVAL, EIO, ENODATA, ENOENT, type FuseFileSystem, type FuseReply, type FuseRequest } from "@nydus-ts/fuse";
import type { ImageView, Miss, ReadOn } from "./messages.ts";
import { PseudoDirectories } from "./pseudo-directories.ts";
import { ServedImage } from "./served-image.ts";
import type { PseudoNode } from "./virtual-tree.ts";

export interface FileSystemOptions {
  /** Section of the counters this worker writes. */
  readonly section: number;
  readonly device: number;
  readonly handOver: (miss: Miss) => void;
  /** A read of a cache file took as long as only a disk does. */
  readonly slowRead: () => void;
  /** A reader in order has come to what was fetched ahead of it. */
  readonly readOn: (readOn: ReadOn) => void;
  readonly interrupted: (uniqueLo: number, uniqueHi: number) => void;
}

/**
 * All images of a mount and the directories that lead to them, as one worker serves them. The top byte of a node id says which image;
 * 0 is the virtual tree. Node 1 is the root of the image at `/`, if there is one.
 */
export class ImageTreeFileSystem implements FuseFileSystem {
  readonly #options: FileSystemOptions;
  readonly #images = new Array<ServedImage | undefined>(256).fill(undefined);
  readonly #directories = new PseudoDirectories();
  // The node of the request in progress, taken apart.
  #image: ServedImage | undefined;
  #inner = 0;

  constructor(options: FileSystemOptions) {
    this.#options = options;
  }

  /** @throws RafsError */
  attach(view: ImageView, tree: readonly PseudoNode[]): void {
    this.#images[view.index] = new ServedImage(view, this.#options);
    this.#directories.replace(tree);
  }

  detach(index: number, tree: readonly PseudoNode[]): void {
    this.#images[index] = undefined;
    this.#image = undefined;
    this.#directories.replace(tree);
  }

  /** Sets #image and #inner; false for a node of an image that is gone. */
  #open(request: FuseRequest): boolean {
    let index = request.nodeHi >>> 24;
    this.#inner = (request.nodeHi & 0xff_ffff) * 4294967296 + request.nodeLo;
    if (index === 0 && this.#inner === 1) {
      index = this.#directories.imageAt(1);
      if (index !== 0) this.#inner = this.#images[index]?.rootNid ?? 0;
    }
    this.#image = index === 0 ? undefined : this.#images[index];
    return index === 0 || this.#image !== undefined;
  }

  lookup(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    if (this.#image !== undefined) return this.#image.lookup(this.#inner, request, reply);
    const child = this.#directories.child(this.#inner, request.bytes, request.nameStart, request.nameEnd);
    if (child === undefined) return ENOENT;
    const image = child.image === 0 ? undefined : this.#images[child.image];
    if (image !== undefined) {
      image.entry(image.rootNid, reply, 0);
      return answered;
    }
    this.#directories.setAttributes(child.ino, reply);
    reply.entry(child.ino, 0, 0, 0);
    return answered;
  }

  getattr(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    if (this.#image !== undefined) return this.#image.getattr(this.#inner, reply);
    const errno = this.#directories.setAttributes(this.#inner, reply);
    if (errno === answered) reply.attr(0);
    return errno;
  }

  readlink(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    return this.#image === undefined ? EINVAL : this.#image.readlink(this.#inner, reply);
  }

  read(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    return this.#image === undefined ? EINVAL : this.#image.read(this.#inner, request, reply);
  }

  readdir(request: FuseRequest, reply: FuseReply): number {
    return this.#list(request, reply, false);
  }

  readdirplus(request: FuseRequest, reply: FuseReply): number {
    return this.#list(request, reply, true);
  }

  #list(request: FuseRequest, reply: FuseReply, plus: boolean): number {
    if (!this.#open(request)) return EIO;
    if (this.#image !== undefined) return this.#image.list(this.#inner, request, reply, plus);
    return this.#directories.list(this.#inner, request, reply, plus, (child) => {
      const image = child.image === 0 ? undefined : this.#images[child.image];
      return image === undefined ? child.ino : image.inoOf(image.rootNid);
    });
  }

  getxattr(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    return this.#image === undefined ? ENODATA : this.#image.getxattr(this.#inner, request, reply);
  }

  listxattr(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    if (this.#image !== undefined) return this.#image.listxattr(this.#inner, request, reply);
    if (request.xattrRoom === 0) reply.xattrSize(0);
    return answered;
  }

  /** Of a pseudo directory: the disk of any image, since they share the mount. */
  statfs(request: FuseRequest, reply: FuseReply): number {
    if (!this.#open(request)) return EIO;
    const image = this.#image ?? this.#images.find((candidate) => candidate !== undefined);
    if (image !== undefined) return image.statfs(reply);
    reply.statfs({ blocks: 0, blocksFree: 0, blocksAvailable: 0, files: 0, filesFree: 0, blockSize: 4096, nameMax: 255 });
    return answered;
  }

  interrupt(request: FuseRequest): void {
    this.#options.interrupted(request.interruptedLo, request.interruptedHi);
  }
}

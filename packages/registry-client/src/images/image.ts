import type { Descriptor } from "../descriptor.ts";

/** Where an image is read from: a registry or an OCI layout folder. */
export interface ImageSource {
  /** How a person names it. */
  readonly name: string;
  /** The manifest or index the name stands for. */
  resolve(): Promise<Descriptor>;
  /** Verified bytes of a manifest, index or other small document. */
  readManifest(descriptor: Descriptor): Promise<Uint8Array>;
  /**
   * The blob as a stream. From offset 0 its digest and size are checked; a mismatch is thrown after the last byte. Cut connections are resumed.
   */
  openBlob(descriptor: Descriptor, options?: { offset?: number; signal?: AbortSignal }): AsyncIterable<Uint8Array>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Bytes of a blob: a function that opens them from the start each time can be retried, a bare iterable cannot. */
export type BlobBytes = AsyncIterable<Uint8Array> | (() => AsyncIterable<Uint8Array>);

export interface WriteOptions {
  readonly signal?: AbortSignal;
  /** Bytes handed over so far; starts again from a smaller number when an upload is retried. */
  readonly onProgress?: (bytes: number) => void;
  /** To a registry, blobs larger than this are sent in pieces of so many bytes, each in memory until it is there. */
  readonly pieceBytes?: number;
}

/** Where an image is written to. Blobs first, then manifests, the tagged one last. */
export interface ImageTarget {
  readonly name: string;
  hasBlob(digest: string): Promise<boolean>;
  /** Writes a blob whose digest and size are known; what is there already is not written again. False: it was there. */
  writeBlob(descriptor: Descriptor, bytes: BlobBytes, options?: WriteOptions): Promise<boolean>;
  /** Writes a blob whose digest becomes known with its last byte. */
  uploadBlob(mediaType: string, bytes: BlobBytes, options?: WriteOptions): Promise<Descriptor>;
  /** Takes a blob from another repository or folder without moving its bytes through this process; false if that is not possible. */
  mountBlob(descriptor: Descriptor, from: ImageSource): Promise<boolean>;
  /**
   * Stores a manifest or index. `tagged`: it becomes what the target's name stands for.
   *
   * @returns its descriptor
   */
  writeManifest(bytes: Uint8Array, mediaType: string, tagged: boolean): Promise<Descriptor>;
  [Symbol.asyncDispose](): Promise<void>;
}

export function reopenable(
  bytes: BlobBytes,
): { readonly open: () => AsyncIterable<Uint8Array> } | { readonly once: AsyncIterable<Uint8Array> } {
  return typeof bytes === "function" ? { open: bytes } : { once: bytes };
}

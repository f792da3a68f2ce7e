import type { MessagePort } from "node:worker_threads";
import type { PseudoNode } from "./virtual-tree.ts";

/** What an engine and its workers tell each other. All of it is plain data; arrays over shared memory stay shared. */

/** A blob as a worker reads it: the parts of a BlobCache that are good in every thread. */
export interface BlobView {
  readonly dataFd: number;
  readonly ready: Int32Array;
  /** Set when a chunk is read: tells prefetched data that was of use. */
  readonly touched: Int32Array;
  /** Set: the first read of the chunk is to be reported. */
  readonly asked: Int32Array;
  readonly layout: Uint32Array;
  readonly direct: boolean;
  readonly chunkCount: number;
}

export interface ImageView {
  /** 1..255; the top byte of the image's node ids. */
  readonly index: number;
  /** The bootstrap, mapped by the main thread. */
  readonly address: number;
  readonly length: number;
  readonly blobs: readonly BlobView[];
  readonly counters: SharedArrayBuffer;
  /** Whether the image has extended attributes to show. */
  readonly xattr: boolean;
  /** Owner shown for everything when the image does not say (no flag EXPLICIT_UID_GID). */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
}

export type Order =
  | { readonly kind: "attach"; readonly image: ImageView; readonly tree: readonly PseudoNode[] }
  | { readonly kind: "detach"; readonly index: number; readonly tree: readonly PseudoNode[] }
  | { readonly kind: "stop" };

export interface NumberedOrder {
  readonly number: number;
  readonly order: Order;
}

/** A read that needs data the cache lacks; the main thread answers it. */
export interface Miss {
  readonly uniqueLo: number;
  readonly uniqueHi: number;
  readonly nodeLo: number;
  readonly nodeHi: number;
  readonly pid: number;
  /** Of the image. */
  readonly index: number;
  /** Descriptor the answer must be written to. */
  readonly device: number;
  /** First byte wanted of the file. */
  readonly fileOffset: number;
  /** Bytes of the answer. */
  readonly length: number;
  /** Five numbers a piece: blob, chunk, byte offset of the chunk in the blob, first byte wanted in the chunk, bytes wanted. */
  readonly pieces: readonly number[];
  /** Blob and chunk, in turn, of what else the reader will probably want: see `restOfFile`. Hints only: not checked yet. */
  readonly rest: readonly number[];
  /** Milliseconds since 1970. */
  readonly sinceMs: number;
}

export const pieceNumbers = 5;

/** The first read of a chunk that a worker was asked about. */
export interface ReadOn {
  /** Of the image. */
  readonly index: number;
  readonly blob: number;
  readonly chunk: number;
}

export type Report =
  | { readonly kind: "ready" }
  | { readonly kind: "done"; readonly number: number; readonly error: string | undefined }
  | { readonly kind: "init"; readonly minor: number; readonly flags: bigint }
  | { readonly kind: "miss"; readonly miss: Miss }
  | { readonly kind: "readOn"; readonly readOn: ReadOn }
  | { readonly kind: "interrupt"; readonly uniqueLo: number; readonly uniqueHi: number }
  | { readonly kind: "fault"; readonly text: string }
  | { readonly kind: "trace"; readonly line: string }
  | { readonly kind: "ended"; readonly how: "unmounted" | "stopped" };

/** `workerData` of a FUSE worker thread. */
export interface FuseWorkerData {
  readonly kind: "nydusd-fuse";
  readonly index: number;
  readonly device: number;
  readonly wake: number;
  readonly table: SharedArrayBuffer;
  readonly port: MessagePort;
  /** The processor the thread stays on; undefined: any. */
  readonly processor: number | undefined;
  /** Serves only while others are held up. */
  readonly standIn: boolean;
  readonly trace: boolean;
}

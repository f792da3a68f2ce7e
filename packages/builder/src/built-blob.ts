/** What every way to make the data blob of an image has in common, and the one that makes none. */
import type { BlobEntry } from "@nydus-ts/rafs-format/writer";
import { BuilderError } from "./errors.ts";
import type { ChunkSink } from "./sources/chunk-sink.ts";

/** What a finished blob is called, and where it is. */
export interface FinishedBlob {
  id: string;
  path: string;
  size: number;
}

/** The blob of a build, as it gets described. */
export interface BuiltBlob {
  /** the row of the blob table; undefined until a chunk was stored */
  readonly blob: BlobEntry | undefined;
  /** data that came in and was found to be there already */
  readonly deduplicatedBytes: number;
  readonly deduplicatedChunks: number;
  /** bytes of data that came in */
  readonly uncompressedBytes: number;
  /** plain chunk info array and header, in the form of the cache file `<id>.blob.meta`; set by `finishData` */
  readonly metaFile: Buffer | undefined;
  /** Writes what describes the data, after all of it came. Afterwards only a bootstrap can follow. */
  finishData(): Promise<void>;
  /** Puts the bootstrap of this image at the end of the blob. */
  appendBootstrap(bootstrap: Buffer): Promise<void>;
  /** Ends the blob: its id and size are in its row afterwards. */
  seal(): Promise<void>;
  /** Begins what takes longest of `commit`, which tells what failed. */
  beginSync(): void;
  /** Makes the sealed blob appear under its name. Undefined if there was nothing to store. */
  commit(): Promise<FinishedBlob | undefined>;
}

/** Takes the data of a build and describes it as one blob. */
export interface DataWriter extends ChunkSink, BuiltBlob {}

/** A blob that is there already, so that nothing is written for it. */
export class GivenBlob implements BuiltBlob {
  readonly blob: BlobEntry | undefined;
  readonly deduplicatedBytes = 0;
  readonly deduplicatedChunks = 0;
  readonly uncompressedBytes = 0;
  readonly metaFile = undefined;

  constructor(blob: BlobEntry | undefined) {
    this.blob = blob;
  }

  async finishData(): Promise<void> {}

  async appendBootstrap(): Promise<void> {
    throw new BuilderError("BUILD_UNSUPPORTED", "a layer that stays as it is can not take the bootstrap in: give it a file of its own");
  }

  async seal(): Promise<void> {}

  beginSync(): void {}

  async commit(): Promise<FinishedBlob | undefined> {
    return undefined;
  }
}

import { RafsError } from "@nydus-ts/rafs-format";
import type { ImageCursor } from "./image-cursor.ts";
import type { BlobView } from "./messages.ts";

/** Chunks of a file beyond which it is not looked at: 64 MiB of usual chunks. */
const fileChunksMax = 64;
/** How many of a file's chunks must have been wanted before the rest is: this many, and one in so many. */
const wantedMin = 2;
const wantedOneIn = 4;

/**
 * What a reader will probably want of a file beside the chunk it waits for: all of it, once two of its chunks and a quarter of them were
 * read before, whatever their order. Programs and libraries are read so, by page faults all over: the seven chunks of python3.11 cost seven
 * waits one after the other, and now four. A large file that is read here and there stays as it is.
 *
 * @param cursor  at the file's inode
 * @returns blob and chunk, in turn, in the order of the file; nothing where a chunk of the file is recorded wrongly: its others are served
 */
export function restOfFile(cursor: ImageCursor, blobs: readonly BlobView[]): number[] {
  try {
    return untouched(cursor, blobs);
  } catch (error) {
    if (error instanceof RafsError) return [];
    throw error;
  }
}

function untouched(cursor: ImageCursor, blobs: readonly BlobView[]): number[] {
  const chunks = Math.ceil(cursor.size / cursor.chunkSize);
  if (chunks <= wantedMin || chunks > fileChunksMax) return [];
  const rest: number[] = [];
  let wanted = 0;
  for (let at = 0; at < chunks; at++) {
    cursor.chunk(at);
    const blob = blobs[cursor.chunkBlob];
    const chunk = cursor.chunkIndex;
    if (blob === undefined || blob.direct || chunk >= blob.chunkCount) return [];
    if (isSet(blob.touched, chunk)) wanted++;
    else if (!isSet(blob.ready, chunk)) rest.push(cursor.chunkBlob, chunk);
  }
  return wanted >= wantedMin && wanted * wantedOneIn >= chunks ? rest : [];
}

const isSet = (bits: Int32Array, chunk: number): boolean => ((bits[chunk >> 5] as number) & (1 << (chunk & 31))) !== 0;

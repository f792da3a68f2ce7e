/** What passes between a build and the thread that reads its layer. Plain values only. */
import type { MemberHeader } from "../sources/tar.ts";
import type { ZranChunk, ZranContext } from "./contexts.ts";

/** A chunk as it was found. */
export interface FoundChunk {
  digest: Uint8Array;
  crc32: number;
  size: number;
  place: ZranChunk;
}

/** A member of the tar, with chunks of its data. */
export interface FoundMember {
  /** undefined: more chunks of the one before */
  member: MemberHeader | undefined;
  chunks: FoundChunk[];
}

export type ToThread =
  | { kind: "layer"; chunkSize: number }
  /** the next bytes of the layer, at the start of a buffer that comes back */
  | { kind: "piece"; buffer: SharedArrayBuffer; bytes: number }
  | { kind: "end" };

export type FromThread =
  | { kind: "members"; members: FoundMember[]; dictionaries: Uint8Array[] }
  /** the thread is done with a piece, and all members in it were told */
  | { kind: "used"; buffer: SharedArrayBuffer }
  | { kind: "end"; contexts: ZranContext[]; sourceBytes: number; sourceDigest: Uint8Array }
  /** `code`: of a BuilderError */
  | { kind: "failure"; code: string | undefined; message: string };

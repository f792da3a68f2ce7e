import { readFileSync } from "node:fs";
import { type ChunkSegment, ChunkStoreError } from "@nydus-ts/chunk-store";
import { EINTR, EIO, FuseReply } from "@nydus-ts/fuse";
import { rawPread } from "@nydus-ts/linux";
import { describeError } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import type { InflightRequest, RafsMount } from "../engine.ts";
import { Counters } from "./counters.ts";
import { type Miss, pieceNumbers, type ReadOn } from "./messages.ts";
import { SequenceTracker } from "./sequence.ts";
import { judgeChunk } from "./served-image.ts";

/** How often a reader that wants to give up is looked at again, in milliseconds. */
const killCheckMs = 200;
/** Interrupts kept for requests whose miss has not arrived yet. */
const earlyInterruptsMax = 64;
const readOpcode = 15;

/** An attached image as the main thread answers for it. */
export interface MissImage {
  readonly mount: RafsMount;
  readonly counters: Counters;
  readonly sequences: readonly SequenceTracker[];
  /** Fires at detach and stop. */
  readonly closing: AbortController;
}

interface Pending {
  readonly miss: Miss;
  interrupted: boolean;
}

/**
 * Answers reads whose data must be fetched first: all of the event loop, no worker waits. Each pending read is one small object; data
 * pass through one buffer, since copying and writing the reply happen in one go.
 */
export class MissServer {
  readonly #images = new Map<number, MissImage>();
  readonly #pending = new Map<string, Pending>();
  readonly #earlyInterrupts = new Set<string>();
  readonly #reply = new FuseReply();
  readonly #log: Log;
  #killCheck: NodeJS.Timeout | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  attach(index: number, mount: RafsMount, counters: SharedArrayBuffer, section: number): void {
    this.#images.set(index, {
      mount,
      counters: new Counters(counters, section),
      sequences: mount.blobs.map(() => new SequenceTracker()),
      closing: new AbortController(),
    });
  }

  /** Reads that wait for this image fail. */
  detach(index: number): void {
    const image = this.#images.get(index);
    this.#images.delete(index);
    for (const [key, { miss }] of [...this.#pending]) if (miss.index === index) this.#finish(key, EIO);
    image?.closing.abort();
  }

  /** Forgets all: nothing is answered any more, the successor (or the end of the session) settles what waits. */
  close(): void {
    clearInterval(this.#killCheck);
    this.#killCheck = undefined;
    this.#pending.clear();
    for (const { closing } of this.#images.values()) closing.abort();
    this.#images.clear();
  }

  inflight(): InflightRequest[] {
    return [...this.#pending.values()].map(({ miss }) => ({
      inode: miss.nodeHi * 4294967296 + miss.nodeLo,
      opcode: readOpcode,
      unique: miss.uniqueHi * 4294967296 + miss.uniqueLo,
      timestampSecs: Math.floor(miss.sinceMs / 1000),
    }));
  }

  /** Serves one miss. Never rejects: what goes wrong is EIO for the reader, a counter and a line in the log. */
  async serve(miss: Miss): Promise<void> {
    const key = keyOf(miss.uniqueHi, miss.uniqueLo);
    this.#pending.set(key, { miss, interrupted: this.#earlyInterrupts.delete(key) });
    const image = this.#images.get(miss.index);
    if (image === undefined) return this.#finish(key, EIO);
    try {
      const uncached = await this.#fetch(image, miss);
      if (!this.#pending.has(key)) return;
      if (uncached === undefined) this.#copy(image, miss);
      else this.#reply.copy(uncached);
      this.#finish(key, 0);
      image.counters.countRead(miss.length, (Date.now() - miss.sinceMs) * 1000);
    } catch (error) {
      if (!this.#pending.has(key)) return;
      this.#finish(key, EIO);
      image.counters.countFailedRead();
      this.#log.error(`${this.#describe(image, miss)}: ${describeError(error)}`);
    }
  }

  /** A reader in order has come to a chunk that was fetched ahead of it. */
  readOn({ index, blob, chunk }: ReadOn): void {
    const image = this.#images.get(index);
    const cache = image?.mount.blobs[blob];
    const start = (cache?.layout[2 * chunk] as number) * 4096;
    const end = start + (cache?.layout[2 * chunk + 1] as number);
    const sequentialBytes = image?.sequences[blob]?.noteReadOn(start, end) ?? 0;
    cache?.readOn(chunk, sequentialBytes);
  }

  /** Answers from a chunk that came and is not in the cache yet, if it is all that is wanted: the reader need not wait for the disk. */
  #answerEarly(image: MissImage, miss: Miss, verified: number, data: Uint8Array): void {
    const key = keyOf(miss.uniqueHi, miss.uniqueLo);
    const [index, chunk, start, within, bytes] = miss.pieces as [number, number, number, number, number];
    // Chunks of a batch come together; a read of one piece is of one blob.
    if (miss.pieces.length !== pieceNumbers || chunk !== verified || !this.#pending.has(key)) return;
    const blob = image.mount.blobs[index];
    // The same check of place and length as for data in the cache; what fails it is told by the usual way.
    if (blob === undefined || judgeChunk(blob, chunk, start, within + bytes) === "damaged") return;
    this.#reply.copy(data.subarray(within, within + bytes));
    this.#finish(key, 0);
    image.counters.countRead(miss.length, (Date.now() - miss.sinceMs) * 1000);
  }

  /** Brings the data into the cache. @returns the data itself where the cache disk would not take it */
  async #fetch(image: MissImage, miss: Miss): Promise<Uint8Array | undefined> {
    const { blobs, readDeadlineMs } = image.mount;
    const options = { deadlineMs: readDeadlineMs, signal: image.closing.signal, priority: "demand" } as const;
    const groups = groupByBlob(miss);
    for (const [index, blob] of blobs.entries()) {
      const rest = miss.rest.filter((_, at) => at % 2 === 1 && miss.rest[at - 1] === index);
      if (rest.length > 0) blob.fetchAhead(rest);
    }
    try {
      await Promise.all(
        groups.map(async ({ blob, chunks, start, end }) => {
          const sequentialBytes = image.sequences[blob]?.note(start, end) ?? 0;
          await blobs[blob]?.ensure(chunks, {
            ...options,
            sequentialBytes,
            onVerified: (chunk, data) => this.#answerEarly(image, miss, chunk, data),
          });
        }),
      );
      return undefined;
    } catch (error) {
      // A full cache disk is not the reader's: what came is handed out from memory.
      if (!(error instanceof ChunkStoreError) || error.code !== "CHUNK_NO_SPACE") throw error;
      const data = new Uint8Array(miss.length);
      await Promise.all(groups.map(async ({ blob, segments }) => this.#readAround(image, blob, segments, data, options)));
      return data;
    }
  }

  /** Reads pieces past the cache, after the same check of place and length as a read through it. */
  async #readAround(
    image: MissImage,
    index: number,
    segments: readonly PlacedSegment[],
    data: Uint8Array,
    options: { readonly deadlineMs: number; readonly signal: AbortSignal; readonly priority: "demand" },
  ): Promise<void> {
    const blob = image.mount.blobs[index];
    if (blob === undefined) throw new TypeError(`no blob ${index}`);
    for (const { chunk, start, offset, length } of segments) {
      if (judgeChunk(blob, chunk, start, offset + length) !== "damaged") continue;
      throw new TypeError(`chunk ${chunk} at ${start} of blob ${index} is damaged`);
    }
    await blob.readInto(data, segments, options);
  }

  /** Puts the bytes into the reply, after the same checks as a worker makes. */
  #copy(image: MissImage, miss: Miss): void {
    let to = this.#reply.address + this.#reply.payloadStart;
    for (let at = 0; at < miss.pieces.length; at += pieceNumbers) {
      const [index, chunk, start, within, bytes] = miss.pieces.slice(at, at + pieceNumbers) as [number, number, number, number, number];
      const blob = image.mount.blobs[index];
      if (blob === undefined) throw new TypeError(`no blob ${index}`);
      const verdict = judgeChunk(blob, chunk, start, within + bytes);
      if (verdict !== "ready") throw new TypeError(`chunk ${chunk} at ${start} of blob ${index} is ${verdict} after it was fetched`);
      if (rawPread(blob.dataFd, to, bytes, start + within) !== bytes) throw new TypeError(`the cache file of blob ${index} is too short`);
      to += bytes;
    }
    this.#reply.length = miss.length;
  }

  #finish(key: string, errno: number): void {
    const pending = this.#pending.get(key);
    if (pending === undefined) return;
    this.#pending.delete(key);
    const { device, uniqueLo, uniqueHi } = pending.miss;
    this.#reply.send(device, uniqueLo, uniqueHi, errno); // ENOENT (the reader is gone) and ENODEV (the session is) need no answer
  }

  #describe(image: MissImage, miss: Miss): string {
    const nid = (miss.nodeHi & 0xff_ffff) * 4294967296 + miss.nodeLo;
    const [blob, chunk, start] = miss.pieces as [number, number, number];
    const id = (image.mount.blobs[blob] as { blob?: { id?: string } } | undefined)?.blob?.id ?? `#${blob}`;
    return `${image.mount.mountpoint}: a read failed with EIO: inode ${nid} [${miss.fileOffset}..${miss.fileOffset + miss.length}), blob ${id}, chunk ${chunk} at ${start}`;
  }

  /**
   * A signal reached a reader. Only one that is being killed gets EINTR: any other (SIGCHLD, Go's SIGURG) must not make a read of a
   * regular file or a page fault fail. The kernel tells once, so the reader is watched until its data come.
   */
  interrupt(uniqueLo: number, uniqueHi: number): void {
    const key = keyOf(uniqueHi, uniqueLo);
    const pending = this.#pending.get(key);
    if (pending === undefined) {
      // The order may overtake its miss, which comes from another worker.
      if (this.#earlyInterrupts.size >= earlyInterruptsMax) this.#earlyInterrupts.clear();
      this.#earlyInterrupts.add(key);
    } else pending.interrupted = true;
    this.#releaseKilled();
    this.#killCheck ??= setInterval(() => this.#releaseKilled(), killCheckMs).unref();
  }

  #releaseKilled(): void {
    let watched = this.#earlyInterrupts.size;
    for (const [key, { miss, interrupted }] of [...this.#pending]) {
      if (!interrupted) continue;
      if (isBeingKilled(miss.pid)) this.#finish(key, EINTR);
      else watched++;
    }
    if (watched > 0) return;
    clearInterval(this.#killCheck);
    this.#killCheck = undefined;
  }
}

const keyOf = (high: number, low: number): string => `${high}:${low}`;

/** Whether SIGKILL is pending for a thread (any fatal signal of a process becomes that). Gone counts as killed. */
function isBeingKilled(pid: number): boolean {
  if (pid === 0) return false; // a read by the kernel itself
  try {
    const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
    return pending !== undefined && (BigInt(`0x${pending}`) & (1n << 8n)) !== 0n;
  } catch {
    return true;
  }
}

interface PlacedSegment extends ChunkSegment {
  /** Where the bootstrap says that the chunk lies, in bytes of the uncompressed blob. */
  readonly start: number;
}

interface BlobGroup {
  readonly blob: number;
  readonly chunks: number[];
  readonly segments: PlacedSegment[];
  /** Bytes of the uncompressed blob that are wanted, from the first to the end of the last. */
  readonly start: number;
  end: number;
}

/** What a read wants of each blob. */
function groupByBlob(miss: Miss): BlobGroup[] {
  const groups = new Map<number, BlobGroup>();
  let targetOffset = 0;
  for (let at = 0; at < miss.pieces.length; at += pieceNumbers) {
    const [blob, chunk, start, offset, length] = miss.pieces.slice(at, at + pieceNumbers) as [number, number, number, number, number];
    const group = groups.get(blob) ?? { blob, chunks: [], segments: [], start: start + offset, end: 0 };
    if (group.chunks.at(-1) !== chunk) group.chunks.push(chunk);
    group.segments.push({ chunk, start, offset, length, targetOffset });
    group.end = start + offset + length;
    groups.set(blob, group);
    targetOffset += length;
  }
  return [...groups.values()];
}

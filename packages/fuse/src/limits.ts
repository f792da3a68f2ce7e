import assert from "node:assert/strict";
import { IN_HEADER } from "./structs.ts";

/** Bytes of one READ and of one reply's payload: 256 pages. The kernel splits larger reads. */
export const readBytesMax = 1 << 20;
/** Pages of 4 KiB in one request, as INIT offers them. */
export const pagesMax = readBytesMax / 4096;
/** Bytes of one WRITE, the least the kernel accepts: nothing here is written to, so the request buffer stays small. */
export const writeBytesMax = 4096;
/** Bytes of a request buffer. The kernel wants 8 KiB and `writeBytesMax` + headers; names and xattrs come to at most 64 KiB + 4 KiB. */
export const requestBytesMax = 72 * 1024;
/** Bytes of a reply buffer: header, payload, room for what comes before a payload. */
export const replyBytesMax = readBytesMax + 4096;
/** Asynchronous requests (read-ahead) the kernel sends before it holds the next ones back itself; each costs one small object while it waits for data. */
export const backgroundMax = 1024;
export const congestionThreshold = 768;
/**
 * Room of a worker's pipe for data that are not copied, in bytes of full pages: the most that the kernel gives anybody. Read-ahead asks for
 * 256 KiB at most; a larger reply, or one in very many pieces, goes through the buffer.
 */
export const pipeBytes = 1 << 20;
/** Seconds the kernel may keep entries and attributes of what never changes: the largest that fits 32 bits. */
export const foreverSeconds = 0xffff_ffff;
/** Oldest protocol accepted: 7.31 (Linux 5.4). Before, INIT and read-only caching work otherwise. */
export const protocolMinorMin = 31;
/** Newest protocol whose structures stand in structs.ts. */
export const protocolMinorMax = 41;

assert(requestBytesMax >= Math.max(8192, writeBytesMax + IN_HEADER.size + 40), "the kernel refuses to write into a smaller buffer");

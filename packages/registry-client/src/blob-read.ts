import { RegistryError } from "./errors.ts";
import type { Answer } from "./http/transport.ts";
import type { Exchange } from "./exchange.ts";
import type { Deadline } from "./http/deadline.ts";
import { READ_BYTES_MAX, SKIP_BYTES_MAX } from "./limits.ts";
import type { Requester } from "./requester.ts";

export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** Where the bytes of a range go. */
export interface Landing {
  /** Exactly `range.length` bytes, used by the first answer; others use memory of their own. When the call rejects, somebody may still write into it. */
  readonly into?: Uint8Array;
  /** Called with the first bytes of the range, again as more of them come; they do not change any more. Must not throw. */
  readonly onPart?: (bytes: Uint8Array) => void;
}

export function rangeHeader(range: Range): string {
  return `bytes=${range.offset}-${range.offset + range.length - 1}`;
}

/**
 * Reads exactly `range` of what the exchange's path names. The bytes are not verified: a part has no digest here.
 *
 * @param range  at most READ_BYTES_MAX
 * @throws RegistryError REGISTRY_RANGE (past the end, or a server that does not do ranges), REGISTRY_DEADLINE …
 */
export async function readRange(
  requester: Requester,
  exchange: Omit<Exchange, "method">,
  range: Range,
  deadline: Deadline,
  landing: Landing,
): Promise<Uint8Array> {
  const { what } = exchange;
  const isSize = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
  if (!isSize(range.offset) || !isSize(range.length) || range.length > READ_BYTES_MAX)
    throw new RegistryError("REGISTRY_RANGE", `${what}: the range must be at most ${READ_BYTES_MAX} bytes`);
  if (range.length === 0) return new Uint8Array(0);
  // Answers may run side by side, and what an answer that failed has shown of its bytes stays as it is.
  let { into } = landing;
  const next = (): Landing => {
    const { onPart } = landing;
    const taken = { ...(into === undefined ? {} : { into }), ...(onPart === undefined ? {} : { onPart }) };
    into = undefined;
    return taken;
  };
  const headers = {
    ...exchange.headers,
    range: rangeHeader(range),
    accept: "application/octet-stream, */*",
    "accept-encoding": "identity",
  };
  return await requester.perform({ ...exchange, method: "GET", headers }, deadline, (answer) => collectRange(answer, range, what, next()));
}

/**
 * Takes exactly `range` from the answer to a ranged GET. A server that ignores `Range` (200) is read up to the end of the range and the
 * bytes before it are thrown away, at most SKIP_BYTES_MAX.
 *
 * @throws RegistryError REGISTRY_RANGE (another range than asked for), REGISTRY_PROTOCOL (short, encoded)
 */
export async function collectRange(answer: Answer, range: Range, what: string, landing: Landing = {}): Promise<Uint8Array> {
  let skip = checkRange(answer, range, what);
  const out = landing.into ?? Buffer.allocUnsafeSlow(range.length);
  let filled = 0;
  await answer.each((piece) => {
    let bytes = piece;
    if (skip > 0) {
      const drop = Math.min(skip, bytes.length);
      skip -= drop;
      bytes = bytes.subarray(drop);
    }
    if (filled + bytes.length > range.length) bytes = bytes.subarray(0, range.length - filled);
    if (bytes.length > 0) {
      out.set(bytes, filled);
      filled += bytes.length;
      landing.onPart?.(out.subarray(0, filled));
    }
    return filled < range.length || answer.status !== 200;
  });
  if (filled < range.length) {
    throw new RegistryError("REGISTRY_PROTOCOL", `${what}: ${filled} of ${range.length} bytes came from ${answer.url.host}`, {
      request: answer.request,
      retryable: true,
    });
  }
  return out;
}

/** Bytes to skip before the range; throws if the answer is another range. */
export function checkRange(answer: Answer, range: Range, what: string): number {
  const encoding = answer.header("content-encoding");
  if (encoding !== undefined && encoding !== "identity") {
    throw new RegistryError("REGISTRY_PROTOCOL", `${what}: ${answer.url.host} sends the content encoded as ${encoding.slice(0, 40)}`, {
      request: answer.request,
      retryable: true,
    });
  }
  if (answer.status === 206) {
    const found = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(answer.header("content-range")?.trim() ?? "");
    if (found === null || Number(found[1]) !== range.offset || Number(found[2]) !== range.offset + range.length - 1) {
      // A shorter range is the end of the content: another code, no use in trying again.
      const end = found !== null && Number(found[1]) === range.offset && Number(found[2]) < range.offset + range.length - 1;
      const header = answer.header("content-range")?.slice(0, 80) ?? "no Content-Range";
      throw new RegistryError("REGISTRY_RANGE", `${what}: asked ${answer.url.host} for ${rangeHeader(range)}, got ${header}`, {
        request: answer.request,
        retryable: !end,
        ...(end ? { hint: "the range passes the end of the blob" } : {}),
      });
    }
    return 0;
  }
  if (answer.status !== 200) {
    throw new RegistryError("REGISTRY_PROTOCOL", `${what}: ${answer.url.host} answered ${answer.status} to a ranged read`, {
      request: answer.request,
      retryable: true,
    });
  }
  const length = answer.header("content-length");
  if (length !== undefined && Number(length) < range.offset + range.length) {
    throw new RegistryError("REGISTRY_RANGE", `${what}: the blob has ${Number(length)} bytes, ${rangeHeader(range)} passes its end`, {
      request: answer.request,
    });
  }
  if (range.offset > SKIP_BYTES_MAX) {
    throw new RegistryError(
      "REGISTRY_RANGE",
      `${what}: ${answer.url.host} ignores Range, and ${range.offset} bytes would have to be thrown away`,
      {
        request: answer.request,
        hint: "the registry or a proxy before it must support range requests",
      },
    );
  }
  return range.offset;
}

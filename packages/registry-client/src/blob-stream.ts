import { checkRange } from "./blob-read.ts";
import { digestError, hasherOf } from "./digest.ts";
import { RegistryError } from "./errors.ts";
import { Deadline } from "./http/deadline.ts";
import type { Priority } from "./http/gate.ts";
import type { Answer } from "./http/transport.ts";
import { RESUMES_WITHOUT_PROGRESS_MAX, SKIP_BYTES_MAX } from "./limits.ts";
import type { Requester } from "./requester.ts";

export interface BlobStreamOptions {
  /** First byte wanted. Only a stream from 0 can be verified. */
  readonly offset?: number;
  /** Known size of the blob; a longer or shorter one is an error. */
  readonly size?: number;
  /** For each opening, not for the whole blob: big blobs take as long as they take, silence does not. */
  readonly openDeadlineMs: number;
  readonly signal?: AbortSignal;
  readonly priority?: Priority;
  readonly headers?: Readonly<Record<string, string>>;
}

/** @see RegistryClient.blobStream */
export async function* streamBlob(
  requester: Requester,
  name: string,
  repository: string,
  digest: string,
  options: BlobStreamOptions,
): AsyncGenerator<Uint8Array> {
  const start = options.offset ?? 0;
  const what = `reading blob ${name}`;
  const hash = start === 0 ? hasherOf(digest) : undefined;
  let at = start;
  let failures = 0;
  for (;;) {
    if (options.size !== undefined && at === options.size && at > 0) break;
    const before = at;
    try {
      const opened = await open(requester, what, repository, digest, at, options);
      try {
        let { skip } = opened;
        for await (const piece of opened.answer.body) {
          const bytes = skip >= piece.length ? undefined : piece.subarray(skip);
          skip -= Math.min(skip, piece.length);
          if (bytes === undefined) continue;
          if (options.size !== undefined && at + bytes.length > options.size) {
            throw new RegistryError(
              "REGISTRY_DIGEST",
              `${what}: the registry sends more than the ${options.size} bytes its descriptor names`,
            );
          }
          at += bytes.length;
          hash?.update(bytes);
          yield bytes;
        }
        const total = opened.total ?? options.size;
        if (total !== undefined && at < total)
          throw new RegistryError("REGISTRY_PROTOCOL", `${what}: the answer ended after ${at} of ${total} bytes`, { retryable: true });
        break;
      } finally {
        opened.end();
        await opened.answer.discard();
      }
    } catch (error) {
      if (options.signal?.aborted) throw new RegistryError("REGISTRY_ABORTED", `${what} was aborted`, { cause: options.signal.reason });
      failures = at > before ? 1 : failures + 1;
      if (!(error instanceof RegistryError) || !error.retryable || failures > RESUMES_WITHOUT_PROGRESS_MAX) throw error;
      using pause = new Deadline(options.openDeadlineMs, options.signal);
      await pause.sleep(Math.min(error.retryAfterMs ?? 100 * 2 ** (failures - 1), options.openDeadlineMs / 2), what, { cause: error });
    }
  }
  if (options.size !== undefined && at !== options.size)
    throw new RegistryError("REGISTRY_DIGEST", `${what}: ${at} bytes instead of ${options.size}`);
  if (hash !== undefined) {
    const found = `${digest.slice(0, digest.indexOf(":"))}:${hash.digest("hex")}`;
    if (found !== digest) throw digestError(what, digest, found);
  }
}

interface Opened {
  readonly answer: Answer;
  skip: number;
  readonly total: number | undefined;
  /** Cuts the connection if it still runs. */
  end(): void;
}

/** Opens the blob at `at` on whichever host answers; the deadline ends with the header. */
async function open(
  requester: Requester,
  what: string,
  repository: string,
  digest: string,
  at: number,
  options: BlobStreamOptions,
): Promise<Opened> {
  const cut = new AbortController();
  const onAbort = (): void => cut.abort(options.signal?.reason);
  if (options.signal?.aborted) onAbort();
  options.signal?.addEventListener("abort", onAbort, { once: true });
  const deadline = new Deadline(options.openDeadlineMs, cut.signal);
  const end = (): void => {
    options.signal?.removeEventListener("abort", onAbort);
    cut.abort();
    deadline[Symbol.dispose]();
  };
  try {
    return await requester.perform(
      {
        what,
        method: "GET",
        path: `/${repository}/blobs/${digest}`,
        headers: {
          ...options.headers,
          accept: "application/octet-stream, */*",
          "accept-encoding": "identity",
          ...(at > 0 ? { range: `bytes=${at}-` } : {}),
        },
        scopes: [`repository:${repository}:pull`],
        capability: "pull",
        priority: options.priority ?? "demand",
        redirectKey: `${repository} ${digest}`,
        keepOpen: true,
      },
      deadline,
      async (answer) => {
        const position = await positionOf(answer, at, what);
        deadline.stop();
        return { answer, ...position, end };
      },
    );
  } catch (error) {
    end();
    throw error;
  }
}

async function positionOf(answer: Answer, at: number, what: string): Promise<{ skip: number; total: number | undefined }> {
  const length = Number(answer.header("content-length") ?? Number.NaN);
  if (answer.status === 206) {
    const found = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(answer.header("content-range")?.trim() ?? "");
    if (found === null || Number(found[1]) !== at) {
      throw new RegistryError(
        "REGISTRY_RANGE",
        `${what}: asked for bytes from ${at}, got ${answer.header("content-range")?.slice(0, 80) ?? "no Content-Range"}`,
        { request: answer.request, retryable: true },
      );
    }
    return { skip: 0, total: Number(found[2]) + 1 };
  }
  if (at > SKIP_BYTES_MAX) checkRange(answer, { offset: at, length: 1 }, what);
  return { skip: at, total: Number.isSafeInteger(length) ? length : undefined };
}

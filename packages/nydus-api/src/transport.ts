import { request as httpRequest, type IncomingMessage } from "node:http";
import { NydusApiError } from "./errors.ts";
import { answerBytesMax } from "./limits.ts";

export interface CallOptions {
  /** For the whole call, connecting included. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface Exchange {
  readonly method: "GET" | "PUT" | "POST" | "DELETE";
  /** Path and query. */
  readonly target: string;
  readonly body?: string | undefined;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

/**
 * One HTTP exchange over a Unix socket, on a connection of its own: a daemon may die and be replaced behind the same path between two calls.
 *
 * @throws NydusApiError API_UNREACHABLE, API_TIMEOUT, API_PROTOCOL (answer larger than `answerBytesMax`), API_ABORTED
 */
export function exchange(socketPath: string, call: Exchange): Promise<Answer> {
  const where = `${call.method} ${call.target.split("?")[0]} at ${socketPath}`;
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  if (call.signal?.aborted) {
    reject(new NydusApiError("API_ABORTED", `${where}: given up by the caller before it was sent`));
    return promise;
  }
  const headers: Record<string, string> = { Host: "localhost", "User-Agent": "nydus-ts", Connection: "close" };
  if (call.body !== undefined) {
    headers["Content-Type"] = "application/json";
    headers["Content-Length"] = String(Buffer.byteLength(call.body));
  }
  const request = httpRequest({ socketPath, method: call.method, path: call.target, headers, agent: false });
  const fail = (error: NydusApiError): void => {
    reject(error);
    request.destroy();
  };
  const timer = setTimeout(() => {
    const hint = "the daemon is busy or hangs; look into its log, or allow more time";
    fail(new NydusApiError("API_TIMEOUT", `${where}: no answer within ${call.timeoutMs} ms; ${hint}`));
  }, call.timeoutMs);
  const onAbort = (): void => fail(new NydusApiError("API_ABORTED", `${where}: given up by the caller`));
  call.signal?.addEventListener("abort", onAbort, { once: true });
  request.on("error", (cause) => reject(unreachable(where, socketPath, cause)));
  request.on("response", (response) => {
    readAnswer(response, where).then(resolve, fail);
  });
  request.end(call.body);
  return promise.finally(() => {
    clearTimeout(timer);
    call.signal?.removeEventListener("abort", onAbort);
  });
}

async function readAnswer(response: IncomingMessage, where: string): Promise<Answer> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const part of response as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > answerBytesMax) throw new NydusApiError("API_PROTOCOL", `${where}: the answer is larger than ${answerBytesMax} bytes`);
      parts.push(part);
    }
  } catch (cause) {
    if (cause instanceof NydusApiError) throw cause;
    throw new NydusApiError("API_UNREACHABLE", `${where}: the connection was cut in the middle of the answer`, { cause });
  }
  return {
    status: response.statusCode ?? 0,
    contentType: response.headers["content-type"] ?? "",
    text: Buffer.concat(parts).toString("utf8"),
  };
}

function unreachable(where: string, socketPath: string, cause: Error): NydusApiError {
  const errno = (cause as NodeJS.ErrnoException).code ?? "";
  const reasons: Record<string, string> = {
    ENOENT: `there is no socket ${socketPath}; is nydusd running, and was it started with --apisock ${socketPath}?`,
    ECONNREFUSED: "nobody listens on the socket any more; the daemon that made it is gone",
    EACCES: "permission denied; run as root, or as the user of the daemon",
    ECONNRESET: "the daemon closed the connection without an answer; it may have just stopped",
  };
  return new NydusApiError("API_UNREACHABLE", `${where}: ${reasons[errno] ?? cause.message}`, { cause });
}

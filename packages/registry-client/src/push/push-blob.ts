import { createHash } from "node:crypto";
import { digestError } from "../digest.ts";
import type { Endpoint } from "../endpoint.ts";
import { RegistryError } from "../errors.ts";
import type { Exchange } from "../exchange.ts";
import { Deadline } from "../http/deadline.ts";
import type { Answer } from "../http/transport.ts";
import { UPLOAD_PIECE_BYTES } from "../limits.ts";
import { checkDigest } from "../reference.ts";
import type { Requester } from "../requester.ts";

/**
 * Bytes to upload. `open` gives them from the start each time it is called; `once` gives them one time only, so a cut connection is
 * survived by pieces that are kept until the registry confirmed them.
 */
export type PushSource = { readonly open: () => AsyncIterable<Uint8Array> } | { readonly once: AsyncIterable<Uint8Array> };

export interface PushBlobOptions {
  /** If known, the registry is asked first whether it has the blob. */
  readonly digest?: string;
  readonly size?: number;
  /** For each exchange and for silence during the upload, not for the whole blob. */
  readonly stepDeadlineMs: number;
  readonly signal?: AbortSignal;
  /** Whole uploads after the first, for `open` sources. */
  readonly retryLimit?: number;
  /** A source that can be opened again and is larger than this is sent in pieces of so many bytes, each kept in memory until the registry has it; absent: whole. */
  readonly pieceBytes?: number;
  /** Called with the bytes handed over so far. */
  readonly onProgress?: (bytes: number) => void;
}

export interface PushedBlob {
  readonly digest: string;
  readonly size: number;
  /** False: it was there already. */
  readonly uploaded: boolean;
}

interface Upload {
  readonly requester: Requester;
  readonly what: string;
  readonly path: string;
  readonly scopes: readonly string[];
  readonly options: PushBlobOptions;
}

/**
 * Uploads a blob. Known digest and size: one PUT. Otherwise the bytes are streamed and the digest is named at the end.
 *
 * @throws RegistryError REGISTRY_DIGEST when the bytes are not what `digest` or `size` said; the upload is then cancelled
 */
export async function pushBlob(
  requester: Requester,
  host: string,
  repository: string,
  source: PushSource,
  options: PushBlobOptions,
): Promise<PushedBlob> {
  const scopes = [`repository:${repository}:pull,push`];
  const what = `uploading a blob to ${host}/${repository}${options.digest === undefined ? "" : ` (${checkDigest(options.digest)})`}`;
  const upload: Upload = { requester, what, path: `/${repository}/blobs/uploads/`, scopes, options };
  if (options.digest !== undefined) {
    const size = await existing(upload, repository, options.digest);
    if (size !== undefined) return { digest: options.digest, size, uploaded: false };
  }
  if ("once" in source) return { ...(await pushPieces(upload, source.once, options.pieceBytes ?? UPLOAD_PIECE_BYTES)), uploaded: true };
  const { pieceBytes } = options;
  const isLarge = pieceBytes !== undefined && (options.size === undefined || options.size > pieceBytes);
  const send = () => (isLarge ? pushPieces(upload, source.open(), pieceBytes) : pushWhole(upload, source.open));
  const retryLimit = options.retryLimit ?? 3;
  for (let attempt = 1; ; attempt++) {
    try {
      return { ...(await send()), uploaded: true };
    } catch (error) {
      if (!(error instanceof RegistryError) || !error.retryable || attempt > retryLimit || options.signal?.aborted) throw error;
      using pause = new Deadline(options.stepDeadlineMs, options.signal);
      await pause.sleep(Math.min(error.retryAfterMs ?? 200 * 2 ** (attempt - 1), options.stepDeadlineMs / 2), what, { cause: error });
      if (options.digest !== undefined) {
        // The answer may have been lost although the blob arrived.
        const size = await existing(upload, repository, options.digest);
        if (size !== undefined) return { digest: options.digest, size, uploaded: false };
      }
    }
  }
}

/** @see RegistryClient.mountBlob */
export async function mountBlob(
  requester: Requester,
  host: string,
  repository: string,
  digest: string,
  from: string,
  options: { deadlineMs: number; signal?: AbortSignal },
): Promise<boolean> {
  const what = `mounting blob ${digest} of ${from} into ${host}/${repository}`;
  const scopes = [`repository:${repository}:pull,push`, `repository:${from}:pull`];
  using deadline = new Deadline(options.deadlineMs, options.signal);
  const left = await requester.perform(
    {
      what,
      method: "POST",
      path: `/${repository}/blobs/uploads/?mount=${encodeURIComponent(digest)}&from=${encodeURIComponent(from)}`,
      headers: { "content-length": "0" },
      scopes,
      capability: "push",
      priority: "demand",
      accept: [401, 403, 404, 405],
    },
    deadline,
    async (answer, endpoint) =>
      answer.status === 201 ? true : answer.status === 202 ? { location: locationOf(answer, what), endpoint } : false,
  );
  if (left === true || left === false) return left;
  // 202: the registry began an ordinary upload instead; it is not needed.
  using goodbye = new Deadline(options.deadlineMs);
  await left.endpoint
    .send({ method: "DELETE", path: left.location, scopes, priority: "demand" }, goodbye, goodbye.signal, 1)
    .then((answer) => answer.discard())
    .catch(() => undefined);
  return false;
}

async function existing(upload: Upload, repository: string, digest: string): Promise<number | undefined> {
  using deadline = new Deadline(upload.options.stepDeadlineMs, upload.options.signal);
  return await upload.requester.perform(
    { ...base(upload), method: "HEAD", path: `/${repository}/blobs/${digest}`, accept: [404] },
    deadline,
    async (answer) => (answer.status === 404 ? undefined : Number(answer.header("content-length") ?? 0)),
  );
}

/** One PUT where digest and size are known, else one streamed PATCH and an empty PUT that names the digest. */
async function pushWhole(upload: Upload, open: () => AsyncIterable<Uint8Array>): Promise<{ digest: string; size: number }> {
  const { options } = upload;
  const started = await start(upload);
  const counted = countBytes(upload, open);
  try {
    if (options.digest !== undefined && options.size !== undefined) {
      const url = new URL(started.location);
      url.searchParams.set("digest", options.digest);
      const headers = { "content-type": "application/octet-stream", "content-length": String(options.size) };
      await step(upload, started.endpoint, { method: "PUT", path: url, headers, body: counted.body }, [201, 204]);
      return { digest: options.digest, size: options.size };
    }
    const answer = await step(
      upload,
      started.endpoint,
      { method: "PATCH", path: started.location, headers: { "content-type": "application/octet-stream" }, body: counted.body },
      [202, 204],
    );
    const { digest, size } = counted.result();
    await finish(upload, started.endpoint, answer.location ?? started.location, digest);
    return { digest, size };
  } catch (error) {
    // The source's own failure is what matters, not the cut connection it caused.
    const cause = counted.failure();
    await cancel(upload, started);
    throw cause ?? error;
  }
}

/** Pieces of a source that cannot be had twice, or of which no more may be sent at a time; each is kept until the registry has it. */
async function pushPieces(
  upload: Upload,
  source: AsyncIterable<Uint8Array>,
  pieceBytes: number,
): Promise<{ digest: string; size: number }> {
  const { options } = upload;
  const started = await start(upload);
  const hash = createHash("sha256");
  let { location } = started;
  let sent = 0;
  try {
    for await (const piece of inPieces(source, pieceBytes)) {
      hash.update(piece);
      if (options.size !== undefined && sent + piece.length > options.size) throw sizeError(upload, sent + piece.length);
      location = await sendPiece(upload, started.endpoint, location, piece, sent);
      sent += piece.length;
      options.onProgress?.(sent);
    }
    const digest = `sha256:${hash.digest("hex")}`;
    if (options.digest !== undefined && options.digest !== digest) throw digestError(upload.what, options.digest, digest);
    if (options.size !== undefined && options.size !== sent) throw sizeError(upload, sent);
    await finish(upload, started.endpoint, location, digest);
    return { digest, size: sent };
  } catch (error) {
    await cancel(upload, { location, endpoint: started.endpoint });
    throw error;
  }
}

/** One piece; after a failure the registry is asked how far it got. */
async function sendPiece(upload: Upload, endpoint: Endpoint, start: URL, piece: Uint8Array, offset: number): Promise<URL> {
  let location = start;
  let done = 0;
  for (let attempt = 1; ; attempt++) {
    try {
      const rest = piece.subarray(done);
      const headers = {
        "content-type": "application/octet-stream",
        "content-range": `${offset + done}-${offset + piece.length - 1}`,
        "content-length": String(rest.length),
      };
      const answer = await step(upload, endpoint, { method: "PATCH", path: location, headers, body: () => rest }, [202, 204]);
      return answer.location ?? location;
    } catch (error) {
      const again = error instanceof RegistryError && (error.retryable || error.code === "REGISTRY_RANGE");
      if (!again || attempt > (upload.options.retryLimit ?? 3) || upload.options.signal?.aborted) throw error;
      using pause = new Deadline(upload.options.stepDeadlineMs, upload.options.signal);
      await pause.sleep(
        Math.min((error as RegistryError).retryAfterMs ?? 200 * 2 ** (attempt - 1), upload.options.stepDeadlineMs / 2),
        upload.what,
        { cause: error },
      );
      const status = await step(upload, endpoint, { method: "GET", path: location }, [204]).catch(() => undefined);
      if (status === undefined) continue;
      location = status.location ?? location;
      const end = /^(?:bytes=)?0-(\d+)$/.exec(status.range ?? "");
      // Registries say 0-0 for an upload that has nothing, as for one byte: resuming at 1 would leave a hole.
      const has = end === null || end[1] === "0" ? 0 : Number(end[1]) + 1;
      if (has < offset || has > offset + piece.length) throw error;
      done = has - offset;
      if (done === piece.length) return location;
    }
  }
}

async function start(upload: Upload): Promise<{ location: URL; endpoint: Endpoint }> {
  using deadline = new Deadline(upload.options.stepDeadlineMs, upload.options.signal);
  return await upload.requester.perform(
    { ...base(upload), method: "POST", path: upload.path, headers: { "content-length": "0" } },
    deadline,
    async (answer, endpoint) => ({
      location: locationOf(answer, upload.what),
      endpoint,
    }),
  );
}

async function finish(upload: Upload, endpoint: Endpoint, location: URL, digest: string): Promise<void> {
  const url = new URL(location);
  url.searchParams.set("digest", digest);
  await step(
    upload,
    endpoint,
    { method: "PUT", path: url, headers: { "content-length": "0", "content-type": "application/octet-stream" } },
    [201, 204],
  );
}

/** One exchange of an upload, on the host where it began. */
async function step(
  upload: Upload,
  endpoint: Endpoint,
  request: Pick<Exchange, "method" | "headers" | "body"> & { path: URL },
  expected: readonly number[],
): Promise<{ location: URL | undefined; range: string | undefined }> {
  // The body itself may take long; silence is bounded by the transport.
  using deadline = new Deadline(
    request.body === undefined ? upload.options.stepDeadlineMs : Number.POSITIVE_INFINITY,
    upload.options.signal,
  );
  const exchange = { ...base(upload), ...request, idleTimeoutMs: upload.options.stepDeadlineMs };
  try {
    const answer = await endpoint.send(exchange, deadline, deadline.signal, 1);
    try {
      if (!expected.includes(answer.status)) throw await upload.requester.statusError(answer, exchange);
      return {
        location: answer.header("location") === undefined ? undefined : locationOf(answer, upload.what),
        range: answer.header("range"),
      };
    } finally {
      await answer.discard();
    }
  } catch (error) {
    if (deadline.ended) throw deadline.error(upload.what, { cause: error });
    throw error;
  }
}

async function cancel(upload: Upload, started: { location: URL; endpoint: Endpoint }): Promise<void> {
  using deadline = new Deadline(Math.min(2_000, upload.options.stepDeadlineMs));
  await started.endpoint
    .send({ method: "DELETE", path: started.location, scopes: upload.scopes, priority: "demand" }, deadline, deadline.signal, 1)
    .then((answer) => answer.discard())
    .catch(() => undefined);
}

function base(upload: Upload): Pick<Exchange, "what" | "scopes" | "capability" | "priority"> {
  return { what: upload.what, scopes: upload.scopes, capability: "push", priority: "demand" };
}

function locationOf(answer: Answer, what: string): URL {
  const text = answer.header("location");
  if (text === undefined)
    throw new RegistryError("REGISTRY_PROTOCOL", `${what}: the registry gave the upload no Location`, { request: answer.request });
  const location = new URL(text, answer.url);
  if (location.host === answer.url.host) location.protocol = answer.url.protocol;
  if (location.origin !== answer.url.origin) {
    throw new RegistryError(
      "REGISTRY_PROTOCOL",
      `${what}: the registry sends uploads to another host (${location.host}); credentials are not sent there`,
      { request: answer.request },
    );
  }
  return location;
}

function sizeError(upload: Upload, found: number): RegistryError {
  return new RegistryError("REGISTRY_DIGEST", `${upload.what}: the source has ${found} bytes (or more) instead of ${upload.options.size}`);
}

/** Hashes and counts what goes out, and checks it against what was promised before the last byte is handed over. */
function countBytes(
  upload: Upload,
  open: () => AsyncIterable<Uint8Array>,
): { body: () => AsyncIterable<Uint8Array>; result: () => { digest: string; size: number }; failure: () => unknown } {
  const { options } = upload;
  let outcome = { digest: "", size: 0 };
  let failure: unknown;
  async function* body(): AsyncGenerator<Uint8Array> {
    const hash = createHash("sha256");
    let size = 0;
    failure = undefined;
    try {
      for await (const piece of open()) {
        if (piece.length === 0) continue;
        size += piece.length;
        if (options.size !== undefined && size > options.size) throw sizeError(upload, size);
        hash.update(piece);
        options.onProgress?.(size);
        yield piece;
      }
      if (options.size !== undefined && size !== options.size) throw sizeError(upload, size);
      outcome = { digest: `sha256:${hash.digest("hex")}`, size };
      if (options.digest?.startsWith("sha256:") && outcome.digest !== options.digest)
        throw digestError(upload.what, options.digest, outcome.digest);
    } catch (error) {
      failure = error;
      throw error;
    }
  }
  return { body, result: () => outcome, failure: () => failure };
}

/** Regroups a stream into pieces of exactly `bytes`, the last one shorter. */
async function* inPieces(source: AsyncIterable<Uint8Array>, bytes: number): AsyncGenerator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let size = 0;
  for await (const part of source) {
    let rest = part;
    while (size + rest.length >= bytes) {
      const take = bytes - size;
      yield Buffer.concat([...waiting, rest.subarray(0, take)]);
      rest = rest.subarray(take);
      waiting = [];
      size = 0;
    }
    if (rest.length > 0) {
      // The producer may reuse its buffer.
      waiting.push(Uint8Array.prototype.slice.call(rest));
      size += rest.length;
    }
  }
  if (size > 0) yield Buffer.concat(waiting);
}

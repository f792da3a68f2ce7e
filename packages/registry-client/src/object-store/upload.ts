import { createHash } from "node:crypto";
import { digestError } from "../digest.ts";
import { RegistryError, xmlText } from "../errors.ts";
import type { Exchange } from "../exchange.ts";
import { Deadline } from "../http/deadline.ts";
import { ANSWER_BYTES_MAX, OBJECT_PART_BYTES, OBJECT_PARTS_AT_ONCE, OBJECT_PARTS_MAX } from "../limits.ts";
import type { Requester } from "../requester.ts";

/** Bytes to store; `open` gives them from the start each time it is called. */
export interface ObjectSource {
  readonly size: number;
  /** `sha256:…` of all of them, if it is known: other bytes are not stored. */
  readonly digest?: string;
  readonly open: () => AsyncIterable<Uint8Array>;
}

export interface PutOptions {
  /** For each exchange, not for the whole object. */
  readonly stepDeadlineMs: number;
  readonly signal?: AbortSignal;
  /** Store it also where it is there. */
  readonly force?: boolean;
  /** Called with the bytes stored so far. */
  readonly onProgress?: (bytes: number) => void;
  /** Larger objects go in parts of at least this size; default OBJECT_PART_BYTES. Stores refuse parts below 5 MiB. */
  readonly partBytes?: number;
}

const sliceBytes = 256 * 1024;

interface Upload {
  readonly requester: Requester;
  readonly kind: "oss" | "s3";
  readonly what: string;
  readonly path: string;
  readonly options: PutOptions;
}

/**
 * One PUT, or a multipart upload of a large object. Each body is kept in memory until the store has it, and is sent with its digest, which
 * the store checks: SHA-256 with s3, MD5 with OSS.
 *
 * @param found  size of what is under the key
 */
export async function putObject(upload: Upload, source: ObjectSource, found: () => Promise<number | undefined>): Promise<void> {
  const wanted = upload.options.partBytes ?? OBJECT_PART_BYTES;
  const partBytes = Math.max(wanted, Math.ceil(source.size / OBJECT_PARTS_MAX / wanted) * wanted);
  const parts = checkedParts(upload.what, source, partBytes);
  if (source.size <= partBytes) {
    const { value } = await parts.next();
    const body = value ?? new Uint8Array(0);
    // Past the last part what was promised is checked.
    await parts.next();
    await step(upload, { method: "PUT", path: upload.path, ...bodyOf(upload.kind, body) });
    upload.options.onProgress?.(source.size);
    return;
  }
  const started = await step(upload, { method: "POST", path: `${upload.path}?uploads=` });
  const id = xmlText(started.text, "UploadId");
  if (id === undefined || id === "") throw new RegistryError("REGISTRY_PROTOCOL", `${upload.what}: the store gave the upload no id`);
  const query = `uploadId=${encodeURIComponent(id)}`;
  try {
    const tags = await sendParts(upload, parts, query);
    await complete(upload, query, tags, source.size, found);
  } catch (error) {
    await abandon(upload, query);
    throw error;
  }
}

/** The parts, side by side as far as their memory allows; their tags in order. */
async function sendParts(upload: Upload, parts: AsyncGenerator<Uint8Array>, query: string): Promise<string[]> {
  const tags: string[] = [];
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  let stored = 0;
  let number = 0;
  const send = async (part: Uint8Array, index: number): Promise<void> => {
    const path = `${upload.path}?partNumber=${index + 1}&${query}`;
    const { tag } = await step(upload, { method: "PUT", path, ...bodyOf(upload.kind, part) });
    if (tag === undefined) throw new RegistryError("REGISTRY_PROTOCOL", `${upload.what}: the store gave part ${index + 1} no ETag`);
    tags[index] = tag;
    stored += part.length;
    upload.options.onProgress?.(stored);
  };
  try {
    for await (const part of parts) {
      const sending: Promise<void> = send(part, number++)
        .catch((error: unknown) => {
          failure ??= { error };
        })
        .finally(() => running.delete(sending));
      running.add(sending);
      while (running.size >= OBJECT_PARTS_AT_ONCE) await Promise.race(running);
      if (failure !== undefined) break;
    }
  } finally {
    // A part that arrives after the upload was given up would stay.
    await Promise.all(running);
  }
  if (failure !== undefined) throw failure.error;
  return tags;
}

async function complete(
  upload: Upload,
  query: string,
  tags: readonly string[],
  size: number,
  found: () => Promise<number | undefined>,
): Promise<void> {
  const list = tags.map((tag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${escapeXml(tag)}</ETag></Part>`).join("");
  const body = Buffer.from(`<CompleteMultipartUpload>${list}</CompleteMultipartUpload>`);
  try {
    const { text } = await step(upload, { method: "POST", path: `${upload.path}?${query}`, ...bodyOf(upload.kind, body) });
    // S3 begins its answer before it is done, so that a failure comes with status 200.
    if (text.includes("<Error>"))
      throw new RegistryError(
        "REGISTRY_SERVER",
        `${upload.what}: the store can not join the parts (${xmlText(text, "Code") ?? "no reason"})`,
      );
  } catch (error) {
    // The answer to an earlier attempt may have been lost: then the upload is gone and the object is there.
    const isGone = error instanceof RegistryError && error.code === "REGISTRY_NOT_FOUND";
    if (!isGone || (await found().catch(() => undefined)) !== size) throw error;
  }
}

async function abandon(upload: Upload, query: string): Promise<void> {
  const { stepDeadlineMs } = upload.options;
  const options = { stepDeadlineMs: Math.min(5_000, stepDeadlineMs) };
  await step({ ...upload, options }, { method: "DELETE", path: `${upload.path}?${query}` }).catch(() => undefined);
}

async function step(
  { requester, what, options }: Upload,
  request: Pick<Exchange, "method" | "path" | "headers" | "body">,
): Promise<{ text: string; tag: string | undefined }> {
  // A body may take long on a slow link; silence may not.
  using deadline = new Deadline(request.body === undefined ? options.stepDeadlineMs : Number.POSITIVE_INFINITY, options.signal);
  const headers = { "content-length": "0" };
  const exchange: Exchange = {
    ...{ what, headers, scopes: [], capability: "push" as const, priority: "demand" as const, idleTimeoutMs: options.stepDeadlineMs },
    ...request,
  };
  return await requester.perform(exchange, deadline, async (answer) => ({
    text: await answer.text(ANSWER_BYTES_MAX),
    tag: answer.header("etag"),
  }));
}

/** The body with what the store checks it against. */
function bodyOf(kind: "oss" | "s3", bytes: Uint8Array): Pick<Exchange, "headers" | "body"> {
  const check: Record<string, string> =
    kind === "s3"
      ? { "x-amz-content-sha256": createHash("sha256").update(bytes).digest("hex") }
      : { "content-md5": createHash("md5").update(bytes).digest("base64") };
  return {
    headers: { ...check, "content-type": "application/octet-stream", "content-length": String(bytes.length) },
    body: () => slices(bytes),
  };
}

/** Handed over piece by piece, each of which shows the connection that it is not silent. */
async function* slices(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += sliceBytes) yield bytes.subarray(at, at + sliceBytes);
}

/** The source in parts of one size but the last. The end is reached only by what was promised. */
async function* checkedParts(what: string, source: ObjectSource, partBytes: number): AsyncGenerator<Uint8Array, undefined> {
  const hash = source.digest === undefined ? undefined : createHash("sha256");
  let read = 0;
  let part = Buffer.allocUnsafe(Math.min(partBytes, source.size));
  let filled = 0;
  for await (const piece of source.open()) {
    hash?.update(piece);
    read += piece.length;
    if (read > source.size) break;
    for (let at = 0; at < piece.length; ) {
      const taken = Math.min(piece.length - at, part.length - filled);
      part.set(piece.subarray(at, at + taken), filled);
      at += taken;
      filled += taken;
      // The last part is handed over below, once all of it was checked.
      if (filled < part.length || read - piece.length + at === source.size) continue;
      yield part;
      part = Buffer.allocUnsafe(Math.min(partBytes, source.size - (read - piece.length + at)));
      filled = 0;
    }
  }
  if (read !== source.size)
    throw new RegistryError(
      "REGISTRY_DIGEST",
      `${what}: the source has ${read} bytes${read > source.size ? " or more" : ""}, not ${source.size}`,
    );
  const found = hash === undefined ? undefined : `sha256:${hash.digest("hex")}`;
  if (source.digest !== undefined && found !== source.digest) throw digestError(what, source.digest, found!);
  yield part;
  return undefined;
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}

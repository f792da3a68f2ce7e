import { RafsError } from "./errors.ts";
import type { RandomAccessSource } from "./random-access.ts";

/** The part of a `FileHandle` of node:fs/promises that is used. */
export interface ReadableFile {
  stat(): Promise<{ readonly size: number }>;
  read(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ readonly bytesRead: number }>;
}

export interface HttpSourceOptions {
  /** `fetch` or one like it, with whatever authorization and retries the host needs. */
  readonly fetch: (url: string, init: { headers: Record<string, string>; signal: AbortSignal }) => Promise<Response>;
  /** For one request, its body included. */
  readonly timeoutMs: number;
}

export function bufferSource(bytes: Uint8Array): RandomAccessSource {
  return { size: bytes.length, read: async (offset, length) => bytes.slice(offset, offset + length) };
}

/** Reads an open file, which the caller closes. @throws RafsError RAFS_SOURCE when the file became shorter */
export async function fileSource(file: ReadableFile): Promise<RandomAccessSource> {
  const { size } = await file.stat();
  return {
    size,
    async read(offset, length) {
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
        if (bytesRead === 0)
          throw new RafsError("RAFS_SOURCE", `the file ends at ${offset + done}, it had ${size} bytes when it was opened`);
        done += bytesRead;
      }
      return bytes;
    },
  };
}

/**
 * Reads ranges over HTTP. Asks for the first byte to learn the size; a server that sends the whole body instead is refused before it
 * is read.
 *
 * @throws RafsError RAFS_SOURCE (status, no ranges, another range or size than before, a body that is cut); what `fetch` throws
 */
export async function httpSource(url: string, options: HttpSourceOptions): Promise<RandomAccessSource> {
  const first = await readRange(url, { offset: 0, length: 1 }, options);
  const { size } = first;
  return {
    size,
    async read(offset, length) {
      const part = await readRange(url, { offset, length }, options);
      if (part.size !== size) throw new RafsError("RAFS_SOURCE", `the size changed from ${size} to ${part.size} bytes`);
      return part.bytes;
    },
  };
}

async function readRange(
  url: string,
  { offset, length }: { offset: number; length: number },
  { fetch, timeoutMs }: HttpSourceOptions,
): Promise<{ bytes: Uint8Array; size: number }> {
  const range = `${offset}-${offset + length - 1}`;
  // An encoded body would be ranges of other bytes.
  const headers = { range: `bytes=${range}`, "accept-encoding": "identity" };
  const response = await fetch(url, { headers, signal: AbortSignal.timeout(timeoutMs) });
  const found = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
  if (response.status !== 206 || found === null || `${found[1]}-${found[2]}` !== range) {
    await response.body?.cancel();
    const given = found === null ? "" : ` with ${found[0]}`;
    throw new RafsError(
      "RAFS_SOURCE",
      `bytes ${range} were answered with status ${response.status}${given}; 206 and that range are needed`,
    );
  }
  return { bytes: await readBody(response, length), size: Number(found[3]) };
}

/** A body of `length` bytes; what comes beyond is not kept. */
async function readBody(response: Response, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  for await (const part of response.body ?? []) {
    if (done + part.length > length) throw new RafsError("RAFS_SOURCE", `a range of ${length} bytes came with more`);
    bytes.set(part, done);
    done += part.length;
  }
  if (done < length) throw new RafsError("RAFS_SOURCE", `a range of ${length} bytes ended after ${done}`);
  return bytes;
}

import { BuilderError } from "../errors.ts";
import { detectCompression } from "../sources/decompress.ts";
import { GzipReader } from "./gzip-reader.ts";
import { PlainTarReader } from "./plain-tar.ts";
import type { LayerInput } from "./ref-writer.ts";

export interface FoundCompression {
  compression: "gzip" | "none";
  /** all of the layer */
  stream: AsyncIterable<Uint8Array>;
}

export function openLayer({ compression, stream }: FoundCompression): LayerInput {
  return compression === "gzip" ? new GzipReader(stream) : new PlainTarReader(stream);
}

/** Looks at the first bytes of a layer that an image shall refer to. @throws BuilderError BUILD_UNSUPPORTED for zstd, BUILD_TAR for an empty source */
export async function detectLayer(source: AsyncIterable<Uint8Array>): Promise<FoundCompression> {
  const iterator = source[Symbol.asyncIterator]();
  const head: Uint8Array[] = [];
  let bytes = 0;
  while (bytes < 4) {
    const next = await iterator.next();
    if (next.done) break;
    // A source may use its buffer again.
    head.push(Uint8Array.from(next.value));
    bytes += next.value.length;
  }
  const compression = detectCompression(Buffer.concat(head));
  const stream = { [Symbol.asyncIterator]: () => prepend(head, iterator) };
  if (compression === "gzip" || (compression === "none" && bytes > 0)) return { compression, stream };
  await iterator.return?.();
  if (bytes === 0) throw new BuilderError("BUILD_TAR", "the source is empty");
  throw new BuilderError("BUILD_UNSUPPORTED", "a layer compressed with zstd can not be referred to: build with --type tar-rafs");
}

async function* prepend(head: readonly Uint8Array[], iterator: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* head;
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value;
  } finally {
    await iterator.return?.();
  }
}

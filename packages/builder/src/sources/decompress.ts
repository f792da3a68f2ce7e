/** Plain bytes of a layer, whatever it is compressed with: told by its first bytes, never by a name or a media type. */
import { pipeline, Readable } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { BuilderError } from "../errors.ts";

export type LayerCompression = "none" | "gzip" | "zstd";

/** Output pieces of this many bytes: with the default of 16 KiB the hand-over costs more than the inflating. */
const pieceBytes = 256 * 1024;

export function detectCompression(head: Uint8Array): LayerCompression {
  if (head[0] === 0x1f && head[1] === 0x8b && head[2] === 0x08) return "gzip";
  if (head[0] === 0x28 && head[1] === 0xb5 && head[2] === 0x2f && head[3] === 0xfd) return "zstd";
  return "none";
}

/**
 * Decompresses while reading. Closing the result closes `source`. A piece is valid until the next is asked for, on both sides.
 * @throws BuilderError BUILD_TAR, when a compressed stream is damaged or ends early
 */
export async function* decompressLayer(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const iterator = source[Symbol.asyncIterator]();
  try {
    let head: Uint8Array = new Uint8Array(0);
    while (head.length < 4) {
      const next = await iterator.next();
      if (next.done) break;
      head = Buffer.concat([head, next.value]);
    }
    const rest = { [Symbol.asyncIterator]: () => iterator };
    const compression = detectCompression(head);
    if (compression === "none") {
      if (head.length > 0) yield head;
      yield* rest;
      return;
    }
    const decoder = compression === "gzip" ? createGunzip({ chunkSize: pieceBytes }) : createZstdDecompress({ chunkSize: pieceBytes });
    const input = Readable.from(gather(head, rest), { objectMode: false, highWaterMark: pieceBytes });
    let sourceFailure: unknown;
    input.on("error", (failure) => {
      sourceFailure = failure;
    });
    pipeline(input, decoder, () => {});
    try {
      for await (const piece of decoder as AsyncIterable<Uint8Array>) {
        yield piece;
        giveBack(piece);
      }
    } catch (failure) {
      if (sourceFailure !== undefined) throw sourceFailure;
      throw new BuilderError("BUILD_TAR", `the ${compression} stream is damaged: ${(failure as Error).message}`, { cause: failure });
    } finally {
      decoder.destroy();
      input.destroy();
    }
  } finally {
    await iterator.return?.();
  }
}

/**
 * Frees a decoder's output buffer behind the last of its pieces. Left to the garbage collector, 64 MiB of them gather before V8 looks.
 * Pieces are views in the order of the bytes, and the decoder writes into no buffer that is full.
 */
function giveBack(piece: Uint8Array): void {
  if (piece.byteLength > 0 && piece.byteOffset + piece.byteLength === piece.buffer.byteLength) (piece.buffer as ArrayBuffer).transfer(0);
}

/** Copies, since the decoder reads ahead and a piece of the source is valid only until the next is asked for; into large pieces, each of which costs the decoder a way to another thread. */
async function* gather(head: Uint8Array, rest: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let gathered = Buffer.allocUnsafeSlow(pieceBytes);
  let filled = 0;
  const take = function* (piece: Uint8Array): Generator<Uint8Array> {
    for (let at = 0; at < piece.length; ) {
      const bytes = Math.min(piece.length - at, pieceBytes - filled);
      gathered.set(piece.subarray(at, at + bytes), filled);
      at += bytes;
      filled += bytes;
      if (filled < pieceBytes) continue;
      yield gathered;
      gathered = Buffer.allocUnsafeSlow(pieceBytes);
      filled = 0;
    }
  };
  yield* take(head);
  for await (const piece of rest) yield* take(piece);
  if (filled > 0) yield gathered.subarray(0, filled);
}

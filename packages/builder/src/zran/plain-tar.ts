import { createHash, type Hash } from "node:crypto";
import { ByteStream } from "../sources/byte-stream.ts";
import type { LayerInput } from "./ref-writer.ts";

/** A tar that is not compressed, hashed while it is read. */
export class PlainTarReader extends ByteStream implements LayerInput {
  readonly #counted: { bytes: number; hash: Hash };

  constructor(source: AsyncIterable<Uint8Array>) {
    const counted = { bytes: 0, hash: createHash("sha256") };
    super(count(source, counted));
    this.#counted = counted;
  }

  get sourceBytes(): number {
    return this.#counted.bytes;
  }

  sourceDigest(): Buffer {
    return this.#counted.hash.copy().digest();
  }
}

async function* count(source: AsyncIterable<Uint8Array>, counted: { bytes: number; hash: Hash }): AsyncGenerator<Uint8Array> {
  for await (const piece of source) {
    counted.bytes += piece.length;
    counted.hash.update(piece);
    yield piece;
  }
}
